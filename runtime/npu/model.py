"""A model in binaries for an NPU: pieces that run one after the other, windows of fixed size, caches in place.

Tokens that do not fill a window are padded at the end: the padded rows of the cache lie beyond the text and are
overwritten by what comes next. NPUs multiply rows beyond the text by 0 instead of leaving them out, and turn NaN into
numbers that look like right ones: so no NaN may stay in any row. This module knows the folder that ``convert.npu.file``
writes, and no compiler.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import providers
from mimo_mobile.errors import BackendUnavailableError, ModelLoadError, NumericsError, SessionError
from mimo_mobile.layout import DRAFT_IDS, EMBEDDING, read_npu_settings
from mimo_mobile.onnxruntime_library import first_line, is_its_own
from mimo_mobile.providers import QnnOptions
from mimo_mobile.runtime.devices.placement import Placement, joined
from mimo_mobile.runtime.npu import folder as npu_folder
from mimo_mobile.runtime.onnx import graph_check
from mimo_mobile.runtime.onnx.cached_graph import DTYPES
from mimo_mobile.runtime.onnx.kv_cache import KvCache
from mimo_mobile.socs import soc_named

_LOADING = threading.Lock()
"""Held while the sessions of a shared binary are made."""


class Piece:
    """One piece of the model: a session for each window, all on the same caches."""

    def __init__(self, sessions: Mapping[int, Any], cache: KvCache, arrays: Mapping[int, Mapping[str, NDArray[Any]]]):
        """Bind, once, ``cache`` and for each window the ``arrays`` by input and output name."""
        self.sessions = sessions
        self._arrays = arrays  # a binding keeps no array alive
        self._bindings = {}
        for window, session in sessions.items():
            binding = session.io_binding()
            for value in session.get_inputs():
                if value.name in cache.values:
                    binding.bind_ortvalue_input(value.name, cache.values[value.name])
                else:
                    array = arrays[window][value.name]
                    binding.bind_input(value.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            for value in session.get_outputs():
                past = value.name.replace("present", "past_key_values")
                if past in cache.values:
                    binding.bind_ortvalue_output(value.name, cache.values[past])
                else:
                    array = arrays[window][value.name]
                    binding.bind_output(value.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._bindings[window] = binding

    def close(self) -> None:
        """Free the sessions: the one that loaded a shared binary came first, and goes last."""
        self._bindings = {}
        sessions, self.sessions = dict(self.sessions), {}
        while sessions:
            sessions.popitem()

    def run(self, window: int) -> None:
        """Compute from the bound input arrays to the bound output arrays.

        Raises:
            SessionError: The provider failed.
        """
        try:
            self.sessions[window].run_with_iobinding(self._bindings[window])
        except Exception as error:  # its exceptions share no public base
            if not is_its_own(error):
                raise
            raise SessionError(f"the NPU failed: {first_line(error)}") from error


class NpuModel:
    """The pieces in a folder of binaries, with their caches.

    Attributes:
        settings: What the folder's npu.json says.
        context_length: Tokens that the caches hold.
        windows: Tokens in one run, the largest first; a single one is for prompts, and there is no head then.
        cache: The trunk's KV cache, which a graph on the CPU can share.
    """

    def __init__(self, ort: Any, folder: Path, options: QnnOptions) -> None:
        """Load all pieces, none of which may leave anything to the CPU.

        Raises:
            ModelLoadError: A file is missing or damaged.
            BackendUnavailableError: The NPU does not take a piece.
        """
        self._ort, self._folder, self._options = ort, folder, options
        self.settings = settings = read_npu_settings(folder)
        self.context_length, self.windows = settings.context_length, settings.windows
        embedding = folder.parent / EMBEDDING
        graph_check.check(embedding, "embedding")
        try:
            quiet = ort.SessionOptions()
            quiet.log_severity_level = 4
            self._embedding = ort.InferenceSession(str(embedding), quiet, providers=[providers.CPU])
        except Exception as error:  # its exceptions share no public base
            raise ModelLoadError(f"{embedding}: cannot be loaded: {first_line(error)}; compile again") from error
        trunk = [self._sessions(f"layers-{part}", self.windows) for part in range(len(settings.layers))]
        head = self._sessions("head", [2, 1]) if settings.computes_tokens else {}
        first = trunk[0][self.windows[-1]].get_inputs()
        x = next(each for each in first if each.name == "x")
        self.hidden_size, self.dtype = int(x.shape[-1]), DTYPES[x.type]
        self.logits_size = int(head[1].get_outputs()[0].shape[-1]) if head else 0
        self.cache = self._empty_cache(trunk)
        self._length = np.zeros(1, np.int32)
        # Two arrays for each window, written and read in turns by one piece after the other.
        self._states = {
            window: [np.zeros((1, window, self.hidden_size), self.dtype) for _ in range(2)] for window in self.windows
        }
        self._pieces = [
            Piece(sessions, self.cache, {w: self._around(w, part) for w in self.windows})
            for part, sessions in enumerate(trunk)
        ]
        heads = {w: np.zeros((1, w, self.hidden_size), self.dtype) for w in head}
        logits = {w: np.zeros((1, w, self.logits_size), self.dtype) for w in head}
        self._heads, self._logits = heads, logits
        self._head = Piece(head, KvCache(ort, {}), {w: {"x": heads[w], "logits": logits[w]} for w in head})

    def _around(self, window: int, part: int) -> dict[str, NDArray[Any]]:
        states = self._states[window]
        return {"x": states[part % 2], "x_out": states[(part + 1) % 2], "seqlens_k": self._length}

    def _sessions(self, piece: str, windows: Sequence[int]) -> dict[int, Any]:
        paths = {window: self._folder / f"{piece}.{window}.onnx" for window in windows}
        if missing := [path for path in paths.values() if not path.is_file()]:
            raise ModelLoadError(f"{missing[0]}: missing; compile again: mimo quantize … --target qnn")
        binaries = [graph_check.check_compiled(path, piece.partition("-")[0]) for path in paths.values()]
        if shared := len(set(binaries)) < len(binaries):
            self._require_npu(paths[windows[0]])
        # ORT's QNN provider loads a shared binary for the first session and keeps the other graphs for the next ones,
        # in a place that all of the process has; it refuses the binary while one of its graphs is there:
        # https://github.com/onnxruntime/onnxruntime-qnn/blob/cee6c0d91e583d43f5ecef6391e93c19b4042c0f/onnxruntime/core/providers/qnn/qnn_execution_provider.cc#L1500
        with _LOADING if shared else nullcontext():
            return {window: self._session(path, shared) for window, path in paths.items()}

    def _require_npu(self, path: Path) -> None:
        devices = providers.register(self._ort, providers.PROVIDERS["qnn"])
        if not any(device.device.type.name == "NPU" for device in devices):
            raise BackendUnavailableError(
                f"{path}: its windows have one copy of the weights, which QNN's simulator cannot load, and there is no"
                " NPU here; to run it here compile with --no-shared"
            )

    def _session(self, path: Path, shared: bool) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1  # there is nothing on the CPU
        options.add_session_config_entry(providers.NO_FALLBACK, "1")
        options.add_session_config_entry(providers.RECORD, "1")
        if shared:
            options.add_session_config_entry(providers.SHARE, "1")
        soc_model = str(soc_named(self.settings.soc).model)
        providers.attach(self._ort, options, "qnn", self._options, soc_model=soc_model)
        try:
            return self._ort.InferenceSession(str(path), options)
        except Exception as error:  # its exceptions share no public base
            raise BackendUnavailableError(
                f"{path}: the NPU does not take it: {first_line(error)}; compiled for {self.settings.soc} with"
                f" {self.settings.made_with}"
            ) from error

    def _empty_cache(self, parts: Sequence[Mapping[int, Any]]) -> KvCache:
        inputs = [each for sessions in parts for each in next(iter(sessions.values())).get_inputs()]
        past = [each for each in inputs if each.name.startswith("past_key_values.")]
        return KvCache(self._ort, {each.name: (tuple(each.shape), DTYPES[each.type]) for each in past})

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token in the cache."""
        return self.cache.nbytes // self.context_length

    def window(self, tokens: int, position: int) -> int:
        """The window for so many tokens at a position: the smallest that holds them, or the largest that has room."""
        fitting = [each for each in self.windows if position + each <= self.context_length]
        holding = [each for each in fitting if each >= tokens]
        return min(holding) if holding else max(fitting)

    def reach(self, tokens: int, position: int) -> int:
        """How many of so many tokens at a position go through windows; near the context's end a prompt's do not fit."""
        return min(tokens, (self.context_length - position) // self.windows[-1] * self.windows[-1])

    def embed(self, ids: Sequence[int], out: NDArray[Any]) -> None:
        """Write rows of the embedding to ``out`` [n, E]; the rows after ``ids`` become 0."""
        out[len(ids) :] = 0  # what stood there may be a result, and would grow from run to run
        out[: len(ids)] = self._embedding.run(["x"], {"input_ids": np.array([ids], np.int64)})[0][0]

    def hidden(self, ids: Sequence[int], position: int, window: int) -> NDArray[Any]:
        """The trunk's last hidden states [n, E] of ``ids`` at ``position``, a view.

        Raises:
            NumericsError: The NPU computed NaN or infinity.
        """
        self.embed(ids, self._states[window][0][0])
        self._length[0] = position + window - 1
        for piece in self._pieces:
            piece.run(window)
        self.check(self.cache, position, window, *self._states[window])
        states: NDArray[Any] = self._states[window][len(self._pieces) % 2][0, : len(ids)]
        return states

    def check(self, cache: KvCache, position: int, tokens: int, *states: NDArray[Any]) -> None:
        """See that the rows that a run wrote to ``cache``, and its hidden ``states``, are numbers.

        Raises:
            NumericsError: They are not; those rows of the cache and all behind them are 0 now.
        """
        if cache.is_finite(position, position + tokens) and all(np.isfinite(each).all() for each in states):
            return
        cache.clear(position)
        raise NumericsError(
            f"{self._folder} computed NaN or infinity for tokens from {position} on: the file is damaged, or numbers"
            " are too large for float16; see `mimo inspect --verify`, and if that finds nothing take ep cpu"
        )

    def logits(self, hidden: NDArray[Any]) -> NDArray[np.float32]:
        """The logits [n, V] of hidden states [n, E], of which there are none where the CPU computes tokens."""
        made = np.empty((len(hidden), self.logits_size), np.float32)
        for start in range(0, len(hidden), 2):
            count = min(2, len(hidden) - start)
            self._heads[count][0] = hidden[start : start + count]
            self._head.run(count)
            made[start : start + count] = self._logits[count][0]
        return made

    def mtp_layer(self) -> NpuMtp | None:
        """The MTP layer, or None when it was not compiled."""
        if not self.settings.mtp:
            return None
        sessions, head = self._sessions("mtp", self.windows), self._sessions("draft_head", [1])
        draft_ids, size = npu_folder.draft_ids(self._folder), int(head[1].get_outputs()[0].shape[-1])
        if len(draft_ids) != size or draft_ids.max() >= self.logits_size:
            raise ModelLoadError(
                f"{self._folder / DRAFT_IDS}: {len(draft_ids)} tokens up to {draft_ids.max()} found, {size} below"
                f" {self.logits_size} expected; compile again"
            )
        return NpuMtp(self, sessions, head, draft_ids)

    def cache_of(self, sessions: Mapping[int, Any]) -> KvCache:
        """A KV cache for one more piece."""
        return self._empty_cache([sessions])

    def placement(self) -> Placement:
        """Where the pieces that one step runs are placed."""
        sizes = self.settings.sizes
        weights, nodes = {EMBEDDING: sizes[EMBEDDING]}, dict[str, list[Any]]()
        pieces = [(f"layers-{index}", piece.sessions) for index, piece in enumerate(self._pieces)]
        for name, session in [
            (f"{name}.{min(sessions)}", sessions[min(sessions)])
            for name, sessions in [*pieces, ("head", self._head.sessions)]
            if sessions
        ]:
            for part in session.get_provider_graph_assignment_info():
                ep = "qnn" if part.ep_name == providers.PROVIDERS["qnn"].ort_name else part.ep_name
                found = part.get_nodes()
                nodes.setdefault(ep, []).extend(SimpleNamespace(name=name, op_type=node.op_type) for node in found)
            weights[name] = sizes.get(name, 0)
        nodes["cpu"] = [SimpleNamespace(name=EMBEDDING, op_type="GatherBlockQuantized")]
        placed = joined("qnn", nodes, weights)
        return dataclasses.replace(placed, reasons={"GatherBlockQuantized": "rows are looked up on the CPU"})

    def close(self) -> None:
        """Free the NPU's memory."""
        for piece in (*self._pieces, self._head):
            piece.close()
        self._pieces = []
        del self.cache


class NpuMtp:
    """The MTP layer on the NPU."""

    def __init__(
        self, model: NpuModel, sessions: Mapping[int, Any], head: Mapping[int, Any], draft_ids: NDArray[np.int64]
    ) -> None:
        """Drive ``sessions`` and ``head`` with the embedding of ``model``."""
        self._model, self.draft_ids = model, draft_ids
        self.hidden_size = size = model.hidden_size
        self._length = np.zeros(1, np.int32)
        self._arrays = {
            window: {name: np.zeros((1, window, size), model.dtype) for name in ("x", "hidden_states", "x_out")}
            for window in sessions
        }
        arrays = {window: {**each, "seqlens_k": self._length} for window, each in self._arrays.items()}
        self._cache = model.cache_of(sessions)
        self._piece = Piece(sessions, self._cache, arrays)
        self._x = np.zeros((1, 1, size), model.dtype)
        self._logits = np.zeros((1, 1, len(draft_ids)), model.dtype)
        self._head = Piece(head, model.cache_of({1: head[1]}), {1: {"x": self._x, "logits": self._logits}})

    def begin(self) -> None:
        """Do nothing: a row attends to all positions before it, and those are read anew."""

    def read(self, hidden: NDArray[np.float32], ids: Sequence[int], position: int) -> tuple[NDArray[np.float32], None]:
        """Put rows from hidden states [n, E] and their next tokens at ``position``; the last row's logits [R]."""
        start = 0
        while start < len(ids):
            window = self._model.window(len(ids) - start, position + start)
            part = ids[start : start + window]
            arrays = self._arrays[window]
            self._model.embed(part, arrays["x"][0])
            arrays["hidden_states"][0, : len(part)] = hidden[start : start + len(part)]
            self._length[0] = position + start + window - 1
            self._piece.run(window)
            self._model.check(self._cache, position + start, window, arrays["x_out"])
            self._x[0, 0] = arrays["x_out"][0, len(part) - 1]
            start += len(part)
        self._head.run(1)
        return self._logits[0, 0].astype(np.float32), None

    def state(self, tokens: int) -> dict[str, NDArray[Any]]:
        """A copy of the first ``tokens`` rows."""
        return self._cache.copy(tokens, "mtp.")

    def restore(self, arrays: Mapping[str, NDArray[Any]], tokens: int) -> None:
        """Put a state back."""
        self._cache.fill(arrays, "mtp.", tokens)

    def close(self) -> None:
        """Free it."""
        self._piece.close()
        self._head.close()
