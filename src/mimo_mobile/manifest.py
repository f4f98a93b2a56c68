"""Reads and writes manifest.json: what a folder of quantized files holds, where it came from, and what it lost.

A file is entered only when it is whole, and its entry is struck out before it is replaced, so that each entry is true
at any moment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from mimo_mobile import __version__, checksums, files, ranges, untrusted
from mimo_mobile.documents import DocumentError, FileFormat, Value
from mimo_mobile.errors import CheckpointError, MimoMobileError, OutputExistsError
from mimo_mobile.hub import Source
from mimo_mobile.layout import MOST_TOKENS, mtp_file
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.ranges import ModelRanges

NAME = "manifest.json"
FINGERPRINT = "fingerprint"
REPLACE = "--force removes them and starts anew, another --out keeps them"
MANIFEST_FORMAT = FileFormat("manifest", 2)

MOST_ENTRIES, MOST_PARTS, MOST_BITS = 1000, 10_000, 1024
"""More entries, files of an entry and bits of a weight are not believed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Score:
    """How well a model answers a checkpoint's held-out problems greedily.

    Attributes:
        problems: How many problems were asked.
        exact_match: The share of right answers, 0…1.
        by_kind: The same share for each kind of problem.
        perplexity: The model's perplexity on the bf16 model's own answers, read token by token; NaN when there were no
            tokens.
        same_top: The share of those tokens that this model would also have chosen, 0…1; NaN when there were none.
        answer_tokens: The mean length of an answer in tokens, thinking included.
        problem_set: A text that tells which problems were asked; empty in what earlier versions wrote.
    """

    problems: int
    exact_match: float
    by_kind: Mapping[str, float]
    perplexity: float
    same_top: float
    answer_tokens: float
    problem_set: str = ""


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
        effort: How much was done for its weights.
        ranges: How large its numbers get, and by what they were scaled; None for GGUF without effort and in what
            earlier versions wrote.
    """

    recipe: str
    format: Literal["gguf", "onnx"]
    path: str
    bits_per_weight: float
    size_bytes: int
    parts: tuple[Part, ...]
    tools: Mapping[str, str]
    score: Score | None = None
    effort: Effort = "none"
    ranges: ModelRanges | None = None

    @property
    def claims(self) -> tuple[str, ...]:
        """The paths that are this entry's alone: a folder with all in it, or a GGUF file and its MTP file."""
        return (self.path,) if self.format == "onnx" else (self.path, mtp_file(Path(self.path)).as_posix())


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder of quantized files holds.

    Attributes:
        model: The checkpoint's short name.
        source: The checkpoint's fingerprint, hub id and revision.
        entries: One entry for each recipe. The first is loaded when no recipe is named.
        baseline: The score of the same checkpoint in bf16.
        order: The recipes in the order in which they were first asked for, which the entries follow. Recipes whose
            entries are struck out while their files are replaced are included.
    """

    model: str
    source: Mapping[str, str]
    entries: tuple[Entry, ...] = ()
    baseline: Score | None = None
    order: tuple[str, ...] = ()

    def entry(self, recipe: str) -> Entry | None:
        """The entry of a recipe, if there is one."""
        return next((entry for entry in self.entries if entry.recipe == recipe), None)

    def with_entry(self, entry: Entry) -> Manifest:
        """The same manifest with this entry: in the place of its recipe's earlier one, or else at the end.

        An entry that names files of the new one as its own is left out.
        """
        others = [each for each in self.without(entry.recipe).entries if not _shared([each.claims, entry.claims])]
        order = tuple(dict.fromkeys([*self.order, *(each.recipe for each in self.entries), entry.recipe]))
        return dataclasses.replace(self, entries=_ordered([*others, entry], order), order=order)

    def without(self, recipe: str) -> Manifest:
        """The same manifest without a recipe's entry; its position is kept for a new entry."""
        return dataclasses.replace(self, entries=tuple(e for e in self.entries if e.recipe != recipe))

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        made = dataclasses.asdict(self)
        for score in filter(None, [made["baseline"], *(entry["score"] for entry in made["entries"])]):
            score |= {name: None for name in ("perplexity", "same_top") if not math.isfinite(score[name])}
        return MANIFEST_FORMAT.stamped(made)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step."""
        files.write_text(folder / NAME, MANIFEST_FORMAT.to_text(self.to_json(), indent=2))


def read(folder: Path) -> Manifest | None:
    """The folder's manifest, or None when there is none.

    Raises:
        MimoMobileError: The manifest is damaged, names what is not in its folder, or a newer MiMo Mobile wrote it.
    """
    if not is_there(folder):
        return None

    def build(document: Value) -> Manifest:
        found = _manifest(document)
        for entry in found.entries:
            for path in (entry.path, *(part.path for part in entry.parts)):
                untrusted.beside(folder / NAME, path)
        return found

    return MANIFEST_FORMAT.read(folder / NAME, build, MimoMobileError, "move it away or use another folder")


def is_there(folder: Path) -> bool:
    """Whether there is something called manifest.json in a folder, readable or not."""
    return os.path.lexists(folder / NAME)


def check(folder: Path, source: Source, *, force: bool, progress: ProgressCallback = ignore) -> None:
    """See that ``start`` can begin in a folder; nothing is written or removed.

    Raises:
        OutputExistsError: The folder holds another checkpoint's files, files that are not ours, or something that is no
            file under the manifest's name.
        MimoMobileError: The folder's manifest cannot be read.
    """
    found = _usable(folder, force=force)  # first, as it reads no weights
    if found and not force:
        identity = identify(source, progress)
        if found.source.get(FINGERPRINT) != identity[FINGERPRINT]:
            raise OutputExistsError(f"{folder}: {_difference(found, source, identity)}; {REPLACE}")


def start(folder: Path, source: Source, *, force: bool, progress: ProgressCallback = ignore) -> Manifest:
    """The folder's manifest for this source; a new manifest is written at once, so that the folder is known as ours.

    With ``force`` the files of another checkpoint are removed, see ``remove``.

    Raises:
        OutputExistsError: As from ``check``.
        MimoMobileError: The folder's manifest cannot be read.
    """
    check(folder, source, force=force, progress=progress)
    found, identity = _usable(folder, force=force), identify(source, progress)
    if found and found.source.get(FINGERPRINT) == identity[FINGERPRINT]:
        return dataclasses.replace(found, model=source.name)
    made = Manifest(source.name, identity)
    made.write(folder)
    for entry in found.entries if found else ():
        remove(folder, entry)
    return made


def _usable(folder: Path, *, force: bool) -> Manifest | None:
    """The folder's manifest; None when the folder holds nothing, or a damaged manifest that ``force`` replaces."""
    try:
        found = read(folder)
    except MimoMobileError as error:
        if not force:
            raise
        if not (folder / NAME).is_file():
            raise OutputExistsError(f"{error}; --force replaces files only") from error
        return None
    foreign = [path.name for path in folder.glob("*") if not path.name.startswith(".")]
    if foreign and not found and not force:
        raise OutputExistsError(
            f"{folder} is not empty ({foreign[0]} …) and has no {NAME}; give --force or another --out"
        )
    return found


