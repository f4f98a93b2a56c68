"""What was learnt of this machine and is kept on disk: where, how large it may get, and what goes first."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile import files
from mimo_mobile.documents import FileFormat
from mimo_mobile.errors import BadArgumentError, ModelLoadError, OutputExistsError
from mimo_mobile.layout import DATA

logger = logging.getLogger(__name__)

PREPACKED = "prepacked"
PREPACKED_FORMAT = FileFormat("prepacked", 1)
RECORD = "entry.json"
"""In the folder of a prepacked model: which model it is of. Its time of change is that of the last load."""

DEFAULT_LIMIT_BYTES = 40_000_000_000
"""Room for three of MiMo-7B's int4 models, which take up to 12 GB each."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing that is kept.

    Attributes:
        kind: The folder of the cache that it lies in: ``prepacked``, ``costs``, ``selftest``,
            ``checksums`` or ``probe``.
        path: The file or folder.
        size_bytes: All of its files together.
        last_used_s: When it was written or loaded last, in seconds since 1970.
        model: The file that a prepacked model was made of; empty for the small files.
        unused: Whether that file is gone or changed, so that nobody will load the entry again.
    """

    kind: str
    path: Path
    size_bytes: int
    last_used_s: float
    model: str = ""
    unused: bool = False


def cache_folder() -> Path:
    """``$MIMO_CACHE``, else ``mimo-mobile`` in the user's cache folder."""
    if chosen := os.environ.get("MIMO_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimo-mobile"


def limit_bytes() -> int:
    """How much prepacked models may take together: ``$MIMO_CACHE_LIMIT``, such as ``20GB``, else 40 GB.

    Raises:
        BadArgumentError: The variable holds something else.
    """
    text = os.environ.get("MIMO_CACHE_LIMIT", "")
    if not text:
        return DEFAULT_LIMIT_BYTES
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), flags=re.IGNORECASE)
    if found is None or len(found[1]) > 18:
        raise BadArgumentError(f"MIMO_CACHE_LIMIT is {text!r}; a size such as 20GB or 500MB expected")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def state_of(model: Path) -> str:
    """What changes with a model: the hash of its graph, size and time of its data; empty when it is gone."""
    if not model.is_file() or not (data := model.with_name(DATA)).is_file():
        return ""
    state = data.stat()
    return f"{hashlib.sha256(model.read_bytes()).hexdigest()} {state.st_size} {state.st_mtime_ns}"


def write_record(folder: Path, model: Path) -> None:
    """Say in an entry's folder which model it is of."""
    text = PREPACKED_FORMAT.to_text({"model": str(model.resolve()), "state": state_of(model)})
    (folder / RECORD).write_text(text, encoding="utf-8")


def read_record(file: Path) -> tuple[str, str]:
    """(model's path, state) of an entry's record.

    Raises:
        ModelLoadError: It is damaged, or a newer MiMo Mobile's.
    """
    return PREPACKED_FORMAT.read(
        file, lambda found: (found["model"].text(), found["state"].text()), ModelLoadError, "the entry is not used"
    )


def touch(folder: Path) -> None:
    """Remember that an entry was used now; a cache that cannot be written is used all the same."""
    try:
        os.utime(folder / RECORD)
    except OSError as error:
        logger.debug("%s: %s", folder, error)


def entries() -> list[CacheEntry]:
    """All that the cache holds, the one that was used last first."""
    return sorted(_entries(cache_folder()), key=lambda each: -each.last_used_s)


def _entries(folder: Path) -> Iterator[CacheEntry]:
    for path in folder.glob(f"{PREPACKED}/*/*"):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            record = path / RECORD
            try:
                model, state = read_record(record)
                unused, used_s = state_of(Path(model)) != state, record.stat().st_mtime
            except (ModelLoadError, OSError):  # an earlier version's
                model, unused, used_s = "", True, path.stat().st_mtime
            size = sum(each.stat().st_size for each in path.iterdir() if each.is_file())
            yield CacheEntry(PREPACKED, path, size, used_s, model, unused)
    for kind in ("costs", "selftest", "checksums", "probe"):
        for path in folder.glob(f"{kind}/*"):
            if path.is_file():
                yield CacheEntry(kind, path, path.stat().st_size, path.stat().st_mtime)


def clear(*, unused_only: bool = False) -> int:
    """Remove everything, or only prepacked models whose source is gone or changed; returns the bytes that are freed.

    A process that has an entry mapped keeps its pages until it ends: Linux frees a removed file then.
    """
    freed = 0
    for each in entries():
        if (each.unused or not unused_only) and _removed(each):
            freed += each.size_bytes
    for folder in cache_folder().glob(f"{PREPACKED}/*"):
        with suppress(OutputExistsError), files.locked(folder):  # somebody writes there
            files.remove_partials(folder)
    return freed


def _removed(entry: CacheEntry) -> bool:
    """Whether an entry could be removed."""
    try:
        files.remove(entry.path)
    except OSError as error:
        logger.warning("%s: cannot be removed: %s", entry.path, error)
        return False
    return True


def make_room(needed_bytes: int) -> None:
    """Remove prepacked models that nobody will load again, then those unused for longest, until so much more fits."""
    kept = []
    for each in entries():
        if each.kind == PREPACKED:
            if each.unused:
                logger.info("%s: removed, %s is gone or has changed", each.path, each.model or "what it was made of")
                _removed(each)
            else:
                kept.append(each)
    limit = limit_bytes()
    while kept and sum(each.size_bytes for each in kept) + needed_bytes > limit:
        oldest = kept.pop()
        logger.info("%s: removed to stay below %.1f GB (MIMO_CACHE_LIMIT)", oldest.path, limit / 1e9)
        _removed(oldest)


def cpu() -> str:
    """The processor, as far as the choice of kernels depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    keys = "flags", "Features", "model name", "CPU part"
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(keys)})])
