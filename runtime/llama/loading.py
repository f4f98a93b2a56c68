"""A GGUF file → a session on llama.cpp, through llama-cpp-python's low-level binding.

Files are checked before llama.cpp sees them: some bad values make it abort the whole process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mimo_mobile.errors import BackendUnavailableError, ModelLoadError, require
from mimo_mobile.layout import PAIR_ID, mtp_file
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.decode.speculator import speculator_for
from mimo_mobile.runtime.devices import memory
from mimo_mobile.runtime.devices.memory import MemoryNeed
from mimo_mobile.runtime.devices.threads import default_threads
from mimo_mobile.runtime.llama.backend import BATCH_TOKENS, MTP_BATCH_TOKENS, OUTPUT_ROWS, LlamaBackend, LlamaMtp
from mimo_mobile.runtime.llama.context import Flag, LlamaContext, LlamaLog, llama_log
from mimo_mobile.runtime.llama.gguf_header import GgufHeader
from mimo_mobile.runtime.load_config import LoadConfig, Speculate
from mimo_mobile.runtime.model import Model
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

MTP_ARCHITECTURE = "step35"
ARCHITECTURES = ("qwen2", MTP_ARCHITECTURE)
"""The architecture that a trunk's file names: the first when it is alone, the second with its MTP layer in the file."""

_WAIT_POLICY = "OMP_WAIT_POLICY"
_KV_TYPES = {"f32": ("F32", 4.0), "f16": ("F16", 2.0), "int8": ("Q8_0", 34 / 32)}
"""ggml's name of the type, and how many bytes a value takes."""

_LIMITS = {
    "block_count": (1, 512),
    "context_length": (1, 1 << 24),
    "embedding_length": (1, 1 << 20),
    "feed_forward_length": (1, 1 << 24),
    "attention.head_count": (1, 1 << 12),
    "attention.head_count_kv": (1, 1 << 12),
}
"""The least and the largest value of each key: llama.cpp aborts on some values outside instead of refusing the file."""


def load_gguf(path: Path, config: LoadConfig) -> Model:
    """The model in a GGUF file.

    With f32 as ``kv_dtype`` flash attention is off, too, which serves comparisons. The first load decides for the
    whole process whether idle threads ``spin``.

    Raises:
        ModelLoadError: The file is no MiMo-7B, is damaged, or is too large for the memory.
        BackendUnavailableError: More than one draft by the MTP layer is asked for, or no MTP layer is there; ``spin``
            is false, but llama.cpp was loaded with active waiting before; or llama.cpp ran before this process was
            forked.
        MissingDependencyError: llama-cpp-python is not installed.
    """
    if config.mtp_drafts > 1:
        raise BackendUnavailableError("llama.cpp drafts one token with an MTP layer; leave mtp_drafts at 1")
    if not config.spin:
        _wait_passively()
    require("llama_cpp", "gguf")
    log = llama_log()
    kv_dtype = config.kv_dtype or "f16"
    with GgufHeader(path) as header:
        trained = _check(header)
        tokenizer = TextTokenizer.from_gguf(header)
        template = header.value("tokenizer.chat_template")
        synthetic = header.value(SYNTHETIC) is True
        context_length = config.choose_context_length(path, trained)
        per_token = _kv_bytes_per_token(header, kv_dtype)
        norm = header.float32("output_norm.weight")
        drafter = _drafter(header, config.speculate)
        drafters = [drafter] if drafter is None or config.speculate == "mtp" else [drafter, None]
        repacks = [config.repack] if config.repack is not None else [True, False]
        ways = [
            (_need(header, context_length, per_token, way, each), way, each) for way in repacks for each in drafters
        ]
    chosen = memory.choose(path, [need for need, _, _ in ways])
    repack, drafter = next((way, each) for need, way, each in ways if need is chosen)
    threads = config.threads or default_threads(path)
    backend = _open(log, path, context_length, threads, kv_dtype, repack, mtp=drafter == path)
    try:
        backend.kv_bytes_per_token = per_token
        if drafter is not None:
            backend.draft_with(MtpHead(_open_mtp(log, backend, drafter, threads, repack, tokenizer.size)), norm)
        key = (path, threads, kv_dtype, repack, config.spin, drafter is not None)
        return Model(
            backend,
            tokenizer,
            template if isinstance(template, str) else None,
            speculator=speculator_for(backend, config, *key),
            synthetic=synthetic,
        )
    except BaseException:
        backend.close()
        raise


