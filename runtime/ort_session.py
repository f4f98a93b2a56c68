"""ONNX Runtime as a backend: IOBinding, and one preallocated KV cache that is bound as past and as present."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import (
    BackendUnavailableError,
    MemoryFullError,
    MimoMobileError,
    ModelLoadError,
    SessionError,
    require,
)
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.runtime import memory, prepacked
from mimo_mobile.runtime.memory import MemoryNeed
from mimo_mobile.runtime.mtp import MtpHead
from mimo_mobile.runtime.ort_graph import BATCH_TOKENS, CachedGraph, first_line
from mimo_mobile.runtime.session import Cancelled, KvDtype, Session, choose_context_length
from mimo_mobile.runtime.speculation import Speculate, costs_file
from mimo_mobile.runtime.threads import physical_cores
from mimo_mobile.runtime.tokenizer import TextTokenizer

# Microsoft's builds contain an uploader that is on by default; it reads this when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MODEL = "model.onnx"
KV_INT8 = "model.kv-int8.onnx"
MTP = "mtp.onnx"

MOST_ROWS = 16
"""Rows of logits at once in decoding: a token, its drafts and padding."""

PREPACKED_SIZE = 1.2
"""Prepacked weights over the data file: 544 MB of 451 were measured for blocks of 32."""

logger = logging.getLogger(__name__)

_KV_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "int8": "tensor(int8)"}


def load_onnx(
    folder: Path,
    *,
    context_length: int | None = None,
    threads: int | None = None,
    kv_dtype: KvDtype | None = None,
    cache: bool = True,
    spin: bool = True,
    speculate: Speculate = "auto",
    mtp_drafts: int = 1,
) -> Session:
    """A session on a folder that ``mimo convert`` or ``mimo quantize`` wrote.

    Args:
        folder: Holds model.onnx, its data, tokenizer.json, config.json and the chat template.
        context_length: Default: the model's, at most 4096.
        threads: Default: physical cores.
        kv_dtype: ``int8`` takes the graph with an int8 cache; else it must be what model.onnx has built in.
        cache: Keep this CPU's arrangement of the weights on disk and map it, instead of making it at every load.
        spin: Let idle threads wait actively: faster, and more power.
        speculate: What drafts; ``mtp`` and ``auto`` load the MTP layer when it is there.
        mtp_drafts: At most so many tokens in a row by the MTP layer, which reads its own output again.

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
    context_length, threads = choose_context_length(folder, context_length, trained), threads or physical_cores()
    graph = CachedGraph(ort, _open(ort, model, threads, cache, spin), model, context_length)
    if kv_dtype is not None and graph.kv_type != _KV_TYPES[kv_dtype]:
        built = next((name for name, each in _KV_TYPES.items() if each == graph.kv_type), graph.kv_type)
        raise BackendUnavailableError(f"{model}: its KV cache is {built}, {kv_dtype} was asked for; leave it out")
    head = None
    if speculate == "mtp" and not (folder / MTP).is_file():
        raise BackendUnavailableError(f"{folder}: no {MTP}; the checkpoint had no MTP layer, take auto or ngram")
    if speculate in ("auto", "mtp") and (folder / MTP).is_file():
        try:
            layer = _open(ort, folder / MTP, threads, cache, spin)
            head = MtpHead(OrtMtp(CachedGraph(ort, layer, folder / MTP, context_length, ["hidden_states"])))
        except MemoryFullError as error:
            if speculate == "mtp":
                raise
            logger.warning("%s; going on without drafts by the MTP layer", error)
    backend = OrtBackend(graph, head)
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else None
    costs = costs_file(model, threads, spin, head is not None) if cache else None
    return Session(
        backend,
        tokenizer,
        template,
        synthetic=synthetic,
        speculate=speculate,
        mtp_drafts=mtp_drafts,
        costs_file=costs,
    )


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
        # Trunk and MTP layer have threads of their own, which would take the cores from each other between two runs.
        made.add_session_config_entry("session.force_spinning_stop", "1")
        return made

    def start(model: Path) -> Any:
        return ort.InferenceSession(str(model), options(), providers=["CPUExecutionProvider"])

    try:
        weights = int(PREPACKED_SIZE * prepacked.weight_bytes(model))
        ready = prepacked.entry(ort, model) if cache and weights else None
        way = MemoryNeed("prepacked cache", 0, weights) if ready else MemoryNeed("prepacking", weights, 0)
        memory.choose(model.parent, [way])
        if cache and weights and (found := prepacked.prepare(ort, model, options())):
            try:
                return start(found / prepacked.MODEL)
            except Exception as error:  # whatever is wrong with it, the model itself is there
                logger.warning("%s: cannot be loaded, made anew next time: %s", found, first_line(error))
                prepacked.discard(ort, model)
        return start(model)
    except MimoMobileError:
        raise
    except Exception as error:  # its exceptions share no public base
        raise ModelLoadError(f"{model}: ONNX Runtime cannot load it: {first_line(error)}") from error