def remove(folder: Path, entry: Entry, kept: Sequence[Part] = ()) -> None:
    """Remove the files that an entry lists, but for those ``kept``, and the folders that are empty then.

    What the entry does not list stays, and a line in the log names it. No link is followed on the way.
    """
    paths = {folder / part.path for part in entry.parts} - {folder / part.path for part in kept}
    root = folder.resolve()
    for path in paths:
        straight = path.parent.resolve() == root / path.parent.relative_to(folder)
        if straight and (path.is_symlink() or path.is_file()):
            path.unlink()
    emptied = {parent for path in [*paths, folder / entry.path / NAME] for parent in path.parents}
    for parent in sorted(emptied, key=lambda each: len(each.parts), reverse=True):
        if folder in parent.parents and parent.is_dir() and not parent.is_symlink():
            if left := sorted(each.name for each in parent.iterdir()):
                logger.warning("%s: kept, as it holds what no manifest lists: %s", parent, ", ".join(left[:3]))
            else:
                parent.rmdir()


def _difference(found: Manifest, source: Source, identity: Mapping[str, str]) -> str:
    if FINGERPRINT not in found.source:
        return "an earlier MiMo Mobile wrote these files, and did not note what tells their checkpoint from others"
    origin = found.source.get("repository", found.model)
    return (
        f"these files were made from another checkpoint, or from an earlier state of this one. {origin} had the"
        f" fingerprint {found.source[FINGERPRINT]}; the configuration, tokenizer and weights in {source.path} have"
        f" {identity[FINGERPRINT]}"
    )


