"""A GGUF file → a session on llama.cpp, through llama-cpp-python's low-level binding.

Files are checked before llama.cpp sees them, and tried in a process of their own the first time: some bad values make
it abort the whole process.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from mimo_mobile.errors import BackendUnavailableError, ModelLoadError, require
from mimo_mobile.gguf_header import GgufHeader, shown
from mimo_mobile.layout import mtp_file
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.ranges import too_coarse
from mimo_mobile.runtime.backend import Backend, KvDtype
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.decode.speculator import speculator_for
from mimo_mobile.runtime.devices import first_use, memory
from mimo_mobile.runtime.devices.first_use import Known, Way
from mimo_mobile.runtime.devices.memory import MemoryNeed
from mimo_mobile.runtime.llama.backend import BATCH_TOKENS
from mimo_mobile.runtime.llama.checked import MTP_ARCHITECTURE, GgufModel, check_pair, checked, reference_in
from mimo_mobile.runtime.llama.context import llama_log
from mimo_mobile.runtime.llama.opening import KV_TYPES, open_mtp, open_trunk
from mimo_mobile.runtime.llama.probe import probe
from mimo_mobile.runtime.load_config import LoadConfig, Speculate
from mimo_mobile.runtime.mapped_files import MappedFiles
from mimo_mobile.runtime.model import Model
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

_WAIT_POLICY = "OMP_WAIT_POLICY"


def load_gguf(path: Path, config: LoadConfig, files: MappedFiles) -> Model:
    """The model in a GGUF file; ``files`` watches what is mapped.

    With f32 as ``kv_dtype`` flash attention is off, too; it is the default for models whose q·k float16 cannot hold.
    The first load decides for the whole process whether idle threads ``spin``.

    Raises:
        ModelLoadError: The file is no MiMo-7B, is damaged, or is too large for the memory.
        BackendUnavailableError: More than one draft by the MTP layer is asked for, or no MTP layer is there; ``spin``
            is false, but llama.cpp was loaded with active waiting before; or llama.cpp ran before this process was
            forked.
        MissingDependencyError: llama-cpp-python is not installed.
    """
    if config.mtp_drafts > 1:
        raise BackendUnavailableError("llama.cpp drafts one token with an MTP layer; leave mtp_drafts at 1")
    if not config.spins:
        _wait_passively()
    llama = require("llama_cpp", "gguf")
    log = llama_log()
    files.add(path)
    header = GgufHeader(path)
    model = _trunk(header)
    kv_dtype = _kv_dtype(path, model, config.kv_dtype)
    tokenizer = TextTokenizer.from_gguf(header)
    context_length = config.choose_context_length(path, model.context_length)
    per_token = _kv_bytes_per_token(model, kv_dtype)
    norm = header.float32("output_norm.weight")
    drafter = _drafter(header, model, config.speculate)
    drafters = [drafter] if drafter is None or config.speculate == "mtp" else [drafter, None]
    repacks = [config.repack] if config.repack is not None else [True, False]
    ways = [
        (_need(header, model, context_length, per_token, way, each), way, each) for way in repacks for each in drafters
    ]
    chosen = memory.choose(path, [need for need, _, _ in ways])
    repack, drafter = next((way, each) for need, way, each in ways if need is chosen)
    if drafter is not None:
        files.add(drafter.path)
    threads = config.choose_threads(path)
    if not config.trust:
        probe(header, drafter, threads, keep=config.cache)
    mtp_path = None if drafter is None else drafter.path

    def way(name: str, repack: bool) -> Way[bool]:
        def start() -> tuple[Backend, bool]:
            opened = open_trunk(log, path, context_length, threads, kv_dtype, repack, mtp_path)
            opened.kv_bytes_per_token = per_token
            try:
                if drafter is not None:
                    opened.draft_with(MtpHead(open_mtp(log, opened, threads, kv_dtype, tokenizer.size)), norm)
            except BaseException:
                opened.close()
                raise
            return opened, repack

        return Way(name, start)

    reference = reference_in(header, model)
    known = None if reference is None else Known(reference, path, path, path)
    other = [way("without repacking", False)] if repack and config.repack is None else []
    backend, repack = first_use.opened(
        known, f"llama.cpp (llama-cpp-python {llama.__version__})", [kv_dtype, repack], [way("", repack), *other],
        keep=config.cache,
    )  # fmt: skip
    try:
        key = (path, threads, kv_dtype, repack, config.spins, drafter is not None)
        return Model(
            backend,
            tokenizer,
            header.value("tokenizer.chat_template"),
            speculator=speculator_for(backend, config, *key),
            synthetic=header.value(SYNTHETIC) is True,
            files=files,
            weights=[path],
            name=f"llama.cpp with {path}",
        )
    except BaseException:
        backend.close()
        raise


def _trunk(header: GgufHeader) -> GgufModel:
    """What a file is that holds a trunk.

    Raises:
        ModelLoadError: It is damaged, or holds none.
    """
    model = checked(header)
    if not model.trunk:
        raise ModelLoadError(
            f"{header.path}: holds an MTP layer only; load the trunk beside it (the name without -mtp)"
        )
    return model


def _drafter(header: GgufHeader, model: GgufModel, speculate: Speculate) -> GgufHeader | None:
    """The file with the MTP layer, which is the model's own or one beside it; None when nothing is there or wanted."""
    if speculate not in ("auto", "mtp"):
        return None
    if model.mtp_layers:
        return header
    beside = mtp_file(header.path)
    if os.path.lexists(beside):
        other = GgufHeader(beside)
        if (found := other.value("general.architecture")) != MTP_ARCHITECTURE:
            raise ModelLoadError(
                f"{beside}: architecture {shown(str(found))} found, {MTP_ARCHITECTURE} expected of the MTP layer of"
                f" {header.path.name}; move the file away, or take speculate off or ngram"
            )
        check_pair(header, model, other, checked(other))
        return other
    if speculate == "mtp":
        raise BackendUnavailableError(f"{beside}: no MTP layer there; quantize again, or take auto or ngram")
    return None


