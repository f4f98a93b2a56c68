"""What long work has computed so far, in a folder beside the quantized files: a killed run's next one goes on there.

Only a run of the same work reads it: a file's name tells the work by a hash of all that decides its result, and begins
with a hash of that and of its content. So a damaged or foreign file is found, and what it holds is computed anew. The
folder is removed when the files are finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mimo_mobile import documents, files, manifest, untrusted
from mimo_mobile.documents import Value
from mimo_mobile.errors import DiskFullError

NAME = ".calibration"
"""The folder beside a manifest."""

VERSION = 1
"""Of the files, and of what is computed: another version computes anew."""

EVERY_S = 5.0
"""So many seconds of work are lost at most, and a layer or an answer; what takes less time writes nothing."""

Array = NDArray[Any]
Layout = Sequence[tuple[DTypeLike, tuple[int, ...]]]
"""The types and shapes of a file's arrays."""

_DIGEST_BYTES = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptWork:
    """The files of one piece of work.

    Attributes:
        folder: Where they lie; it is made when the first one is written.
        kind: What the work is, in a word, such as ``layers``.
        key: A hash of all that decides what it computes.
    """

    folder: Path
    kind: str
    key: str

    @classmethod
    def of(cls, folder: Path, kind: str, *parts: object) -> KeptWork:
        """The work whose result is decided by our version and by some parts, which ``repr`` tells from others."""
        told = repr((VERSION, sorted(manifest.tool_versions().items()), kind, *parts))
        return cls(folder, kind, hashlib.sha256(told.encode()).hexdigest())

    def make_folder(self) -> None:
        """Make the folder; its name is ours alone. A link in its place goes, so that nothing is written elsewhere."""
        if self.folder.is_symlink() or self.folder.is_file():
            self.folder.unlink()
        self.folder.mkdir(exist_ok=True)

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"{self.kind}-{self.key[:32]}-{step:04}"

    def steps(self) -> list[int]:
        """The steps of which there is a file."""
        found = (re.fullmatch(rf"{self.kind}-{self.key[:32]}-([0-9]{{4}})", path.name) for path in self._all())
        return sorted(int(each[1]) for each in found if each)

    def remove_others(self) -> None:
        """Remove what other work of this kind left, and what was not finished."""
        for path in self._all():
            if path.name.startswith(f"{self.kind}-") and not path.name.startswith(f"{self.kind}-{self.key[:32]}-"):
                files.remove(path)
        files.remove_partials(self.folder)

    def write(self, step: int, parts: Iterable[bytes | Array]) -> None:
        """Write the file of a step in place of an earlier one.

        Raises:
            OSError: It cannot be written.
            DiskFullError: There is no room for it.
        """
        self.make_folder()
        content = [part if isinstance(part, bytes) else _bytes(part) for part in parts]
        with files.whole(self.path(step), force=True) as temporary, temporary.open("wb") as file:
            file.write(self._digest(content))
            for part in content:
                file.write(part)

    def read(self, step: int, most: int = untrusted.MOST_TEXT_BYTES) -> memoryview:
        """What was written for a step, of at most so many bytes.

        Raises:
            OSError: There is no file, it cannot be read, or it is larger.
            ValueError: It is damaged, or other work wrote it.
        """
        data = memoryview(untrusted.read_bytes(self.path(step), _DIGEST_BYTES + most))
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if digest != self._digest([content]):
            raise ValueError("a damaged file, or one of other work")
        return content

    def ignored(self, step: int, error: Exception) -> None:
        """Say that what lies in the place of a step's file cannot be used, and remove it."""
        shown = error.strerror if isinstance(error, OSError) else error
        logger.warning("%s: not used, and computed anew: %s", self.path(step), shown)
        files.remove(self.path(step))

    def _digest(self, parts: Iterable[bytes | memoryview]) -> bytes:
        digest = hashlib.sha256(self.key.encode())
        for part in parts:
            digest.update(part)
        return digest.digest()

    def _all(self) -> list[Path]:
        return [] if self.folder.is_symlink() or not self.folder.is_dir() else list(self.folder.iterdir())


