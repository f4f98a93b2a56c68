"""Binaries of a model that is not compiled to its end yet: after a killed run the next one goes on with them.

Only a run of the same work takes them: each finished binary has a record, written after it, with a hash of all that
decides it and with the sizes of its files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mimo_mobile import documents, files, untrusted
from mimo_mobile.convert.npu.compiler import Compiled
from mimo_mobile.documents import Value


class KeptPieces:
    """The folder where one chip's binaries are made."""

    def __init__(self, folder: Path, key: str) -> None:
        """Take up what the work of this key left in ``folder``, which this process holds, and remove all else."""
        self.folder, self._key = folder, key
        self._found: dict[str, list[Compiled]] = {}
        there = {
            path.name: path.stat().st_size for path in folder.iterdir() if path.is_file() and not path.is_symlink()
        }
        wanted = {files.LOCK}
        for record in folder.glob("*.json"):
            try:
                made, sizes = self._parse(documents.parse(untrusted.read_text(record)))
            except (OSError, ValueError):
                continue  # not finished, or of other work
            if sizes.items() <= there.items():
                self._found[made[0].name] = made
                wanted |= {record.name, *sizes}
        for path in folder.iterdir():
            if path.name not in wanted:
                files.remove(path)

    @classmethod
    @contextmanager
    def beside(cls, out: Path, *decides: object) -> Iterator[KeptPieces]:
        """The pieces for the folder ``out``, which ``decides``, told apart by ``repr``, and files' content decide.

        They are removed when the block ends well, or leaves no finished binary.

        Raises:
            OutputExistsError: Another process compiles them.
        """
        folder = out.with_name(f".{out.name}.pieces")
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        folder.mkdir(exist_ok=True)
        try:
            with files.locked(folder):
                yield cls(folder, hashlib.sha256(repr(decides).encode()).hexdigest())
        except BaseException:
            if not any(path.suffix == ".json" or path.name == files.LOCK for path in folder.iterdir()):
                files.remove(folder)
            raise
        files.remove(folder)

    def of(self, names: Iterable[str]) -> list[Compiled]:
        """What compiling the graphs of a binary took, if that is done; else empty."""
        wanted = list(names)
        found = self._found.get(wanted[0], [])
        return found if [each.name for each in found] == wanted else []

    def keep(self, made: list[Compiled]) -> None:
        """Note that these graphs and their binary are finished; the files' names begin with the graphs'."""
        sizes = {}
        for path in [path for each in made for path in self.folder.glob(f"{each.name}[._]*")]:
            with path.open("rb") as file:
                os.fsync(file.fileno())  # the record says that it is there
            sizes[path.name] = path.stat().st_size
        document = {"key": self._key, "graphs": [dataclasses.asdict(each) for each in made], "files": sizes}
        files.write_text(self.folder / f"{made[0].name}.json", json.dumps(document))

    def move_to(self, out: Path) -> None:
        """Move the binaries and the graphs that refer to them to ``out``."""
        for path in [*self.folder.glob("*.onnx"), *self.folder.glob("*.bin")]:
            os.replace(path, out / path.name)

    def _parse(self, found: Value) -> tuple[list[Compiled], dict[str, int]]:
        found["key"].choice(self._key)
        made = [
            Compiled(
                each["name"].text(),
                each["seconds"].number(least=0),
                each["size_bytes"].integer(),
                each["peak_rss_bytes"].integer(),
            )
            for each in found["graphs"].items(least=1)
        ]
        return made, {name: size.integer() for name, size in found["files"].fields().items()}