class OrtBackend:
    """The trunk, and the MTP layer beside it when drafts are wanted."""

    def __init__(self, graph: CachedGraph, mtp: MtpHead | None = None) -> None:
        """Drive ``graph``; ``mtp`` is shown all hidden states."""
        self._graph, self.mtp = graph, mtp
        self.context_length, self.kv_bytes_per_token = graph.context_length, graph.kv_bytes_per_token
        self._rows = graph.empty_logits(MOST_ROWS)
        self._hidden = np.empty((BATCH_TOKENS, graph.hidden_size), graph.hidden_dtype)

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [rows, V] of the last, a view that the next call overwrites."""
        try:
            for start in range(0, len(ids), BATCH_TOKENS):
                self._graph.renew()  # first, so that a cancel from here on ends this run
                if cancel.is_set():
                    raise Cancelled
                chunk = ids[start : start + BATCH_TOKENS]
                last = start + len(chunk) == len(ids)
                self._run(chunk, position + start, rows if last else 0, padding if last else 0)
        except SessionError:
            if cancel.is_set():
                raise Cancelled from None
            raise
        if cancel.is_set():
            raise Cancelled
        return self._rows[:rows].astype(np.float32, copy=False)

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0."""
        rows = self._graph.empty_logits(len(ids))
        self._graph.renew()
        for start in range(0, len(ids), BATCH_TOKENS):
            chunk = ids[start : start + BATCH_TOKENS]
            if self.mtp is not None:  # bound for another number of rows
                self._graph.bind_output("hidden_states", self._hidden[None, : len(chunk)])
            self._graph.run(chunk, start, rows[start : start + BATCH_TOKENS])
        return rows.astype(np.float32, copy=False)

    def cancel(self) -> None:
        """End the run that is under way."""
        self._graph.run_options.terminate = True

    def close(self) -> None:
        """Free the model and its cache."""
        self._graph.close()
        if self.mtp is not None:
            self.mtp.close()

    def _run(self, ids: Sequence[int], position: int, rows: int, padding: int) -> None:
        padded = [*ids, *[ids[-1]] * padding] if padding else ids
        if self.mtp is not None:
            self._graph.bind_output("hidden_states", self._hidden[None, : len(padded)])
        self._graph.run(padded, position, self._rows[: rows + padding])
        if self.mtp is not None:
            self.mtp.observe(position, ids, self._hidden[: len(ids)])


class OrtMtp:
    """The MTP layer's graph."""

    def __init__(self, graph: CachedGraph) -> None:
        """Drive ``graph``, whose first run tells which tokens it scores."""
        self._graph = graph
        self._logits = graph.empty_logits(1)
        self._hidden = np.zeros((BATCH_TOKENS, graph.hidden_size), graph.hidden_dtype)
        self._out = np.empty_like(self._hidden)
        self.draft_ids: NDArray[np.int64] = np.empty(graph.logits_size, np.int64)
        graph.bind_output("draft_ids", self.draft_ids)
        self.read(self._hidden[:1], [0], 0)

    def begin(self) -> None:
        """Nothing to do: a row attends to all positions before it, and those are read anew."""

    def read(
        self, hidden: NDArray[np.float32], ids: Sequence[int], position: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Put rows from hidden states [n, E] and their next tokens at ``position``; (last logits [R], state [E])."""
        count = 0
        for start in range(0, len(ids), BATCH_TOKENS):
            count = len(ids[start : start + BATCH_TOKENS])
            self._hidden[:count] = hidden[start : start + count]
            self._graph.bind_input("hidden_states", self._hidden[None, :count])
            self._graph.bind_output("hidden_states_out", self._out[None, :count])
            self._graph.run(ids[start : start + count], position + start, self._logits)
        return self._logits[0].astype(np.float32, copy=False), self._out[count - 1].astype(np.float32)

    def close(self) -> None:
        """Free the layer and its cache."""
        self._graph.close()
