"""The entries of a manifest: what one recipe made, whole or set aside, and how they are read."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from mimo_mobile import ranges, scores
from mimo_mobile.documents import DocumentError, Value
from mimo_mobile.layout import NPU_SETTINGS, mtp_file
from mimo_mobile.ranges import ModelRanges
from mimo_mobile.scores import Divergence, OnNpu, Score

REJECTED = ".rejected"

QDQ, ON_NPU = "qdq", "_qdq"
"""What folders of binaries with quantized activations are called, and the end of their recipe's name in reports."""

MOST_PARTS, MOST_BITS = 10_000, 1024
"""More files of an entry and bits of a weight are not believed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an entry; ``path`` is relative to the manifest."""

    path: str
    size_bytes: int
    sha256: str


Effort = Literal["none", "normal", "high"]
"""How much is done for the levels that weights are rounded to."""

EFFORTS = get_args(Effort)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one recipe made: a model that can be loaded by ``path``.

    Attributes:
        recipe: The recipe's name.
        format: ``gguf`` (``path`` is a file) or ``onnx`` (``path`` is a folder).
        path: The file or folder that ``mimo run`` takes, relative to the manifest.
        bits_per_weight: The bits of all weights in the files over the number of the checkpoint's weights; scales are
            included, and so are weights that an MTP file holds again.
        size_bytes: The size of all parts together.
        parts: Every file of the entry.
        tools: The versions of the packages that wrote the files.
        score: How well it answers; None when the checkpoint brings no held-out problems.
        divergence: How far its predictions are from the checkpoint's; None when that was not measured.
        effort: How much was done for its weights.
        calibrated_by: Hashes of the ``text`` that was read, ours or the user's, of it and the model's ``answers``, and
            of the user's ``importance``; ``answered_by``, the server's model that gave the answers, if one did; and
            whether ``scales`` are in ``units``, as NPUs with integers want them.
        ranges: How large its numbers get, and by what they were scaled; None for GGUF without effort and in what
            earlier versions wrote.
        on_npu: What its form for NPUs with quantized activations loses; None when that was not measured.
    """

    recipe: str
    format: Literal["gguf", "onnx"]
    path: str
    bits_per_weight: float
    size_bytes: int
    parts: tuple[Part, ...]
    tools: Mapping[str, str]
    score: Score | None = None
    divergence: Divergence | None = None
    effort: Effort = "none"
    calibrated_by: Mapping[str, str] = field(default_factory=dict)
    ranges: ModelRanges | None = None
    on_npu: OnNpu | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        found = {"score": self.score, "divergence": self.divergence}
        made = dataclasses.asdict(self) | {name: each and scores.to_json(each) for name, each in found.items()}
        return made | {"on_npu": self.on_npu and self.on_npu.to_json()}

    def with_score(self, score: Score | None) -> Entry:
        """The entry with how well it answers."""
        return dataclasses.replace(self, score=score)

    def with_npu_score(self, score: Score | None) -> Entry:
        """The entry with how well its form for NPUs answers."""
        measured = self.on_npu
        if measured is None and score is None:
            return self
        return dataclasses.replace(self, on_npu=dataclasses.replace(measured or OnNpu(), score=score))

    @property
    def npu_form(self) -> Entry | None:
        """Its form for NPUs with quantized activations, as an entry of its own; None when it has none."""
        found = [part.path.removesuffix(f"/{NPU_SETTINGS}") for part in self.parts if part.path.endswith(NPU_SETTINGS)]
        form = next((path for path in found if path.startswith(f"{self.path}/{QDQ}-")), None)
        if form is None:
            return None
        parts = tuple(part for part in self.parts if part.path.startswith(f"{form}/"))
        measured = self.on_npu or OnNpu()
        return dataclasses.replace(
            self,
            recipe=f"{self.recipe}{ON_NPU}",
            path=form,
            size_bytes=sum(part.size_bytes for part in parts),
            parts=parts,
            score=measured.score,
            divergence=measured.divergence,
            on_npu=None,
        )

    @property
    def claims(self) -> tuple[str, ...]:
        """The paths that are this entry's alone: a folder with all in it, or a GGUF file and its MTP file."""
        return (self.path,) if self.format == "onnx" else (self.path, mtp_file(Path(self.path)).as_posix())


