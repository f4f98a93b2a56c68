"""Checked GGUF files → the trunk and the MTP layer in llama.cpp, ready to run. Knows no metadata."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from mimo_mobile.errors import ModelLoadError
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.llama.backend import BATCH_TOKENS, MTP_BATCH_TOKENS, OUTPUT_ROWS, LlamaBackend, LlamaMtp
from mimo_mobile.runtime.llama.context import Flag, LlamaContext, LlamaLog
from mimo_mobile.runtime.shared import Shared, Use, file_key

KV_TYPES = {"f32": ("F32", 4.0), "f16": ("F16", 2.0), "int8": ("Q8_0", 34 / 32)}
"""ggml's name of the type, and how many bytes a value takes."""


def open_trunk(
    log: LlamaLog,
    path: Path,
    context_length: int,
    threads: int,
    kv_dtype: KvDtype,
    repack: bool,
    drafter: Path | None,
) -> LlamaBackend:
    """The loaded trunk of ``path``, with the MTP layers' weights of ``drafter``, which may be the same file or another.

    Weights are mapped into memory, once for all that are opened in the same way. Two files are one model in which trunk
    and MTP layers share embedding and head.
    """
    import llama_cpp

    weights, flag = _weights(log, path, repack, drafter), Flag()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context_length
    params.n_batch = params.n_ubatch = min(BATCH_TOKENS, context_length)
    params.n_outputs_max = min(OUTPUT_ROWS, params.n_batch)
    params.n_threads = params.n_threads_batch = threads
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
    _choose_cache(llama_cpp, params, kv_dtype)
    flag.watch(llama_cpp, params)
    try:
        context = _context(log, path, weights.thing, params)
    except BaseException:
        weights.end()
        raise
    return LlamaBackend(path, weights, context, flag, context_length)


def open_mtp(log: LlamaLog, backend: LlamaBackend, threads: int, kv_dtype: KvDtype, tokens: int) -> LlamaMtp:
    """The MTP layer of a model that was opened with its weights."""
    import llama_cpp

    params = llama_cpp.llama_context_default_params()
    params.ctx_type = llama_cpp.LLAMA_CONTEXT_TYPE_MTP
    params.n_ctx = backend.context_length
    params.n_batch = params.n_ubatch = min(MTP_BATCH_TOKENS, backend.context_length)
    params.n_outputs_max = 1
    params.n_threads = params.n_threads_batch = threads
    _choose_cache(llama_cpp, params, kv_dtype)
    return LlamaMtp(_context(log, backend.path, backend.weights.thing, params, reads_hidden=True), tokens)


def _choose_cache(api: Any, params: Any, kv_dtype: KvDtype) -> None:
    """Let a context keep keys and values in a type, and compute attention in float32 when they are float32."""
    params.type_k = params.type_v = getattr(api, f"GGML_TYPE_{KV_TYPES[kv_dtype][0]}")
    if kv_dtype == "f32":  # flash attention turns float32 keys and values into float16 first
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED


def _weights(log: LlamaLog, path: Path, repack: bool, drafter: Path | None) -> Use[Any]:
    return _shared.use(_key(path, repack, drafter), lambda: _model(log, path, repack, drafter))


def has_weights(path: Path, repack: bool, drafter: Path | None) -> bool:
    """Whether the weights of a file are loaded in this way already."""
    return _shared.has(_key(path, repack, drafter))


def _key(path: Path, repack: bool, drafter: Path | None) -> Hashable:
    return file_key(path) if drafter is None else file_key(path, drafter), repack


def _free(model: Any) -> None:
    import llama_cpp

    llama_cpp.llama_model_free(model)


_shared = Shared[Any](_free)
"""llama.cpp's models: weights without a KV cache, on which any number of contexts compute."""


def _model(log: LlamaLog, path: Path, repack: bool, drafter: Path | None) -> Any:
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts, params.load_mtp = repack, drafter is not None
    paths = [os.fsencode(each) for each in dict.fromkeys([drafter or path, path])]
    with log.listening():
        if len(paths) == 1:
            model = llama_cpp.llama_model_load_from_file(paths[0], params)
        else:
            model = llama_cpp.llama_model_load_from_splits((ctypes.c_char_p * 2)(*paths), 2, params)
        if not model:
            raise ModelLoadError(f"{path}: llama.cpp cannot load it: {log.text()}")
    return model


def _context(log: LlamaLog, path: Path, model: Any, params: Any, *, reads_hidden: bool = False) -> LlamaContext:
    import llama_cpp

    with log.listening():
        try:
            return LlamaContext(llama_cpp, model, params, reads_hidden=reads_hidden)
        except MemoryError as error:
            raise ModelLoadError(
                f"{path}: no context of {params.n_ctx} tokens: {log.text()}; take another context length or kv_dtype"
            ) from error