def _kv_dtype(path: Path, model: GgufModel, asked: KvDtype | None) -> KvDtype:
    """What the KV cache is made of: as asked; else float16, or float32 where the file says that float16 is too coarse.

    ARM CPUs sum q·k in float16 when the cache is float16. int8 is worse, as a large number takes the digits of the 31
    others in its block. See docs/design/ranges.md.
    """
    largest = model.largest_query_key
    if largest is None or not too_coarse(largest, model.head_dim):
        return asked or "f16"
    found = f"{path}: q·k up to {largest:,.0f} was measured when it was written"
    if asked is None:
        logger.warning(
            "%s, too large for float16: attention computes in float32, and the KV cache takes twice the memory", found
        )
    elif asked != "f32":
        logger.warning("%s, too large for kv_dtype %s; take f32, or leave kv_dtype out", found, asked)
    return asked or "f32"


def _kv_bytes_per_token(model: GgufModel, kv_dtype: KvDtype) -> int:
    return int(2 * model.layers * model.num_key_value_heads * model.head_dim * KV_TYPES[kv_dtype][1])


def _need(
    header: GgufHeader,
    model: GgufModel,
    context_length: int,
    kv_bytes_per_token: int,
    repack: bool,
    drafter: GgufHeader | None,
) -> MemoryNeed:
    """How much memory one way of loading needs."""
    # The widest activations of a batch: gate, up and product, beside the residual stream.
    activations = 3 * model.intermediate_size + 4 * model.hidden_size
    cache = context_length * kv_bytes_per_token
    weights, embeddings = header.path.stat().st_size, header.tensor_bytes("token_embd.weight")
    way = "repacked" if repack else "not repacked"
    if drafter is not None:
        way += ", with its MTP layer"
        cache += context_length * kv_bytes_per_token // model.layers
        if drafter is not header:
            weights += drafter.path.stat().st_size
    copied = weights - embeddings if repack else 0
    return MemoryNeed(way, copied + cache + BATCH_TOKENS * 4 * activations, weights - copied, cache)


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