@dataclass(slots=True)
class KeptLayers:
    """What a pass over the layers has computed: a step for each layer that is done, with all that the next one needs.

    Attributes:
        work: Its files.
        every: Whether every step stays; else the newest one does, and it is written when it is worth the while.
    """

    work: KeptWork
    every: bool = False
    _written_s: float = field(default_factory=time.monotonic)
    _failed: bool = False

    def newest(self, layout_of: Callable[[int], Layout]) -> tuple[int, list[Array]] | None:
        """The last step that can be used, and its arrays; None where there is none. What other work left is removed.

        ``layout_of`` tells the layout of a step's file, and raises a ValueError where there is no such step.
        """
        self.work.remove_others()
        steps, made = self.work.steps(), None
        if self.every:  # those before are needed, too
            steps = [step for place, step in enumerate(steps) if place == step]
        for step in steps if self.every else steps[-1:]:
            try:
                made = step, self.read(step, layout_of(step))
            except (OSError, ValueError) as error:
                self.work.ignored(step, error)
                break
        return made

    def read(self, step: int, layout: Layout) -> list[Array]:
        """The arrays of a step.

        Raises:
            OSError: There is no file, or it cannot be read.
            ValueError: It is damaged, or holds something else.
        """
        sizes = [np.dtype(kind).itemsize * int(np.prod(shape)) for kind, shape in layout]
        data, start, made = self.work.read(step, sum(sizes)), 0, []
        if len(data) != sum(sizes):
            raise ValueError(f"{len(data):,} bytes found, {sum(sizes):,} expected")
        for (kind, shape), size in zip(layout, sizes, strict=True):
            made.append(np.frombuffer(data[start : start + size], kind).reshape(shape))
            start += size
        if not all(np.isfinite(each).all() for each in made):
            raise ValueError("NaN or infinity found")
        return made

    def keep(self, step: int, arrays: Callable[[], Iterable[Array]]) -> None:
        """Keep the arrays of a step, when it is time for that.

        Raises:
            DiskFullError: There is no room for a step that is needed.
        """
        if not self.every and (self._failed or time.monotonic() - self._written_s < EVERY_S):
            return
        try:
            self.work.write(step, arrays())
        except (OSError, DiskFullError) as error:
            if self.every:
                raise
            self._failed = True  # the work itself can be done all the same
            logger.warning("%s: not kept, so that a killed run would begin anew: %s", self.work.path(step), error)
            return
        self._written_s = time.monotonic()
        for old in [] if self.every else self.work.steps():
            if old != step:
                files.remove(self.work.path(old))


class KeptAnswers(dict[int, Sequence[int]]):
    """A model's answers by the numbers of their prompts, kept as soon as it is worth the while.

    Attributes:
        texts: All texts that came of them, once they are complete.
    """

    def __init__(self, work: KeptWork, vocabulary: int) -> None:
        """Begin with what is kept of the same work, of a model that has so many tokens."""
        super().__init__()
        self._work, self._written_s, self.texts = work, time.monotonic(), list[tuple[int, ...]]()
        work.remove_others()
        for step in work.steps():
            try:
                found = documents.parse(bytes(work.read(step)).decode())
                if step == _COMPLETE:
                    self.texts = [_ids(each, 1, vocabulary) for each in found.items(least=1)]
                else:
                    self.update({int(number): _ids(each, 0, vocabulary) for number, each in found.fields().items()})
            except (OSError, ValueError) as error:
                work.ignored(step, error)

    def __setitem__(self, prompt: int, ids: Sequence[int]) -> None:
        super().__setitem__(prompt, ids)
        if time.monotonic() - self._written_s >= EVERY_S:
            self._write(0, {str(number): list(each) for number, each in sorted(self.items())})
            self._written_s = time.monotonic()

    def complete(self, texts: Sequence[tuple[int, ...]]) -> None:
        """Keep all texts."""
        self._write(_COMPLETE, texts)

    def _write(self, step: int, value: object) -> None:
        try:
            self._work.write(step, [json.dumps(value).encode()])
        except (OSError, DiskFullError) as error:
            logger.warning("%s: not kept, so that a killed run would ask again: %s", self._work.path(step), error)


_COMPLETE = 1
"""The step of ``KeptAnswers`` that holds the texts."""


def _ids(found: Value, least: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(each.integer(0, vocabulary - 1) for each in found.items(least))


def _bytes(part: Array) -> memoryview:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
