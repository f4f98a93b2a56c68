"""What the NPU's benchmark takes from a folder that ``mimo quantize`` wrote: binaries for a phone's chip, files, plans.

The plans are sums, as ``mimo npu-plan`` has them; here they are held against what the phone says of itself.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.phone.adb import PhoneError, Sent, to_send
from benchmarks.phone.app import MODES, PACKAGE
from benchmarks.phone.device import Device
from mimo_mobile import manifest, npu_memory, terminal
from mimo_mobile.entries import Entry
from mimo_mobile.layout import DATA, NPU_SETTINGS, NpuSettings, read_npu_settings
from mimo_mobile.manifest import Manifest
from mimo_mobile.npu_memory import ADDRESS_BYTES, Plan
from mimo_mobile.progress import ProgressCallback
from mimo_mobile.quantize.choice import PREPACKED, RUNTIME_BYTES
from mimo_mobile.socs import SOCS

MODELS = f"/sdcard/Android/data/{PACKAGE}/files/models"
"""Where the app looks for models that were sent by adb."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model that was compiled for chips.

    Attributes:
        folder: What ``mimo quantize`` wrote.
        found: Its manifest.
        entry: The model of ONNX Runtime in it.
        binaries: The folders of binaries by chip; those with integers only where a chip has no others.
    """

    folder: Path
    found: Manifest
    entry: Entry
    binaries: dict[str, Path]

    def on(self, device: Device) -> Ready:
        """The model with the binaries for a phone's chip.

        Raises:
            PhoneError: There are none.
        """
        chips = ", ".join(map(_named, self.binaries))
        if device.soc_model is None:
            raise PhoneError(f"{device.name} does not say which chip it has (ro.soc.model); one of {chips} is expected")
        chip = device.soc_model.upper()
        if chip in self.binaries:
            return Ready(self, chip, read_npu_settings(self.binaries[chip]))
        if chip not in SOCS:
            known = ", ".join(map(_named, SOCS))
            raise PhoneError(
                f"{device.name} has the chip {chip}, for whose NPU nothing can be compiled here; there are {known}."
                " `make bench-phone` measures its CPU"
            )
        raise PhoneError(
            f"{self.folder} is compiled for {chips}, and {device.name} has the chip {_named(chip)}; compile for it:"
            f" mimo quantize MODEL --recipe {self.entry.recipe} --target qnn --soc {chip} --shared --out"
            f" {self.folder.parent}"
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """A model with the binaries for one chip."""

    model: Compiled
    chip: str
    settings: NpuSettings

    @property
    def name(self) -> str:
        """What its folder on the phone is called."""
        return f"{self.model.found.model}-{self.chip}"

    @property
    def binaries(self) -> Path:
        """The folder of the binaries for the chip."""
        return self.model.binaries[self.chip]

    @property
    def manifest(self) -> Manifest:
        """What the phone gets: this recipe alone, without what other chips run."""
        entry, wanted = self.model.entry, f"{self.model.entry.path}/{self.binaries.name}/"
        others = tuple(f"{self.model.entry.path}/{kind}-" for kind in ("qnn", "qdq"))
        parts = tuple(each for each in entry.parts if each.path.startswith(wanted) or not each.path.startswith(others))
        kept = dataclasses.replace(entry, parts=parts, size_bytes=sum(each.size_bytes for each in parts))
        return dataclasses.replace(self.model.found, entries=(kept,), order=(kept.recipe,), rejected=())

    def plans(self) -> dict[str, Plan]:
        """What each mode takes of the phone's memory."""
        data = self.model.folder / self.model.entry.path / DATA
        on_cpu = round(PREPACKED * (data.stat().st_size - self.settings.embedding_bytes))
        npu = npu_memory.compiled(self.binaries, self.settings, 0, RUNTIME_BYTES)
        split = dataclasses.replace(npu, mode="split", cpu_bytes=on_cpu)
        return {"npu": npu, "split": split, "cpu": dataclasses.replace(split, mode="cpu", pieces=())}

    def why_not(self, mode: str, plan: Plan, available_bytes: int | None) -> str | None:
        """Why a mode cannot be measured; None when it can."""
        if mode == "npu" and not self.settings.computes_tokens:
            return "compiled for prompts alone (--windows 64): the NPU computes no tokens"
        for piece in plan.pieces:
            if piece.address_bytes > ADDRESS_BYTES:
                return f"{piece}: no session of a Hexagon holds it; compile with more and smaller pieces"
        if available_bytes is not None and plan.memory_bytes > available_bytes:
            needed, there = terminal.size(plan.memory_bytes), terminal.size(available_bytes)
            return (
                f"takes {needed} of memory by the plan, the phone has {there} available; close apps, compile with a"
                " shorter --context, or give --ignore-memory: Android may make room"
            )
        return None


def prepare(folder: Path, recipe: str | None = None) -> Compiled:
    """The model in a folder, with everything local checked.

    Raises:
        PhoneError: There is none that was compiled for an NPU, or its files are not those of its manifest.
        ModelLoadError: The binaries do not say what they are.
    """
    found = manifest.read(folder)
    if found is None:
        raise PhoneError(
            f"{folder}: no {manifest.NAME}; give the folder that `mimo quantize` wrote, such as out/mimo-nano"
        )
    entries = [each for each in found.entries if each.format == "onnx" and recipe in (None, each.recipe)]
    for entry in entries:
        kinds = [sorted((folder / entry.path).glob(f"{kind}-*/{NPU_SETTINGS}")) for kind in ("qdq", "qnn")]
        binaries = {path.parent.name[4:]: path.parent for paths in kinds for path in paths}
        if not binaries:
            continue
        for part in entry.parts:
            path = folder / part.path
            if not path.is_file() or path.stat().st_size != part.size_bytes:
                raise PhoneError(f"{path}: {part.size_bytes} bytes expected, as {manifest.NAME} says; quantize again")
        return Compiled(folder, found, entry, binaries)
    asked = f"{folder}: {'no model' if not entries else 'nothing'}"
    raise PhoneError(
        f"{asked} that was compiled for an NPU; run `mimo quantize … --recipe {recipe or 'int4_b32'} --target qnn"
        " --soc SM8750 --shared`"
    )


@contextmanager
def to_be_sent(ready: Ready, progress: ProgressCallback) -> Iterator[list[Sent]]:
    """The files that the phone is to hold; the manifest is the last, so that the app takes up whole models only."""
    remote, model = f"{MODELS}/{ready.name}", ready.model
    with tempfile.TemporaryDirectory() as scratch:
        ready.manifest.write(Path(scratch))
        parts = ready.manifest.entries[0].parts
        sent = [to_send(model.folder / each.path, f"{remote}/{each.path}", progress) for each in parts]
        for part, each in zip(parts, sent, strict=True):
            if each.sha256 != part.sha256:
                raise PhoneError(f"{each.local}: it is not what {manifest.NAME} says; quantize again")
        yield [*sent, to_send(Path(scratch) / manifest.NAME, f"{remote}/{manifest.NAME}")]


def modes_of(text: str) -> tuple[str, ...]:
    """The modes that a text with commas names.

    Raises:
        ValueError: It names another one, or none.
    """
    named = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    if unknown := [each for each in named if each not in MODES]:
        raise ValueError(
            f"{', '.join(map(repr, unknown))} found; {', '.join(MODES)} expected, with commas between them"
        )
    return named


def _named(chip: str) -> str:
    return f"{chip} ({SOCS[chip].sold_as})" if chip in SOCS else chip
