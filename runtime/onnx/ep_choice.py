"""Chooses the execution provider for a model on this device: the one that was asked for, tested before it is trusted.

The CPU takes over from a provider that computes wrong numbers. It also takes over from an NPU that is slower, which is
decided for prompts and for tokens separately. With ``strict`` nothing takes over: an error says what is wrong.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_mobile import providers
from mimo_mobile.errors import BackendUnavailableError, BadArgumentError, MimoMobileError, ModelLoadError
from mimo_mobile.layout import DATA, MODEL, REFERENCE, read_npu_settings, read_reference
from mimo_mobile.providers import PROVIDERS, CpuOptions, Options, QnnOptions
from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.devices import first_use, selftest
from mimo_mobile.runtime.devices.first_use import Known, Way
from mimo_mobile.runtime.devices.placement import Placement
from mimo_mobile.runtime.devices.selftest import Verdict
from mimo_mobile.runtime.npu import folder as npu_folder
from mimo_mobile.runtime.npu.backend import NpuBackend, SplitBackend
from mimo_mobile.runtime.npu.model import NpuModel
from mimo_mobile.runtime.onnx.backend import OrtBackend

if TYPE_CHECKING:
    from mimo_mobile.runtime.onnx.kv_cache import KvCache
    from mimo_mobile.runtime.onnx.opening import OnnxOpening

logger = logging.getLogger(__name__)

WITHOUT_KLEIDIAI, IN_FLOAT32 = "without KleidiAI", "in float32"
KERNELS: dict[str, dict[str, str]] = {
    "": {},
    WITHOUT_KLEIDIAI: {"mlas.disable_kleidiai": "1"},
    IN_FLOAT32: {"mlas.disable_kleidiai": "1", "mlas.qnbit.force_fp32": "1"},
}
"""Sets of the CPU's kernels, the fastest first: ARM's own int4 kernels, MLAS's int8 ones, float32.

Source: https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/
onnxruntime_session_options_config_keys.h
"""

NOT_COMPILED = "the folder was not compiled for one"


def open_on(opening: OnnxOpening) -> tuple[Backend, Placement]:
    """A folder's model on the provider that was asked for, and the placement of its nodes.

    Raises:
        BadArgumentError: ``ep_options`` are those of another provider.
        ModelLoadError: The model cannot be loaded.
        BackendUnavailableError: ``ep`` cannot run the model; or, with ``strict``, it cannot run all of it, or computes
            wrong numbers.
        MissingDependencyError: The package that brings ``ep`` is not installed.
    """
    ep, options = opening.config.ep, opening.config.ep_options
    kinds = (CpuOptions, QnnOptions) if ep == "auto" else (PROVIDERS[ep].options,)
    if options is not None and not isinstance(options, kinds):
        raise BadArgumentError(f"ep {ep} takes {' or '.join(kind.__name__ for kind in kinds)}, not {options!r}")
    npu = options if isinstance(options, QnnOptions) else QnnOptions()
    if ep == "auto":
        reason = _unfit(opening, npu)
        if reason:
            logger.log(logging.DEBUG if reason == NOT_COMPILED else logging.INFO, "no NPU: %s", reason)
            return _tested(opening)
        return _on_npu(opening, npu)
    if ep == "cpu":
        return _tested(opening)
    if ep == "qnn":
        if reason := _refused(opening, npu):
            raise BackendUnavailableError(f"--ep qnn: {reason}")
        return _on_npu(opening, npu)
    return _on_provider(opening, ep, options or PROVIDERS[ep].options())


def _unfit(opening: OnnxOpening, options: QnnOptions) -> str:
    """Why ``auto`` takes the CPU; empty when it takes the NPU, which a PC's simulator does not count as."""
    try:
        if npu_folder.find(opening.folder, options) is None:
            return NOT_COMPILED
        if reason := _refused(opening, options):
            return reason
        devices = providers.register(opening.ort, PROVIDERS["qnn"])
    except MimoMobileError as error:
        return str(error)
    return "" if any(device.device.type.name == "NPU" for device in devices) else "none is here"


