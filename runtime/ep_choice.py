"""Which execution provider computes what of a model on this device: what was asked for, checked before it is trusted.

An NPU that computes wrong numbers is stepped around, and so is one that is slower than the CPU, for prompts and for
tokens apart; ``strict`` takes no detour and says what is wrong.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_mobile.errors import BackendUnavailableError, ModelLoadError
from mimo_mobile.runtime import npu_session, providers, selftest
from mimo_mobile.runtime.mtp import MtpHead
from mimo_mobile.runtime.npu_session import NpuBackend, NpuModel, SplitBackend
from mimo_mobile.runtime.providers import PROVIDERS, Ep, Options, Placement, QnnOptions
from mimo_mobile.runtime.session import Backend

if TYPE_CHECKING:
    from mimo_mobile.runtime.ort_opening import OnnxOpening

logger = logging.getLogger(__name__)


def open_on(
    opening: OnnxOpening,
    ep: Ep,
    options: Options | None,
    context_length: int | None,
    mtp_drafts: int,
    strict: bool,
) -> tuple[Backend, Placement]:
    """A folder's model on a provider, and where its nodes went.

    Args:
        opening: How the folder's graphs are opened.
        ep: What was asked for.
        options: The provider's options.
        context_length: What was asked for; binaries for an NPU have theirs.
        mtp_drafts: Drafts in a row.
        strict: Everything on ``ep``, or an error.

    Raises:
        ModelLoadError: The model cannot be loaded.
        BackendUnavailableError: ``ep`` cannot run it, or with ``strict`` not all of it, or computes wrong numbers.
        MissingDependencyError: What brings ``ep`` is not installed.
    """
    chosen = options or PROVIDERS["cpu" if ep == "auto" else ep].options()
    if ep == "auto":
        ep, chosen = _automatic(opening)
    if ep == "cpu":
        return opening.backend()
    if ep == "qnn":
        assert isinstance(chosen, QnnOptions)
        return _on_npu(opening, chosen, context_length, mtp_drafts, strict)
    return _on_provider(opening, ep, chosen, strict)


def _automatic(opening: OnnxOpening) -> tuple[Ep, Options]:
    """QNN where binaries for this chip are and an NPU is, else the CPU; a PC's simulator is none."""
    options = QnnOptions()
    try:
        if npu_session.find(opening.folder, options) is None:
            return "cpu", PROVIDERS["cpu"].options()
        devices = providers.register(opening.ort, PROVIDERS["qnn"])
    except Exception as error:  # a hint only: the CPU can do it
        logger.info("%s: no NPU: %s", opening.folder.name, error)
        return "cpu", PROVIDERS["cpu"].options()
    if any(device.device.type.name == "NPU" for device in devices):
        return "qnn", options
    return "cpu", PROVIDERS["cpu"].options()


def _on_provider(opening: OnnxOpening, ep: str, options: Options, strict: bool) -> tuple[Backend, Placement]:
    backend, placed = opening.backend(ep, options)
    if not placed.whole:
        if strict:
            backend.close()
            raise BackendUnavailableError(f"--ep {ep} --strict: {placed}")
        logger.warning("%s: %s", ep, placed)
    verdict = selftest.remembered(backend, None, opening.folder, ep, _driver(opening.ort, ep), options)
    if not verdict.right:
        backend.close()
        if strict:
            raise BackendUnavailableError(f"--ep {ep}: wrong numbers on this device: {verdict}")
        logger.warning("%s: wrong numbers on this device (%s); going on with the CPU", ep, verdict)
        return opening.backend()
    return backend, placed


def _on_npu(
    opening: OnnxOpening, options: QnnOptions, context_length: int | None, mtp_drafts: int, strict: bool
) -> tuple[Backend, Placement]:
    folder = npu_session.find(opening.folder, options)
    if folder is None:
        raise BackendUnavailableError(
            f"{opening.folder}: nothing compiled for an NPU; run mimo quantize … --target qnn --soc SM8750"
        )
    if mtp_drafts > 1:
        raise BackendUnavailableError("--ep qnn drafts one token at a time; leave mtp_drafts at 1")
    if opening.kv_dtype not in (None, "f16"):
        raise BackendUnavailableError(f"--ep qnn has a float16 KV cache; {opening.kv_dtype} was asked for")
    try:
        model = NpuModel(opening.ort, folder, options)
    except (BackendUnavailableError, ModelLoadError) as error:
        if strict:
            raise
        logger.warning("%s; going on with the CPU", error)
        return opening.backend()
    if context_length not in (None, model.context_length):
        raise BackendUnavailableError(
            f"{folder}: compiled for a context of {model.context_length}, {context_length} was asked for;"
            " leave it out, or compile again with --context"
        )
    layer = model.mtp_layer() if opening.speculate in ("auto", "mtp") else None
    npu = NpuBackend(model, MtpHead(layer) if layer is not None else None)
    what = options, _driver(opening.ort, "qnn"), model.settings
    if strict:
        verdict = selftest.remembered(npu, None, opening.folder, *what)
        if not verdict.right:
            npu.close()
            raise BackendUnavailableError(f"--ep qnn --strict: wrong numbers on this device: {verdict}")
        return npu, model.placement()
    return _measured(opening, npu, what)


def _measured(opening: OnnxOpening, npu: NpuBackend, what: tuple[Any, ...]) -> tuple[Backend, Placement]:
    """Prompts and tokens where each is faster."""
    cpu, on_cpu = opening.with_context(npu.context_length).backend(caches=npu.model.caches)
    verdict = selftest.remembered(npu, cpu, opening.folder, *what)
    if not verdict.right or verdict.speed is None or verdict.cpu is None:
        logger.warning("qnn: wrong numbers on this device (%s); going on with the CPU", verdict)
        npu.close()
        return cpu, on_cpu
    speeds = verdict.speed, verdict.cpu
    prompts, tokens = speeds[0].prompt_s < speeds[1].prompt_s, speeds[0].token_s < speeds[1].token_s
    logger.info(
        "qnn: a prompt of %d tokens takes %.3f s (CPU %.3f s), a token %.4f s (CPU %.4f s): %s",
        selftest.PROMPT_TOKENS, speeds[0].prompt_s, speeds[1].prompt_s, speeds[0].token_s, speeds[1].token_s,
        "all on the NPU" if tokens else "prompts on the NPU, tokens on the CPU" if prompts else "all on the CPU",
    )  # fmt: skip
    placed = npu.model.placement()
    if tokens:
        cpu.close()
        return npu, placed
    if prompts:
        return SplitBackend(npu, cpu), placed
    npu.close()
    return cpu, on_cpu


def _driver(ort: Any, ep: str) -> str:
    return " ".join([ort.__version__, *map(providers.version, providers.register(ort, PROVIDERS[ep]))])


def compiled_for(folder: Path) -> list[str]:
    """The chips that an ONNX folder has binaries for."""
    return sorted(
        path.parent.name.replace("qnn-", "").replace("qdq-", "uint16 on ")
        for path in folder.glob(f"q??-*/{npu_session.SETTINGS}")
    )
