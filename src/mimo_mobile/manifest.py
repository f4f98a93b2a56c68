"""Reads and writes manifest.json: what a folder of quantized files holds, where it came from, and what it lost.

A file is entered only when it is whole, and its entry is struck out before it is replaced, so that each entry is true
at any moment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mimo_mobile import __version__, checksums, files, mimo7b, scores, untrusted
from mimo_mobile.documents import DocumentError, FileFormat, Value
from mimo_mobile.entries import Entry, Part, Rejected, read_entry, read_rejected, shared, texts
from mimo_mobile.errors import CheckpointError, MimoMobileError, OutputExistsError
from mimo_mobile.hub import Source
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.scores import Score

NAME = "manifest.json"
FINGERPRINT, SYNTHETIC = "fingerprint", "synthetic"
REPLACE = "--force removes them and starts anew, another --out keeps them"
MANIFEST_FORMAT = FileFormat("manifest", 2)

MOST_ENTRIES = 1000
"""More entries are not believed."""

logger = logging.getLogger(__name__)


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
        rejected: What lost too much. A recipe is in ``entries`` or here.
    """

    model: str
    source: Mapping[str, str]
    entries: tuple[Entry, ...] = ()
    baseline: Score | None = None
    order: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    def entry(self, recipe: str) -> Entry | None:
        """The entry of a recipe, if there is one."""
        return next((entry for entry in self.entries if entry.recipe == recipe), None)

    def with_entry(self, entry: Entry) -> Manifest:
        """The same manifest with this entry: in the place of its recipe's earlier one, or else at the end.

        An entry that names files of the new one as its own is left out.
        """
        base = self.without(entry.recipe)
        others = [each for each in base.entries if not shared([each.claims, entry.claims])]
        order = tuple(dict.fromkeys([*self.order, *(each.recipe for each in self.entries), entry.recipe]))
        return dataclasses.replace(base, entries=_ordered([*others, entry], order), order=order)

    def without(self, recipe: str) -> Manifest:
        """The same manifest without a recipe's entry; its position is kept for a new entry."""
        entries = tuple(each for each in self.entries if each.recipe != recipe)
        rejected = tuple(each for each in self.rejected if each.entry.recipe != recipe)
        return dataclasses.replace(self, entries=entries, rejected=rejected)

    def rejection(self, recipe: str) -> Rejected | None:
        """What is known of a recipe that lost too much, if it did."""
        return next((each for each in self.rejected if each.entry.recipe == recipe), None)

    def with_rejected(self, entry: Entry, reasons: Sequence[str]) -> Manifest:
        """The same manifest, in which an entry is one that lost too much."""
        others = self.without(entry.recipe)
        return dataclasses.replace(others, rejected=(*others.rejected, Rejected(entry, tuple(reasons))))

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        made = dataclasses.asdict(self)
        made |= {"baseline": scores.to_json(self.baseline) if self.baseline else None}
        made |= {"entries": [each.to_json() for each in self.entries]}
        made |= {"rejected": [{"entry": each.entry.to_json(), "reasons": each.reasons} for each in self.rejected]}
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
        for entry in (*found.entries, *(each.aside for each in found.rejected)):
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
    if found and not force and not is_of(found, source, progress):
        raise OutputExistsError(f"{folder}: {_difference(found, source, identify(source))}; {REPLACE}")


def is_of(found: Manifest, source: Source, progress: ProgressCallback = ignore) -> bool:
    """Whether a manifest is of a checkpoint as it is now."""
    return found.source.get(FINGERPRINT) == identify(source, progress)[FINGERPRINT]


def start(folder: Path, source: Source, *, force: bool, progress: ProgressCallback = ignore) -> Manifest:
    """The folder's manifest for this source; a new manifest is written at once, so that the folder is known as ours.

    With ``force`` the files of another checkpoint are removed, see ``remove``.

    Raises:
        OutputExistsError: As from ``check``.
        MimoMobileError: The folder's manifest cannot be read.
    """
    check(folder, source, force=force, progress=progress)
    found = _usable(folder, force=force)
    if found and is_of(found, source, progress):
        return dataclasses.replace(found, model=source.name)
    made = Manifest(source.name, identify(source))
    made.write(folder)
    for entry in (*found.entries, *(each.aside for each in found.rejected)) if found else ():
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
        if mimo7b.SYNTHETIC in untrusted.read_text(source.path / "config.json"):
            identity[SYNTHETIC] = "true"
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
    source = texts(found["source"])
    tools = found.get("tools") if first else None
    if first:  # its fingerprint held versions and times
        source = {name: each for name, each in source.items() if name not in (FINGERPRINT, "mimo_mobile")}
    shared_tools = texts(tools) if tools else {} if first else None
    entries = [read_entry(each, shared_tools) for each in found["entries"].items(most=MOST_ENTRIES)]
    names = [entry.recipe for entry in entries]
    if len(set(names)) != len(names):
        raise DocumentError("entries: a recipe is there twice")
    if twice := shared([*(entry.claims for entry in entries), (NAME,)]):
        raise DocumentError(f"entries: {twice} belongs to more than one")
    kept = found.get("rejected")
    rejected = [read_rejected(each) for each in kept.items(most=MOST_ENTRIES)] if kept else []
    gone = [each.entry.recipe for each in rejected]
    if len({*names, *gone}) != len(names) + len(gone):
        raise DocumentError("rejected: a recipe is there twice, or among the entries, too")
    order = found.get("order")
    listed = [each.text() for each in order.items(most=MOST_ENTRIES)] if order else []
    recipes = tuple(dict.fromkeys([*listed, *names]))
    return Manifest(
        found["model"].text(),
        source,
        entries=_ordered(entries, recipes),
        baseline=scores.read_score(found.get("baseline")),
        order=recipes,
        rejected=tuple(rejected),
    )


def _ordered(entries: Sequence[Entry], order: Sequence[str]) -> tuple[Entry, ...]:
    places = {recipe: place for place, recipe in enumerate(order)}
    return tuple(sorted(entries, key=lambda each: places[each.recipe]))