@dataclass(frozen=True, slots=True)
class Rejected:
    """What a recipe made and lost too much; its files end in ``.rejected``, and nothing loads them unasked.

    Attributes:
        entry: What it would be; its paths are those without the ending.
        reasons: What it lost, a sentence each.
    """

    entry: Entry
    reasons: tuple[str, ...]

    @property
    def aside(self) -> Entry:
        """The entry with its files where they lie: a GGUF file, or an ONNX folder, is called ``….rejected``."""

        def moved(path: str) -> str:
            whole = self.entry.path if self.entry.format == "onnx" else path
            return f"{whole}{REJECTED}{path.removeprefix(whole)}"

        parts = tuple(dataclasses.replace(part, path=moved(part.path)) for part in self.entry.parts)
        return dataclasses.replace(self.entry, path=moved(self.entry.path), parts=parts)


def read_entry(found: Value, tools: Mapping[str, str] | None) -> Entry:
    """An entry; ``tools`` are the whole manifest's in version 1, and None where each entry has its own."""
    made = Entry(
        recipe=found["recipe"].text(),
        format="gguf" if found["format"].choice("gguf", "onnx") == "gguf" else "onnx",
        path=found["path"].path(),
        bits_per_weight=found["bits_per_weight"].number(0, MOST_BITS),
        size_bytes=found["size_bytes"].integer(),
        parts=tuple(
            Part(each["path"].path(), each["size_bytes"].integer(), each["sha256"].hexadecimal(64))
            for each in found["parts"].items(most=MOST_PARTS)
        ),
        tools=texts(found["tools"]) if tools is None else tools,
        score=scores.read_score(found.get("score")),
        divergence=scores.read_divergence(found.get("divergence")),
        effort=_effort(found.get("effort")),
        calibrated_by=texts(given) if (given := found.get("calibrated_by")) else {},
        ranges=ranges.from_document(measured) if (measured := found.get("ranges")) else None,
        on_npu=scores.read_on_npu(found.get("on_npu")),
    )
    if made.format == "gguf" and not made.path.endswith(".gguf"):
        raise DocumentError(f"{found.place}.path: a .gguf file expected, {made.path} found")
    for part in made.parts:
        if not (part.path.startswith(f"{made.path}/") if made.format == "onnx" else part.path in made.claims):
            raise DocumentError(f"{found.place}.parts: {part.path} is no file of {made.path}")
    if twice := shared([[part.path] for part in made.parts]):
        raise DocumentError(f"{found.place}.parts: {twice} is there twice, or lies in another file")
    return made


def read_rejected(found: Value) -> Rejected:
    """A rejected entry.

    Raises:
        DocumentError: It is damaged.
    """
    return Rejected(read_entry(found["entry"], None), tuple(each.text() for each in found["reasons"].items(most=100)))


def _effort(found: Value | None) -> Effort:
    word = "none" if found is None else found.choice(*EFFORTS)
    return next(each for each in EFFORTS if each == word)


def shared(claims: Sequence[Sequence[str]]) -> str:
    """A path that is claimed twice, or lies in another one; empty when there is none."""
    ways = sorted(tuple(path.split("/")) for each in claims for path in each)
    # What lies in a path follows it in this order.
    return next(("/".join(later) for way, later in itertools.pairwise(ways) if later[: len(way)] == way), "")


def texts(found: Value) -> dict[str, str]:
    """An object whose values are all strings."""
    return {name: each.text() for name, each in found.fields().items()}