def _check(header: GgufHeader) -> int:
    """The context length that the model was trained for, when all values are within their limits."""
    architecture = header.value("general.architecture")
    if architecture not in ARCHITECTURES or header.tensor_bytes("blk.0.ffn_gate_inp.weight"):
        raise ModelLoadError(
            f"{header.path}: architecture {architecture!r} found, {ARCHITECTURES[0]!r} (MiMo-7B's) expected"
        )
    if architecture == MTP_ARCHITECTURE and not header.tensor_bytes("blk.0.attn_norm.weight"):
        raise ModelLoadError(
            f"{header.path}: holds an MTP layer only; load the trunk beside it (the name without -mtp)"
        )
    for key, (least, most) in _LIMITS.items():
        value = header.value(f"{architecture}.{key}")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ModelLoadError(f"{header.path}: {key} {value!r} found, {least}…{most} expected; a damaged file")
    if architecture == MTP_ARCHITECTURE:
        _check_mtp(header)
    return int(header.value(f"{architecture}.context_length"))


def _check_mtp(header: GgufHeader) -> None:
    """Refuse a file with MTP layers on whose values llama.cpp would abort."""
    layers, mtp = (header.value(f"{MTP_ARCHITECTURE}.{key}") for key in ("block_count", "nextn_predict_layers"))
    if not isinstance(layers, int) or not isinstance(mtp, int) or not 1 <= mtp < layers <= _LIMITS["block_count"][1]:
        raise ModelLoadError(f"{header.path}: {mtp!r} MTP layers among {layers!r} found; convert the checkpoint again")
    windows = header.truths(f"{MTP_ARCHITECTURE}.attention.sliding_window_pattern")
    if len(windows) != layers or not any(windows):
        raise ModelLoadError(f"{header.path}: a sliding window for {layers} layers expected; convert it again")


def _check_pair(trunk: GgufHeader, mtp: GgufHeader) -> None:
    """Check that an MTP file belongs to the same model as the trunk."""
    keys = "embedding_length", "context_length", "attention.head_count", "attention.head_count_kv"
    architecture = trunk.value("general.architecture")
    found = [(trunk.value(f"{architecture}.{key}"), mtp.value(f"{MTP_ARCHITECTURE}.{key}")) for key in keys]
    ids = trunk.value(PAIR_ID), mtp.value(PAIR_ID)  # earlier versions wrote none
    found += [ids] if None not in ids else []
    tokens = "tokenizer.ggml.token_type"
    if any(first != second for first, second in found) or trunk.integers(tokens) != mtp.integers(tokens):
        raise ModelLoadError(f"{mtp.path}: belongs to another model than {trunk.path.name}; quantize both together")


def _drafter(header: GgufHeader, speculate: Speculate) -> Path | None:
    """The file with the MTP layer, which is the model's own or one beside it; None when nothing is there or wanted."""
    if speculate not in ("auto", "mtp"):
        return None
    path = header.path
    beside = mtp_file(path)
    if header.value("general.architecture") == MTP_ARCHITECTURE:
        return path
    if beside.is_file():
        with GgufHeader(beside) as other:
            if other.value("general.architecture") == MTP_ARCHITECTURE:
                _check_mtp(other)
                _check_pair(header, other)
                return beside
    if speculate == "mtp":
        raise BackendUnavailableError(f"{beside}: no MTP layer there; quantize again, or take auto or ngram")
    return None


