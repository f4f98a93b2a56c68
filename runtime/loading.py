"""A path → a session: the file's kind decides the backend."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_mobile import manifest
from mimo_mobile.errors import BackendUnavailableError, ModelLoadError
from mimo_mobile.layout import MODEL

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mimo_mobile.providers import Ep, Options
    from mimo_mobile.runtime.backend import KvDtype
    from mimo_mobile.runtime.decode.session import Session
    from mimo_mobile.runtime.decode.speculator import Speculate


def load(
    path: str | Path,
    *,
    recipe: str | None = None,
    context_length: int | None = None,
    threads: int | None = None,
    kv_dtype: KvDtype | None = None,
    repack: bool | None = None,
    cache: bool = True,
    spin: bool = True,
    speculate: Speculate = "auto",
    mtp_drafts: int = 1,
    ep: Ep = "auto",
    ep_options: Options | None = None,
    strict: bool = False,
) -> Session:
    """A session on a .gguf file, an ONNX folder, or a folder that ``mimo quantize`` wrote.

    Args:
        path: The file or folder.
        recipe: Which entry of a quantized folder; default: its first.
        context_length: Tokens of prompt and generation; default: the model's, at most 4096.
        threads: Default: physical cores.
        kv_dtype: Of the KV cache: ``f16``, ``int8``, or ``f32`` for comparisons; default: f16, or the graph's.
        repack: Let llama.cpp copy weights into this CPU's order; default: when the memory suffices.
        cache: Keep ONNX Runtime's prepacked weights and what was measured of this machine on disk (``$MIMO_CACHE``,
            else the user's cache folder).
        spin: Let idle threads wait actively; False saves power.
        speculate: What drafts tokens for the model to verify several at once: ``mtp``, its own layer, or ``ngram``,
            what stood in the text before; ``auto`` takes what pays at the moment. The text is the same with all.
        mtp_drafts: At most so many tokens in a row by the MTP layer, which was trained for one; ONNX only.
        ep: ONNX: the execution provider. ``auto`` is the NPU where the model was compiled for it and it passes a test,
            else the CPU. ``Session.placement`` tells what computes where.
        ep_options: That provider's, from ``mimo_mobile.providers``.
        strict: Fail where ``ep`` would leave work to the CPU or computes wrong numbers, instead of going on without.

    Raises:
        ModelLoadError: Nothing that can be run is there, or it does not fit in memory.
        BackendUnavailableError: The backend cannot do what is asked for.
        MissingDependencyError: The backend's package is not installed.
        ValueError: context_length, threads or mtp_drafts below 1.
    """
    for name, value in (
        ("context_length", context_length),
        ("threads", threads),
        ("mtp_drafts", mtp_drafts),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value} is out of range")
    options: dict[str, Any] = {
        "context_length": context_length,
        "threads": threads,
        "kv_dtype": kv_dtype,
        "cache": cache,
        "spin": spin,
        "speculate": speculate,
        "mtp_drafts": mtp_drafts,
    }
    path = Path(path)
    if (path / manifest.NAME).is_file():
        path = _entry(path, recipe)
    elif recipe is not None:
        raise ModelLoadError(f"{path}: no {manifest.NAME}, so there is no recipe to choose; leave --recipe out")
    if path.is_file() and path.suffix == ".gguf":
        from mimo_mobile.runtime.llama.loading import load_gguf

        if ep not in ("auto", "cpu") or ep_options is not None or strict:
            raise BackendUnavailableError(
                f"{path}: --ep {ep}, its options and --strict are ONNX Runtime's; take an ONNX recipe"
            )
        return _announced(path, load_gguf(path, repack=repack, **options))
    if path.name.endswith(".onnx") and path.is_file():
        path = path.parent
    if (path / MODEL).is_file():
        from mimo_mobile.runtime.onnx.loading import load_onnx

        if repack is not None:
            raise BackendUnavailableError("repack is llama.cpp's; leave it out for an ONNX model")
        return _announced(path, load_onnx(path, ep=ep, ep_options=ep_options, strict=strict, **options))
    found = "a folder without model.onnx" if path.is_dir() else "no such file" if not path.exists() else "another file"
    raise ModelLoadError(f"{path}: {found}; a .gguf file, an ONNX folder or a quantized folder expected")


def _announced(path: Path, session: Session) -> Session:
    if session.placement is not None and session.placement.asked != "cpu":
        logger.info("%s: %s", path.name, session.placement)
    if session.synthetic:
        logger.warning("%s: random weights in MiMo-7B's shapes; the text means nothing", path)
    return session


def _entry(folder: Path, recipe: str | None) -> Path:
    found = manifest.read(folder)
    entries = found.entries if found else ()
    names = [entry.recipe for entry in entries]
    if not entries or (recipe is not None and recipe not in names):
        raise ModelLoadError(f"{folder}: recipe {recipe or 'any'} asked for, {', '.join(names) or 'none'} found")
    return folder / next(entry.path for entry in entries if recipe in (None, entry.recipe))
