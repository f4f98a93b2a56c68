"""Our sessions and the peers' own loops behind one interface, so that all are timed in the same way.

An engine keeps a KV cache. ``fill`` brings it to a depth, from the depth before if the ids begin alike; ``prefill``
and ``decode`` go on from there and forget again what they added: a depth is computed once for all repetitions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mimo_mobile import onnxruntime_library
from mimo_mobile.layout import KV_INT8
from mimo_mobile.runtime import GenerationConfig, Model, load
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.devices.threads import physical_cores


class Engine(Protocol):
    """One loaded model under one runtime."""

    name: str

    def fill(self, ids: Sequence[int]) -> None:
        """Make ``ids`` the content of the KV cache."""

    def prefill(self, ids: Sequence[int]) -> float:
        """Seconds to read ``ids`` after what is filled, up to the logits of the last."""

    def decode(self, count: int) -> float:
        """Seconds a token to generate ``count`` greedily after what is filled."""

    def close(self) -> None:
        """Free the memory."""


class Ours:
    """``mimo_mobile.load`` and its ``Session.generate``: what users call, text and statistics included."""

    def __init__(self, model: Path, context_length: int, kv_dtype: KvDtype = "f16", **options: Any) -> None:
        """Load ``model``; further options are those of ``load``."""
        self.name = "mimo-mobile"
        options = {"speculate": "off"} | options  # as the peers
        self._session: Model = load(model, context_length=context_length, kv_dtype=kv_dtype, **options)
        with self._session.exclusive() as backend:
            self.kv_bytes_per_token = backend.kv_bytes_per_token
        self._ids: list[int] = []

    def fill(self, ids: Sequence[int]) -> None:
        """Make ``ids`` the content of the KV cache."""
        self._ids = list(ids)
        list(self._session.generate(self._ids, GenerationConfig(temperature=0, max_tokens=1)))

    def prefill(self, ids: Sequence[int]) -> float:
        """Seconds to read ``ids`` after what is filled, up to the logits of the last."""
        last = list(self._session.generate([*self._ids, *ids], GenerationConfig(temperature=0, max_tokens=1)))[-1]
        assert last.stats is not None and last.stats.cached_tokens < len(self._ids) + len(ids) - 1
        self.fill(self._ids)  # else a second call would find the new ids in the cache
        return last.stats.time_to_first_token_s

    def decode(self, count: int) -> float:
        """Seconds a token to generate ``count`` greedily after what is filled."""
        config, times = GenerationConfig(temperature=0, max_tokens=count + 1), []
        for token in self._session.generate(self._ids, config):
            if token.token_id is not None:
                times.append(time.perf_counter())
        return (times[-1] - times[0]) / (len(times) - 1)

    def close(self) -> None:
        """Free the memory."""
        self._session.close()


class LlamaLoop:
    """llama.cpp's C API in the shortest loop possible: llama_decode, then the largest logit."""

    def __init__(self, model: Path, context_length: int, kv_dtype: KvDtype = "f16") -> None:
        """Load ``model`` with llama.cpp's defaults, except that sizes are those of our session."""
        import llama_cpp

        self.name, self._api = "llama_decode loop", llama_cpp
        self._model = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context_length, 512, 512
        params.n_threads = params.n_threads_batch = physical_cores()
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0 if kv_dtype == "int8" else llama_cpp.GGML_TYPE_F16
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._depth = 0

    def fill(self, ids: Sequence[int]) -> None:
        """Make ``ids`` the content of the KV cache."""
        self._rewind()
        self._read(ids[self._depth :])
        self._depth = len(ids)

    def prefill(self, ids: Sequence[int]) -> float:
        """Seconds to read ``ids`` after what is filled, up to the logits of the last."""
        self._rewind()
        started = time.perf_counter()
        self._read(ids)
        return time.perf_counter() - started

    def decode(self, count: int) -> float:
        """Seconds a token to generate ``count`` greedily after what is filled."""
        self._rewind()
        token = 1
        started = 0.0
        for index in range(count + 1):
            if index == 1:
                started = time.perf_counter()
            self._read([token])
            pointer = self._api.llama_get_logits_ith(self._context, -1)
            token = int(np.ctypeslib.as_array(pointer, shape=(self._vocab_size,)).argmax())
        return (time.perf_counter() - started) / count

    def close(self) -> None:
        """Free the memory."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _rewind(self) -> None:
        self._api.llama_memory_seq_rm(self._memory, 0, self._depth, -1)

    def _read(self, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), 512):
            tokens = (self._api.llama_token * len(ids[start : start + 512]))(*ids[start : start + 512])
            status = self._api.llama_decode(self._context, self._api.llama_batch_get_one(tokens, len(tokens)))
            if status:
                raise RuntimeError(f"llama_decode failed with status {status}")


class Genai:
    """onnxruntime-genai's Generator, greedy, on the same ONNX folder."""

    def __init__(self, folder: Path, context_length: int, kv_dtype: KvDtype = "f16") -> None:
        """Load ``folder`` with as many threads as ours has."""
        onnxruntime_library.load()  # turns telemetry off, also for what loads the library next
        import onnxruntime_genai as og

        self.name, self._og, self._depth = "onnxruntime-genai", og, 0
        decoder: dict[str, Any] = {"session_options": {"intra_op_num_threads": physical_cores()}}
        if kv_dtype == "int8":
            decoder["filename"] = KV_INT8
        config = og.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": decoder}}))
        self._model = og.Model(config)
        params = og.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, max_length=context_length)
        self._generator = og.Generator(self._model, params)

    def fill(self, ids: Sequence[int]) -> None:
        """Make ``ids`` the content of the KV cache."""
        self._generator.rewind_to(self._depth)
        for start in range(self._depth, len(ids), 512):
            self._generator.append_tokens(np.array([ids[start : start + 512]], np.int32))
        self._depth = len(ids)

    def prefill(self, ids: Sequence[int]) -> float:
        """Seconds to read ``ids`` after what is filled, up to the logits of the last."""
        self._generator.rewind_to(self._depth)
        started = time.perf_counter()
        self._generator.append_tokens(np.array([ids], np.int32))
        return time.perf_counter() - started

    def decode(self, count: int) -> float:
        """Seconds a token to generate ``count`` greedily after what is filled."""
        self._generator.rewind_to(self._depth)
        self._generator.append_tokens(np.array([[1]], np.int32))
        self._generator.generate_next_token()
        started = time.perf_counter()
        for _ in range(count):
            self._generator.generate_next_token()
        return (time.perf_counter() - started) / count

    def close(self) -> None:
        """Free the memory."""
        del self._generator, self._model
