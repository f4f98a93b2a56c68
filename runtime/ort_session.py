"""ONNX Runtime as a backend: IOBinding, and one preallocated KV cache that is bound as past and as present."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import ModelLoadError, SessionError, require
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.runtime.session import Cancelled, Session, choose_context_length
from mimo_mobile.runtime.threads import physical_cores
from mimo_mobile.runtime.tokenizer import TextTokenizer

# Microsoft's builds contain an uploader that is on by default; it reads this when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MODEL = "model.onnx"
BATCH_TOKENS = 128
"""Prompt tokens per run: the largest rows of logits are one batch's."""

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def load_onnx(folder: Path, *, context_length: int | None = None, threads: int | None = None) -> Session:
    """A session on a folder that ``mimo convert`` or ``mimo quantize`` wrote.

    Args:
        folder: Holds model.onnx, its data, tokenizer.json, config.json and the chat template.
        context_length: Default: the model's, at most 4096.
        threads: Default: physical cores.

    Raises:
        ModelLoadError: A file is missing, damaged or no decoder with MiMo's inputs.
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = _runtime()
    tokenizer = TextTokenizer.from_file(folder / "tokenizer.json")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        trained, synthetic = int(config["max_position_embeddings"]), bool(config.get(SYNTHETIC))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"{folder / 'config.json'}: max_position_embeddings expected ({error}); convert again"
        ) from error
    context_length = choose_context_length(folder, context_length, trained)
    backend = OrtBackend(ort, folder, context_length, threads or physical_cores())
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else None
    return Session(backend, tokenizer, template, synthetic=synthetic)


def _runtime() -> Any:
    ort = require("onnxruntime", "onnx")
    ort.disable_telemetry_events()
    return ort


class OrtBackend:
    """One InferenceSession and one KV cache on the CPU."""

    def __init__(self, ort: Any, folder: Path, context_length: int, threads: int) -> None:
        """Load ``folder``/model.onnx; its data file is mapped into memory.

        Raises:
            ModelLoadError: ONNX Runtime refuses the file, or it is no decoder with MiMo's inputs.
        """
        self._ort = ort
        self.context_length = context_length
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session: Any = ort.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no public base
            raise ModelLoadError(f"{folder / MODEL}: ONNX Runtime cannot load it: {_line(error)}") from error
        inputs = {each.name: each for each in self._session.get_inputs()}
        outputs = {each.name: each for each in self._session.get_outputs()}
        self._past = [name for name in inputs if name.startswith("past_key_values.")]
        others = [name for name in inputs if name not in self._past]
        if not self._past or sorted(others) != ["attention_mask", "input_ids"] or "logits" not in outputs:
            raise ModelLoadError(
                f"{folder / MODEL}: inputs {', '.join(others)} and {len(self._past)} of a KV cache found; input_ids,"
                " attention_mask and a KV cache expected: convert the checkpoint with `mimo convert --to onnx`"
            )
        self._vocab_size = int(outputs["logits"].shape[-1])
        self._logits_dtype = _DTYPES[outputs["logits"].type]
        self._mask = np.ones((1, context_length), np.int64)
        self._binding = self._session.io_binding()
        self._run_options = ort.RunOptions()
        self._kv = []
        for name in self._past:
            _, heads, _, dim = inputs[name].shape
            shape = 1, heads, context_length, dim
            cache = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, _DTYPES[inputs[name].type]))
            self._binding.bind_ortvalue_input(name, cache)
            self._binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
            self._kv.append(cache)

    def decode(self, ids: Sequence[int], position: int, cancel: threading.Event) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [V] of the last."""
        logits = np.empty(0, np.float32)
        for start in range(0, len(ids), BATCH_TOKENS):
            # A new object each time: the flag of one that was cancelled stays set.
            self._run_options = self._ort.RunOptions()
            if cancel.is_set():
                raise Cancelled
            try:
                logits = self._run(ids[start : start + BATCH_TOKENS], position + start)
            except SessionError:
                if cancel.is_set():
                    raise Cancelled from None
                raise
        if cancel.is_set():
            raise Cancelled
        last: NDArray[np.float32] = logits[-1]
        return last

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0."""
        self._run_options = self._ort.RunOptions()
        starts = range(0, len(ids), BATCH_TOKENS)
        return np.concatenate([self._run(ids[start : start + BATCH_TOKENS], start).copy() for start in starts])

    def cancel(self) -> None:
        """End the run that is under way."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Free the model and its cache."""
        self._binding = self._session = None
        self._kv = []

    def _run(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """The logits [T, V] of ids at a position; the KV cache is extended in place."""
        tokens = np.array([ids], np.int64)
        logits = np.empty((1, len(ids), self._vocab_size), self._logits_dtype)
        self._bind(self._binding.bind_input, "input_ids", tokens)
        self._bind(self._binding.bind_input, "attention_mask", self._mask[:, : position + len(ids)])
        self._bind(self._binding.bind_output, "logits", logits)
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:  # its exceptions share no public base
            raise SessionError(f"ONNX Runtime failed: {_line(error)}") from error
        rows: NDArray[np.float32] = logits[0].astype(np.float32, copy=False)
        return rows

    @staticmethod
    def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
        bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
