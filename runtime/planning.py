"""What a model takes of memory, and with which settings it fits, told before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mimo_mobile import phones
from mimo_mobile.arguments import check
from mimo_mobile.errors import BackendUnavailableError
from mimo_mobile.layout import CONFIG, KV_INT8
from mimo_mobile.runtime.devices import memory
from mimo_mobile.runtime.devices.memory import MemoryNeed, Ways
from mimo_mobile.runtime.load_config import LoadConfig
from mimo_mobile.runtime.loading import place_of

Verdict = Literal["fits", "fits with other settings", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a model takes of memory, and whether that is there.

    Attributes:
        model: The .gguf file or the ONNX folder.
        device: The kind of phone; None for this machine.
        available_bytes: What may be taken of its memory; None where that is unknown.
        verdict: Whether it fits as it was asked for, or with other ``settings``, or not at all.
        settings: What to change of ``LoadConfig`` so that it fits.
        context_length: Tokens of prompt and answer, when loaded as was asked or, if that fits, with ``settings``.
        need: What that takes; where nothing fits, what takes least of what was asked.
        ways: All ways to load it as was asked, the preferred one first; ``load`` takes the first that fits.
    """

    model: str
    device: str | None
    available_bytes: int | None
    verdict: Verdict
    settings: Mapping[str, Any]
    context_length: int
    need: MemoryNeed
    ways: tuple[MemoryNeed, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """A model as it is to be loaded: its ways, the context that it was trained for, and whether it has an MTP layer."""

    ways: Ways
    trained: int
    drafts: bool


def plan(path: str | Path, config: LoadConfig | None = None, *, device: str | None = None, **changes: Any) -> Plan:
    """What a model takes of memory on the CPU, and whether it fits: within a tenth of what is measured once it runs.

    Args:
        path: A .gguf file, an ONNX folder, or a folder that ``mimo quantize`` wrote.
        config: How it is to be loaded.
        device: A kind of phone, such as ``phone-12gb``, to plan for; by default it is this machine as it is now.
        **changes: Single attributes of ``LoadConfig``, as in ``plan("out/mimo-nano", context_length="auto")``.

    Raises:
        ModelLoadError: There is no model, or it is damaged.
        BackendUnavailableError: The model does not have what is asked for, or ``ep`` is not the CPU.
        BadArgumentError: An argument has another type, or is out of its range.
    """
    config = dataclasses.replace(check("config", config, LoadConfig | None) or LoadConfig(), **changes)
    if config.ep not in ("auto", "cpu"):
        raise BackendUnavailableError(f"ep {config.ep}: a plan is for the CPU; mimo npu-plan makes one for an NPU")
    check("device", device, str | None)
    phone = None if device is None else phones.phone_named(device)
    place = place_of(Path(check("path", path, str | Path)), config)
    available = memory.available_bytes() if phone is None else phone.available_bytes
    asked = _file(place, config, phone is not None)
    context = _context(place, config, asked, available)
    ways = asked.ways(context)
    as_asked = Plan(
        model=str(place), device=device, available_bytes=available, verdict="fits", settings={}, context_length=context,
        need=memory.first_fitting(ways, available) or min(ways, key=lambda each: each.total_bytes), ways=tuple(ways),
    )  # fmt: skip
    if memory.first_fitting(ways, available) is not None:
        return as_asked
    for settings in _others(place, config, asked):
        other = dataclasses.replace(config, **settings)
        file = _file(place, other, phone is not None)
        context = _context(place, other, file, available)
        if (need := memory.first_fitting(file.ways(context), available)) is not None:
            if "context_length" in settings:
                settings["context_length"] = context
            return dataclasses.replace(
                as_asked, verdict="fits with other settings", settings=settings, context_length=context, need=need
            )
    return dataclasses.replace(as_asked, verdict="refused")


def _context(place: Path, config: LoadConfig, file: _File, available: int | None) -> int:
    return config.choose_context_length(
        place, file.trained, lambda: memory.largest_context(file.ways, file.trained, available)
    )


def _file(place: Path, config: LoadConfig, on_phone: bool) -> _File:
    """What a file and its settings come to; phones have ARM CPUs."""
    if place.is_file():
        from mimo_mobile.runtime.llama.needs import GgufNeeds

        gguf = GgufNeeds.of(place, config, arm=True if on_phone else None)
        return _File(gguf.ways, gguf.model.context_length, gguf.drafter is not None)
    from mimo_mobile.runtime.onnx.loading import read_config
    from mimo_mobile.runtime.onnx.needs import OnnxNeeds

    onnx = OnnxNeeds.of(place, config)
    return _File(onnx.ways, read_config(place / CONFIG).trained, onnx.mtp is not None)


def _others(place: Path, config: LoadConfig, asked: _File) -> Iterator[dict[str, Any]]:
    """Other settings, those first that cost least: no drafts, mapped weights, a smaller KV cache, a shorter context."""
    settings: dict[str, Any] = {}
    if config.speculate == "mtp" and asked.drafts:
        settings |= {"speculate": "auto", "mtp_drafts": 1}
        yield dict(settings)
    if config.repack:
        settings |= {"repack": None}
        yield dict(settings)
    if config.kv_dtype != "int8" and (place.is_file() or (place / KV_INT8).is_file()):
        yield settings | {"kv_dtype": "int8"}
    if config.context_length != "auto":
        yield settings | {"context_length": "auto"}