def _refused(opening: OnnxOpening, options: QnnOptions) -> str:
    """Which other setting the binaries for an NPU cannot follow, as a message; empty when they follow all."""
    folder = npu_folder.find(opening.folder, options)
    if folder is None:
        target = "qnn" if options.activations == "float" else "qdq"
        return f"{opening.folder}: nothing compiled for it; run mimo quantize … --target {target} --soc SM8750"
    if opening.config.mtp_drafts > 1:
        return "it drafts one token at a time; leave mtp_drafts at 1"
    if opening.config.kv_dtype not in (None, "f16"):
        return f"its KV cache is float16; {opening.config.kv_dtype} was asked for"
    compiled = read_npu_settings(folder).context_length
    if opening.config.context_length not in (None, compiled):
        return (
            f"{folder}: compiled for a context of {compiled}, {opening.config.context_length} was asked for;"
            " leave it out, or compile again with --context"
        )
    return ""


def _on_provider(opening: OnnxOpening, ep: str, options: Options) -> tuple[Backend, Placement]:
    strict = opening.config.strict
    backend, placed = opening.backend(ep, options)
    if not placed.whole:
        if strict:
            backend.close()
            raise BackendUnavailableError(f"--ep {ep} --strict: {placed}")
        logger.warning("%s: %s", ep, placed)
    file = selftest.place(opening.folder, *_circumstances(opening, ep, options))
    verdict = selftest.recall(file)
    if verdict is None:
        verdict = selftest.judge(backend, None, opening.folder)
        selftest.keep(file, verdict)
    if _trusted(verdict, ep, strict):
        return backend, placed
    backend.close()
    return _on_cpu(opening, ep, str(verdict))


def _on_npu(opening: OnnxOpening, options: QnnOptions) -> tuple[Backend, Placement]:
    strict, folder = opening.config.strict, npu_folder.find(opening.folder, options)
    assert folder is not None
    settings = read_npu_settings(folder)
    tolerance = selftest.TOLERANCE if options.activations == "float" else selftest.TOLERANCE_QUANTIZED
    file = selftest.place(opening.folder, *_circumstances(opening, "qnn", options), settings, strict)
    verdict = selftest.recall(file)
    alone = settings.computes_tokens
    if strict and not alone:
        raise BackendUnavailableError(
            f"{folder}: compiled for prompts alone, and --strict leaves no tokens to the CPU; leave --strict out,"
            " or compile with --windows 64,2,1"
        )
    if verdict is not None and not strict and (verdict.wrong or _faster(verdict, alone) == "cpu"):
        return _on_cpu(opening, "qnn", str(verdict) if verdict.wrong else _told(verdict, alone))
    try:
        npu_folder.choose_memory(folder, settings)
        model = NpuModel(opening.ort, folder, options)
        layer = model.mtp_layer() if opening.config.speculate in ("auto", "mtp") else None
    except (BackendUnavailableError, ModelLoadError) as error:
        if strict:
            raise
        return _on_cpu(opening, "qnn", str(error))
    npu = NpuBackend(model, MtpHead(layer) if layer is not None else None)
    cpu = split = None
    fits, trusted = True, False
    try:
        if not alone:
            cpu = _beside(opening, npu)
            fits = cpu.uses(model.cache) and not opening.reads_normed_states
            split = SplitBackend(npu, cpu) if fits else None
        if verdict is None and fits:
            if not strict:
                cpu = cpu or _beside(opening, npu)
            verdict = selftest.judge(split or npu, cpu, opening.folder, tolerance)
            selftest.keep(file, verdict)
        trusted = verdict is not None and fits and _trusted(verdict, "qnn", strict)
        if trusted and strict:
            return npu, model.placement()
        faster = _faster(verdict, alone) if verdict is not None else "cpu"
        if trusted and faster == "npu":
            if cpu is not None:
                cpu.close()
            return npu, model.placement()
        if trusted and faster == "split" and not opening.reads_normed_states:
            cpu = cpu or _beside(opening, npu)
            if cpu.uses(model.cache):
                assert verdict is not None
                logger.info("qnn: %s", _told(verdict, alone))
                return split or SplitBackend(npu, cpu), model.placement()
    except BaseException:
        _close(split, npu, cpu)
        raise
    _close(split, npu, cpu)
    if not fits or verdict is None:
        return _on_cpu(opening, "qnn", "compiled for prompts alone, and the CPU cannot go on in the NPU's caches")
    return _on_cpu(opening, "qnn", _told(verdict, alone) if trusted else str(verdict))


def _close(split: SplitBackend | None, npu: NpuBackend, cpu: OrtBackend | None) -> None:
    """Free two backends, or what joins them and frees both."""
    for each in (split,) if split is not None else (npu, cpu):
        if each is not None:
            each.close()