def identify(source: Source, progress: ProgressCallback = ignore) -> dict[str, str]:
    """Facts that identify a checkpoint: its content, its hub id and revision if known, and whether it is synthetic.

    Weights are read once, and again when their files have changed (``checksums``). The result depends neither on when a
    file was touched nor on the versions of our tools.
    """
    digest = hashlib.sha256()
    for path in sorted(source.path.iterdir()):
        if path.suffix in (".json", ".safetensors", ".txt", ".jinja") and path.is_file():
            digest.update(f"{path.name} {checksums.sha256(path, progress)}\n".encode())
    identity = {FINGERPRINT: digest.hexdigest()[:16]}
    try:
        if SYNTHETIC in untrusted.read_text(source.path / "config.json"):
            identity["synthetic"] = "true"
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source.path / 'config.json'}: cannot be read: {error}") from error
    if source.repository and source.revision:
        identity |= {"repository": source.repository, "revision": source.revision}
    return identity


def part(folder: Path, path: Path, progress: ProgressCallback = ignore) -> Part:
    """One file as a part of an entry, with its size and checksum."""
    return Part(path.relative_to(folder).as_posix(), path.stat().st_size, files.sha256(path, progress))


def tool_versions() -> dict[str, str]:
    """The versions of the installed packages that shape the output."""
    versions = {"mimo-mobile": __version__}
    for package in ("gguf", "llama-cpp-python", "numpy", "onnx", "onnx-ir", "onnxruntime"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _manifest(found: Value) -> Manifest:
    version = found.get(MANIFEST_FORMAT.field)
    first = version is None or version.integer() == 1
    source = _texts(found["source"])
    tools = found.get("tools") if first else None
    if first:  # its fingerprint held versions and times
        source = {name: each for name, each in source.items() if name not in (FINGERPRINT, "mimo_mobile")}
    shared_tools = _texts(tools) if tools else {} if first else None
    entries = [_entry(each, shared_tools) for each in found["entries"].items(most=MOST_ENTRIES)]
    names = [entry.recipe for entry in entries]
    if len(set(names)) != len(names):
        raise DocumentError("entries: a recipe is there twice")
    if twice := _shared([*(entry.claims for entry in entries), (NAME,)]):
        raise DocumentError(f"entries: {twice} belongs to more than one")
    order = found.get("order")
    listed = [each.text() for each in order.items(most=MOST_ENTRIES)] if order else []
    recipes = tuple(dict.fromkeys([*listed, *names]))
    return Manifest(
        found["model"].text(),
        source,
        entries=_ordered(entries, recipes),
        baseline=_score(found.get("baseline")),
        order=recipes,
    )


def _ordered(entries: Sequence[Entry], order: Sequence[str]) -> tuple[Entry, ...]:
    places = {recipe: place for place, recipe in enumerate(order)}
    return tuple(sorted(entries, key=lambda each: places[each.recipe]))


def _shared(claims: Sequence[Sequence[str]]) -> str:
    """A path that is claimed twice, or lies in another one; empty when there is none."""
    ways = sorted(tuple(path.split("/")) for each in claims for path in each)
    # What lies in a path follows it in this order.
    return next(("/".join(later) for way, later in itertools.pairwise(ways) if later[: len(way)] == way), "")


def _texts(found: Value) -> dict[str, str]:
    return {name: each.text() for name, each in found.fields().items()}


def _entry(found: Value, tools: Mapping[str, str] | None) -> Entry:
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
        tools=_texts(found["tools"]) if tools is None else tools,
        score=_score(found.get("score")),
        effort=_effort(found.get("effort")),
        ranges=ranges.from_document(measured) if (measured := found.get("ranges")) else None,
    )
    if made.format == "gguf" and not made.path.endswith(".gguf"):
        raise DocumentError(f"{found.place}.path: a .gguf file expected, {made.path} found")
    for part in made.parts:
        if not (part.path.startswith(f"{made.path}/") if made.format == "onnx" else part.path in made.claims):
            raise DocumentError(f"{found.place}.parts: {part.path} is no file of {made.path}")
    if twice := _shared([[part.path] for part in made.parts]):
        raise DocumentError(f"{found.place}.parts: {twice} is there twice, or lies in another file")
    return made


def _effort(found: Value | None) -> Effort:
    word = "none" if found is None else found.choice(*EFFORTS)
    return next(each for each in EFFORTS if each == word)


def _score(found: Value | None) -> Score | None:
    if found is None:
        return None

    def number(name: str, most: float = math.inf) -> float:
        value = found.get(name)
        return math.nan if value is None else value.number(least=0, most=most)

    return Score(
        problems=found["problems"].integer(most=MOST_TOKENS),
        exact_match=found["exact_match"].number(0, 1),
        by_kind={kind: each.number(0, 1) for kind, each in found["by_kind"].fields().items()},
        perplexity=number("perplexity"),
        same_top=number("same_top", most=1),
        answer_tokens=found["answer_tokens"].number(0, MOST_TOKENS),
        problem_set=problems.text() if (problems := found.get("problem_set")) else "",
    )