def _kv_bytes_per_token(header: GgufHeader, kv_dtype: KvDtype) -> int:
    architecture = header.value("general.architecture")
    keys = "block_count", "embedding_length", "attention.head_count", "attention.head_count_kv"
    layers, width, heads, kv_heads = (int(header.value(f"{architecture}.{key}")) for key in keys)
    head_dim = int(header.value(f"{architecture}.attention.key_length") or width // heads)
    return int(2 * layers * kv_heads * head_dim * _KV_TYPES[kv_dtype][1])


def _need(
    header: GgufHeader, context_length: int, kv_bytes_per_token: int, repack: bool, drafter: Path | None
) -> MemoryNeed:
    """How much memory one way of loading needs."""
    architecture = header.value("general.architecture")
    keys = "feed_forward_length", "embedding_length", "block_count"
    ffn, hidden, layers = (int(header.value(f"{architecture}.{key}")) for key in keys)
    # The widest activations of a batch: gate, up and product, beside the residual stream.
    rest = context_length * kv_bytes_per_token + BATCH_TOKENS * 4 * (3 * ffn + 4 * hidden)
    weights, embeddings = header.path.stat().st_size, header.tensor_bytes("token_embd.weight")
    way = "repacked" if repack else "not repacked"
    if drafter is not None:
        way += ", with its MTP layer"
        rest += context_length * kv_bytes_per_token // layers
        if drafter != header.path:  # which has an embedding of its own
            weights, embeddings = weights + drafter.stat().st_size, 2 * embeddings
    return MemoryNeed(way, weights - embeddings + rest, embeddings) if repack else MemoryNeed(way, rest, weights)


def _open(
    log: LlamaLog, path: Path, context_length: int, threads: int, kv_dtype: KvDtype, repack: bool, *, mtp: bool
) -> LlamaBackend:
    """The loaded trunk, with its MTP layers' weights when ``mtp`` is true; weights are mapped into memory."""
    import llama_cpp

    model, flag = _model(log, path, repack, mtp=mtp), Flag()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context_length
    params.n_batch = params.n_ubatch = min(BATCH_TOKENS, context_length)
    params.n_outputs_max = min(OUTPUT_ROWS, params.n_batch)
    params.n_threads = params.n_threads_batch = threads
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
    params.type_k = params.type_v = getattr(llama_cpp, f"GGML_TYPE_{_KV_TYPES[kv_dtype][0]}")
    if kv_dtype == "f32":  # the exact mode, for comparisons: flash attention computes in float16
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    flag.watch(llama_cpp, params)
    try:
        context = _context(log, path, model, params)
    except ModelLoadError:
        llama_cpp.llama_model_free(model)
        raise
    return LlamaBackend(llama_cpp, path, model, context, flag, context_length)


def _open_mtp(log: LlamaLog, backend: LlamaBackend, path: Path, threads: int, repack: bool, tokens: int) -> LlamaMtp:
    """Load the MTP layer of ``path``, or take it from the trunk's model when it is there."""
    import llama_cpp

    own_model = path != backend.path
    model = _model(log, path, repack, mtp=True) if own_model else backend.model
    params = llama_cpp.llama_context_default_params()
    params.ctx_type = llama_cpp.LLAMA_CONTEXT_TYPE_MTP
    params.n_ctx = backend.context_length
    params.n_batch = params.n_ubatch = min(MTP_BATCH_TOKENS, backend.context_length)
    params.n_outputs_max = 1
    params.n_threads = params.n_threads_batch = threads
    try:
        context = _context(log, path, model, params, reads_hidden=True)
    except ModelLoadError:
        if own_model:
            llama_cpp.llama_model_free(model)
        raise
    return LlamaMtp(llama_cpp, model, context, tokens, own_model=own_model)


def _model(log: LlamaLog, path: Path, repack: bool, *, mtp: bool) -> Any:
    import llama_cpp

    log.clear()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts, params.load_mtp = repack, mtp
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelLoadError(f"{path}: llama.cpp cannot load it: {log.text()}")
    return model


def _context(log: LlamaLog, path: Path, model: Any, params: Any, *, reads_hidden: bool = False) -> LlamaContext:
    import llama_cpp

    try:
        return LlamaContext(llama_cpp, model, params, reads_hidden=reads_hidden)
    except MemoryError as error:
        raise ModelLoadError(f"{path}: no context of {params.n_ctx} tokens: {log.text()}; use a smaller one") from error


def _wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait; OpenMP reads this setting only when it is loaded.

    Raises:
        BackendUnavailableError: OpenMP is loaded already, and its threads wait actively.
    """
    libraries = Path("/proc/self/maps")
    loaded = "libgomp" in libraries.read_text(encoding="utf-8") if libraries.exists() else "llama_cpp" in sys.modules
    if loaded and os.environ.get(_WAIT_POLICY, "").lower() != "passive":
        raise BackendUnavailableError(
            f"OpenMP was loaded with active waiting before; set {_WAIT_POLICY}=passive before the program starts"
        )
    os.environ[_WAIT_POLICY] = "passive"