def _beside(opening: OnnxOpening, npu: NpuBackend) -> OrtBackend:
    """A CPU backend that shares the NPU's KV cache, unless its own has finer types."""
    backend, _ = _tested(dataclasses.replace(opening, context_length=npu.context_length), npu.model.cache)
    assert isinstance(backend, OrtBackend)
    return backend


def _on_cpu(opening: OnnxOpening, ep: str, reason: str) -> tuple[Backend, Placement]:
    """The model on the CPU, and a placement that says why it is not on ``ep``."""
    logger.warning("%s: %s; going on with the CPU", ep, reason)
    backend, placed = _tested(opening)
    return backend, dataclasses.replace(placed, asked=ep, reasons={"all of it": reason, **placed.reasons})


def known_numbers(folder: Path, model: Path) -> Known | None:
    """The right numbers of a folder's model, as far as ``mimo quantize`` has written them down.

    Raises:
        ModelLoadError: Their file is damaged.
    """
    file, data = folder / REFERENCE, folder / DATA
    if not os.path.lexists(file):
        return None
    return Known(read_reference(file), file, folder, data if data.is_file() else model)


def remembered(ort: Any, folder: Path) -> str:
    """What is kept of the CPU's self-test on a folder's model, for people.

    Raises:
        ModelLoadError: The right numbers are damaged.
    """
    known = known_numbers(folder, folder / MODEL)
    return first_use.remembered(known, _engine(ort), [MODEL], list(KERNELS)) if known else "no self-test in the folder"


def _engine(ort: Any) -> str:
    return f"ONNX Runtime {ort.__version__}"


def _tested(opening: OnnxOpening, cache: KvCache | None = None) -> tuple[Backend, Placement]:
    """The model on the CPU, with the fastest kernels that give the right numbers here."""

    def way(name: str, kernels: Mapping[str, str]) -> Way[Placement]:
        def start() -> tuple[Backend, Placement]:
            backend, placed = dataclasses.replace(opening, kernels=kernels).backend(cache=cache)
            reasons = {"kernels": f"{name}, as the usual ones compute wrong numbers here"} if name else {}
            return backend, dataclasses.replace(placed, reasons=reasons)

        return Way(name, start)

    known = known_numbers(opening.folder, opening.model)
    ways = [way(name, kernels) for name, kernels in KERNELS.items() if name != WITHOUT_KLEIDIAI or _on_arm()]
    return first_use.opened(known, _engine(opening.ort), [opening.model.name], ways, keep=opening.config.cache)


def _on_arm() -> bool:
    return platform.machine() in ("aarch64", "arm64")


def _trusted(verdict: Verdict, ep: str, strict: bool) -> bool:
    """Whether a provider's numbers can be trusted; with ``strict`` it is an error when they are wrong or untested."""
    if strict and (verdict.wrong or not verdict.tested):
        raise BackendUnavailableError(f"--ep {ep} --strict: wrong numbers on this device, or untested: {verdict}")
    if not verdict.wrong and not verdict.tested:
        logger.warning("%s: its numbers were not tested: %s", ep, verdict)
    return not verdict.wrong


def _faster(verdict: Verdict, alone: bool) -> str:
    """What is fastest: ``npu``, if it may be ``alone``, ``cpu``, or ``split``: prompts there, tokens on the CPU."""
    if verdict.speed is None or verdict.cpu is None:
        return "npu" if alone else "split"
    if alone and verdict.speed.token_s < verdict.cpu.token_s:
        return "npu"
    return "split" if verdict.speed.prompt_s < verdict.cpu.prompt_s else "cpu"


def _told(verdict: Verdict, alone: bool) -> str:
    assert verdict.speed is not None and verdict.cpu is not None
    place = {"npu": "all on the NPU", "split": "prompts on the NPU, tokens on the CPU", "cpu": "all on the CPU"}
    return (
        f"a prompt of {selftest.PROMPT_TOKENS} tokens takes {verdict.speed.prompt_s:.3f} s (CPU"
        f" {verdict.cpu.prompt_s:.3f} s), a token {verdict.speed.token_s:.4f} s (CPU {verdict.cpu.token_s:.4f} s):"
        f" {place[_faster(verdict, alone)]}"
    )


def _circumstances(opening: OnnxOpening, ep: str, options: Options) -> tuple[object, ...]:
    """Everything that a verdict depends on: it holds as long as none of it changes."""
    versions = providers.versions(opening.ort, PROVIDERS[ep])
    return ep, options, versions, opening.model.name, opening.threads, opening.config.spins
