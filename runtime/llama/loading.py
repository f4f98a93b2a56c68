"""A GGUF file → a session on llama.cpp, through llama-cpp-python's low-level binding.

Files are checked before llama.cpp sees them, and tried in a process of their own the first time: some bad values make
it abort the whole process.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from mimo_mobile.errors import BackendUnavailableError, require
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.decode.speculator import speculator_for
from mimo_mobile.runtime.devices import first_use, memory
from mimo_mobile.runtime.devices.first_use import Known, Way
from mimo_mobile.runtime.llama.checked import reference_in, windows_of
from mimo_mobile.runtime.llama.context import llama_log
from mimo_mobile.runtime.llama.needs import GgufNeeds
from mimo_mobile.runtime.llama.opening import has_weights, open_mtp, open_trunk
from mimo_mobile.runtime.llama.probe import probe
from mimo_mobile.runtime.load_config import LoadConfig
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
        _wait_passively(asked=config.spin is False)
    llama = require("llama_cpp", "gguf")
    log = llama_log()
    files.add(path)
    needs = GgufNeeds.of(path, config)
    header, model, kv_dtype, per_token = needs.header, needs.model, needs.kv_dtype, needs.kv_bytes_per_token
    tokenizer = TextTokenizer.from_gguf(header)
    context_length = memory.context_of(path, config, needs.ways, model.context_length)
    norm = header.float32("output_norm.weight")
    beside = None if needs.drafter is None else needs.drafter.path
    ways = [
        each.sharing_weights() if has_weights(path, each.copies, beside if each.drafts else None) else each
        for each in needs.ways(context_length)
    ]
    chosen = memory.choose(path, ways)
    repack, drafter = chosen.copies, needs.drafter if chosen.drafts else None
    if drafter is not None:
        files.add(drafter.path)
    threads = config.choose_threads(path)
    if not config.trust:
        probe(header, drafter, threads, keep=config.cache)
    mtp_path = None if drafter is None else drafter.path

    def way(name: str, repack: bool) -> Way[bool]:
        def start() -> tuple[Backend, bool]:
            opened = open_trunk(log, path, context_length, threads, kv_dtype, repack, mtp_path)
            opened.kv_bytes_per_token, opened.windows = per_token, windows_of(drafter or header, model.layers)
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


def _wait_passively(*, asked: bool) -> None:
    """Let OpenMP's threads sleep while they wait; OpenMP reads this setting only when it is loaded.

    Raises:
        BackendUnavailableError: OpenMP is loaded already, and its threads wait actively, which was ``asked`` not to be.
    """
    libraries = Path("/proc/self/maps")
    loaded = "libgomp" in libraries.read_text(encoding="utf-8") if libraries.exists() else "llama_cpp" in sys.modules
    if loaded and os.environ.get(_WAIT_POLICY, "").lower() != "passive":
        told = f"OpenMP was loaded with active waiting before; set {_WAIT_POLICY}=passive before the program starts"
        if asked:
            raise BackendUnavailableError(told)
        logger.warning("power eco: %s", told)
        return
    os.environ[_WAIT_POLICY] = "passive"
