"""ONNX Runtime as a backend: IOBinding, and one preallocated KV cache that is bound as past and as present."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import BackendUnavailableError, MimoMobileError, ModelLoadError, SessionError, require
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.runtime import memory, prepacked
from mimo_mobile.runtime.memory import MemoryNeed
from mimo_mobile.runtime.session import Cancelled, KvDtype, Session, choose_context_length
from mimo_mobile.runtime.threads import physical_cores
from mimo_mobile.runtime.tokenizer import TextTokenizer

# Microsoft's builds contain an uploader that is on by default; it reads this when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MODEL = "model.onnx"
KV_INT8 = "model.kv-int8.onnx"
BATCH_TOKENS = 128
"""Prompt tokens per run."""

LOGITS_START = "logits_start"
"""The first row that has logits: of a prompt's rows only the last pays lm_head."""

PREPACKED_SIZE = 1.2
"""Prepacked weights over the data file: 544 MB of 451 were measured for blocks of 32."""

logger = logging.getLogger(__name__)

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
_KV_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "int8": "tensor(int8)"}


def load_onnx(
    folder: Path,
    *,
    context_length: int | None = None,
    threads: int | None = None,
    kv_dtype: KvDtype | None = None,
    cache: bool = True,
    spin: bool = True,
) -> Session:
    """A session on a folder that ``mimo convert`` or ``mimo quantize`` wrote.

    Args:
        folder: Holds model.onnx, its data, tokenizer.json, config.json and the chat template.
        context_length: Default: the model's, at most 4096.
        threads: Default: physical cores.
        kv_dtype: ``int8`` takes the graph with an int8 cache; else it must be what model.onnx has built in.
        cache: Keep this CPU's arrangement of the weights on disk and map it, instead of making it at every load.
        spin: Let idle threads wait actively: faster, and more power.

    Raises:
        ModelLoadError: A file is missing, damaged, no decoder with MiMo's inputs, or too large for the memory.
        BackendUnavailableError: The folder has no graph with a cache of ``kv_dtype``.
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = _runtime()
    model = folder / (KV_INT8 if kv_dtype == "int8" else MODEL)
    if kv_dtype == "int8" and not model.is_file():
        raise BackendUnavailableError(f"{folder}: no {KV_INT8}; quantize again for an int8 KV cache, or leave it out")
    tokenizer = TextTokenizer.from_file(folder / "tokenizer.json")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        trained, synthetic = int(config["max_position_embeddings"]), bool(config.get(SYNTHETIC))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"{folder / 'config.json'}: max_position_embeddings expected ({error}); convert again"
        ) from error
    context_length = choose_context_length(folder, context_length, trained)
    session = _open(ort, model, threads or physical_cores(), cache, spin)
    backend = OrtBackend(ort, session, model, context_length, kv_dtype)
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else None
    return Session(backend, tokenizer, template, synthetic=synthetic)


def _runtime() -> Any:
    ort = require("onnxruntime", "onnx")
    ort.disable_telemetry_events()
    return ort


def _open(ort: Any, model: Path, threads: int, cache: bool, spin: bool) -> Any:
    """The InferenceSession, from prepacked weights when there is a cache."""

    def options() -> Any:
        made = ort.SessionOptions()
        made.intra_op_num_threads = threads
        made.inter_op_num_threads = 1
        made.log_severity_level = 4
        made.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        return made

    def start(model: Path) -> Any:
        return ort.InferenceSession(str(model), options(), providers=["CPUExecutionProvider"])

    data = model.with_name(prepacked.DATA)
    weights = int(PREPACKED_SIZE * data.stat().st_size) if data.is_file() else 0
    try:
        ready = prepacked.entry(ort, model) if cache and weights else None
        way = MemoryNeed("prepacked cache", 0, weights) if ready else MemoryNeed("prepacking", weights, 0)
        memory.choose(model.parent, [way])
        if cache and weights and (found := prepacked.prepare(ort, model, options())):
            try:
                return start(found / prepacked.MODEL)
            except Exception as error:  # whatever is wrong with it, the model itself is there
                logger.warning("%s: cannot be loaded, made anew next time: %s", found, _line(error))
                prepacked.discard(ort, model)
        return start(model)
    except MimoMobileError:
        raise
    except Exception as error:  # its exceptions share no public base
        raise ModelLoadError(f"{model}: ONNX Runtime cannot load it: {_line(error)}") from error


class OrtBackend:
    """One InferenceSession and one KV cache on the CPU."""

    def __init__(
        self, ort: Any, session: Any, model: Path, context_length: int, kv_dtype: KvDtype | None = None
    ) -> None:
        """Make room for ``context_length`` tokens beside the session of ``model``.

        Raises:
            ModelLoadError: It is no decoder with MiMo's inputs, or the KV cache does not fit in memory.
            BackendUnavailableError: Its cache is not of ``kv_dtype``.
        """
        self._ort = ort
        self._session = session
        self.context_length = context_length
        inputs = {each.name: each for each in self._session.get_inputs()}
        outputs = {each.name: each for each in self._session.get_outputs()}
        self._past = [name for name in inputs if name.startswith("past_key_values.")]
        others = [name for name in inputs if name not in self._past]
        others += [each.name for each in self._session.get_overridable_initializers()]
        expected = ["attention_mask", "input_ids", LOGITS_START]
        if not self._past or sorted(others) != expected or "logits" not in outputs:
            raise ModelLoadError(
                f"{model}: inputs {', '.join(others)} and {len(self._past)} of a KV cache found; {', '.join(expected)}"
                " and a KV cache expected: convert or quantize the checkpoint again"
            )
        self._vocab_size = int(outputs["logits"].shape[-1])
        self._logits_dtype = _DTYPES[outputs["logits"].type]
        # Always as long as the cache, so that it is bound once: the ones in it say how much of the cache is filled.
        self._mask = np.zeros((1, context_length), np.int64)
        self._ids = np.zeros((1, BATCH_TOKENS), np.int64)
        self._first_row = np.zeros(1, np.int64)
        self._last_row = self._empty_rows(1)
        self._run_options = ort.RunOptions()
        kind = inputs[self._past[0]].type
        if kv_dtype is not None and kind != _KV_TYPES[kv_dtype]:
            built = next((name for name, each in _KV_TYPES.items() if each == kind), kind)
            raise BackendUnavailableError(f"{model}: its KV cache is {built}, {kv_dtype} was asked for; leave it out")
        shapes = {name: (1, inputs[name].shape[1], context_length, inputs[name].shape[3]) for name in self._past}
        kv = sum(math.prod(shape) * np.dtype(_DTYPES[inputs[name].type]).itemsize for name, shape in shapes.items())
        self.kv_bytes_per_token = kv // context_length
        memory.choose(model.parent, [MemoryNeed(f"KV cache of {context_length} tokens", kv, 0)])
        self._kv = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, _DTYPES[inputs[name].type]))
            for name, shape in shapes.items()
        }
        self._binding = self._session.io_binding()
        self._bind(self._binding.bind_input, "attention_mask", self._mask)
        self._bind(self._binding.bind_input, LOGITS_START, self._first_row)
        for name, cache in self._kv.items():
            self._binding.bind_ortvalue_input(name, cache)
            self._binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)

    def decode(self, ids: Sequence[int], position: int, cancel: threading.Event) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [V] of the last, a view that the next call overwrites."""
        try:
            for start in range(0, len(ids), BATCH_TOKENS):
                self._start(cancel)
                chunk = ids[start : start + BATCH_TOKENS]
                wanted = 1 if start + len(chunk) == len(ids) else 0
                self._run(chunk, position + start, self._last_row[:wanted])
        except SessionError:
            if cancel.is_set():
                raise Cancelled from None
            raise
        if cancel.is_set():
            raise Cancelled
        last: NDArray[np.float32] = self._last_row[0].astype(np.float32, copy=False)
        return last

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0."""
        rows = self._empty_rows(len(ids))
        for start in range(0, len(ids), BATCH_TOKENS):
            self._start(threading.Event())
            self._run(ids[start : start + BATCH_TOKENS], start, rows[start : start + BATCH_TOKENS])
        return rows.astype(np.float32, copy=False)

    def cancel(self) -> None:
        """End the run that is under way."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Free the model and its cache."""
        self._binding = self._session = None
        self._kv = {}

    def _empty_rows(self, count: int) -> NDArray[Any]:
        return np.empty((count, self._vocab_size), self._logits_dtype)

    def _start(self, cancel: threading.Event) -> None:
        if cancel.is_set():
            raise Cancelled
        # A new object each time: the flag of one that was cancelled stays set.
        self._run_options = self._ort.RunOptions()

    def _run(self, ids: Sequence[int], position: int, rows: NDArray[Any]) -> None:
        """Put ids at a position; the KV cache is extended in place. Logits of the last go to ``rows`` [0…T, V]."""
        count = len(ids)
        self._ids[0, :count] = ids
        self._mask[0, : position + count] = 1
        self._mask[0, position + count :] = 0
        self._first_row[0] = count - len(rows)
        binding = self._binding
        self._bind(binding.bind_input, "input_ids", self._ids[:, :count])
        self._bind(binding.bind_output, "logits", rows[None])
        try:
            self._session.run_with_iobinding(binding, self._run_options)
        except Exception as error:  # its exceptions share no public base
            raise SessionError(f"ONNX Runtime failed: {_line(error)}") from error

    @staticmethod
    def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
        bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
