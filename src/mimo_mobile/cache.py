"""What the cache holds, how large it may get, and what goes first."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mimo_mobile import byte_size, cache_folder, checksums, files
from mimo_mobile.checksums import CHECKSUMS
from mimo_mobile.documents import FileFormat, Value
from mimo_mobile.errors import BadArgumentError, DiskFullError, ModelLoadError, OutputExistsError
from mimo_mobile.layout import DATA, MODEL

logger = logging.getLogger(__name__)

PREPACKED, COSTS, SELFTEST, PROBE, REFERENCES = "prepacked", "costs", "selftest", "probe", "references"

UNFINISHED, UNKNOWN = "unfinished", "unknown"

PREPACKED_FORMAT = FileFormat("prepacked", 2)
RECORD = "entry.json"
"""In the folder of a prepacked model: which model it is of. Its time of change is that of the last load."""

DEFAULT_LIMIT_BYTES = 40_000_000_000
"""Room for three of MiMo-7B's int4 models, which take up to 12 GB each."""

_SMALL = {
    COSTS: re.compile(r".*-[0-9a-f]{16}\.json"),
    SELFTEST: re.compile(r".*-[0-9a-f]{16}\.json"),
    CHECKSUMS: re.compile(r"[0-9a-f]{32}\.sha256"),
    PROBE: re.compile(r"[0-9a-f]{32}"),
    REFERENCES: re.compile(r".*-[0-9a-f]{16}\.npz"),
}
_MODEL_FOLDER = re.compile(r".*-[0-9a-f]{16}", re.DOTALL)
_ENTRY = re.compile(r"[0-9a-f]{16}")
_PARTIAL = re.compile(rf"\..*{re.escape(files.PARTIAL)}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in the cache's folder.

    Attributes:
        kind: The folder of the cache that it lies in: ``prepacked``, ``costs``, ``selftest``, ``checksums``,
            ``probe`` or ``references``. It is ``unfinished`` where a process was killed while it wrote, ``settings``
            for a file of earlier versions, and ``unknown`` for what we did not make.
        path: The file or folder.
        size_bytes: All of its files together; of what is unknown, of a file only.
        last_used_s: When it was written or loaded last, in seconds since 1970.
        model: The file that a prepacked model was made of; empty for the others.
        unused: Whether that file is gone or changed, so that nobody will load the entry again.
    """

    kind: str
    path: Path
    size_bytes: int
    last_used_s: float
    model: str = ""
    unused: bool = False


@dataclass(frozen=True, slots=True)
class Sum:
    """A file's size, and its SHA-256 in hexadecimal."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Sum:
        """That of a file, which is read when it has changed.

        Raises:
            OSError: It is gone or cannot be read.
        """
        return cls(path.stat().st_size, checksums.sha256(path))

    @classmethod
    def parse(cls, found: Value) -> Sum:
        """That in a record."""
        return cls(found["size_bytes"].integer(), found["sha256"].hexadecimal(64))

    def fits(self, path: Path) -> bool:
        """Whether a file is what it was; one of another size is not read for that.

        Raises:
            OSError: It is gone or cannot be read.
        """
        return path.stat().st_size == self.size_bytes and checksums.sha256(path) == self.sha256


@dataclass(frozen=True, slots=True)
class Sums:
    """What an .onnx file and the data beside it are."""

    graph: Sum
    data: Sum

    @classmethod
    def of(cls, model: Path) -> Sums:
        """Those of the two files.

        Raises:
            OSError: One of them is gone or cannot be read.
        """
        return cls(Sum.of(model), Sum.of(model.with_name(DATA)))

    @classmethod
    def parse(cls, found: Value) -> Sums:
        """Those in a record."""
        return cls(Sum.parse(found["graph"]), Sum.parse(found["data"]))

    def fit(self, model: Path) -> bool:
        """Whether the two files are what they were.

        Raises:
            OSError: One of them is gone or cannot be read.
        """
        return self.graph.fits(model) and self.data.fits(model.with_name(DATA))


@dataclass(frozen=True, slots=True)
class Record:
    """What an entry says of itself.

    Attributes:
        model: The whole path of the .onnx file that it was made of.
        source: What that file and its data were.
        files: What the entry's own graph and data are.
    """

    model: str
    source: Sums
    files: Sums


def limit_bytes() -> int:
    """How much prepacked models and references may take together: ``$MIMO_CACHE_LIMIT``, such as ``20GB``, else 40 GB.

    Raises:
        BadArgumentError: The variable holds something else.
    """
    text = os.environ.get("MIMO_CACHE_LIMIT", "")
    if not text:
        return DEFAULT_LIMIT_BYTES
    found = byte_size.parse(text)
    if found is None:
        raise BadArgumentError(f"MIMO_CACHE_LIMIT is {text!r}; a size such as 20GB or 500MB expected")
    return found


def write_record(folder: Path, record: Record) -> None:
    """Say in an entry's folder which model it is of."""
    (folder / RECORD).write_text(PREPACKED_FORMAT.to_text(asdict(record)), encoding="utf-8")


def read_record(file: Path) -> Record:
    """What an entry says of itself.

    Raises:
        ModelLoadError: It is damaged, or another version's.
    """

    def build(found: Value) -> Record:
        return Record(found["model"].text(), Sums.parse(found["source"]), Sums.parse(found["files"]))

    return PREPACKED_FORMAT.read(file, build, ModelLoadError, "the entry is not used")


def touch(folder: Path) -> None:
    """Remember that an entry was used now; a cache that cannot be written is used all the same."""
    try:
        os.utime(folder / RECORD, follow_symlinks=False)
    except OSError as error:
        logger.debug("%s: %s", folder, error)


def entries() -> list[CacheEntry]:
    """All that the cache holds, the one that was used last first; locks, which are empty files, are left out."""
    folder = cache_folder.root()
    return sorted(_entries(folder) if folder else (), key=lambda each: -each.last_used_s)


def clear(*, unused_only: bool = False) -> int:
    """Remove all that we made, or only prepacked models whose source is gone or changed and what was not finished.

    A process that has an entry mapped keeps its pages until it ends: Linux frees a removed file then. What is unknown
    stays. Returns the bytes that are freed.
    """
    freed = 0
    for each in entries():
        if each.unused or not (unused_only or each.kind in (UNKNOWN, UNFINISHED)):
            freed += remove(each.path)
    for folder in _folders(*_SMALL):
        freed += remove_unfinished(folder)
    models = [folder for top in _folders(PREPACKED) for folder in _listed(top) if _is_model_folder(folder)]
    for folder in models:
        with suppress(OutputExistsError, OSError), files.locked(folder):  # somebody writes there
            freed += remove_unfinished(folder)
            if _listed(folder) == [folder / files.LOCK]:
                (folder / files.LOCK).unlink()
                folder.rmdir()
    return freed


def remove(path: Path) -> int:
    """Remove a file that we made, or an entry, but nothing else that lies in it; returns the bytes that are freed."""
    freed = 0
    try:
        if not _is_own(path, stat.S_ISDIR):
            size = _file_size(path)
            path.unlink(missing_ok=True)
            return size
        for each in (path / RECORD, path / MODEL, path / DATA):
            size = _file_size(each)
            each.unlink(missing_ok=True)
            freed += size
        path.rmdir()
    except OSError as error:
        logger.warning("%s: cannot be removed: %s", path, error.strerror)
    return freed


def remove_unfinished(folder: Path) -> int:
    """Remove what killed processes left in a folder that is ours alone now; returns the bytes that are freed."""
    found = [each for each in _listed(folder) if _PARTIAL.fullmatch(each.name)]
    sizes = {each: _size(each) for each in found}
    try:
        files.remove_partials(folder)
    except OSError as error:
        logger.warning("%s: cannot be removed: %s", folder, error.strerror)
    return sum(size for each, size in sizes.items() if not os.path.lexists(each))


def goes_for(needed_bytes: int, folder: Path) -> list[CacheEntry]:
    """What must go so that so many bytes can be added to a folder; nothing is removed here.

    These are other entries of a prepacked model's folder, those that nobody will load again, then prepacked models and
    references unused for longest.

    Raises:
        DiskFullError: It fits neither within the limit nor on the disk, whatever goes.
    """
    limit, goes, kept = limit_bytes(), list[CacheEntry](), list[CacheEntry]()
    if needed_bytes > limit:
        raise DiskFullError(f"{folder}: larger than MIMO_CACHE_LIMIT")
    for each in entries():
        if each.kind in (PREPACKED, REFERENCES):
            replaced = each.kind == PREPACKED and each.path.parent == folder
            (goes if each.unused or replaced else kept).append(each)
    while kept and sum(each.size_bytes for each in kept) + needed_bytes > limit:
        goes.append(kept.pop())
    free = shutil.disk_usage(folder).free + sum(each.size_bytes for each in goes)
    if free < needed_bytes:
        raise DiskFullError(
            f"{folder}: {free / 1e9:.1f} GB free, {needed_bytes / 1e9:.1f} GB needed to keep prepacked weights or a"
            " reference (MIMO_CACHE chooses another folder)"
        )
    return goes


def _entries(top: Path) -> Iterator[CacheEntry]:
    for path in _listed(top):
        if path.name == PREPACKED and _is_own(path, stat.S_ISDIR):
            for folder in _listed(path):
                if _is_model_folder(folder):
                    yield from _in_model_folder(folder)
                else:
                    yield _entry(UNKNOWN, folder)
        elif path.name in _SMALL and _is_own(path, stat.S_ISDIR):
            for file in _listed(path):
                known = _SMALL[path.name].fullmatch(file.name) and _is_own(file, stat.S_ISREG)
                yield _entry(path.name, file) if known else _other(file)
        elif path.name == "qnn-affinity.json" and _is_own(path, stat.S_ISREG):
            yield _entry("settings", path)
        else:
            yield _entry(UNKNOWN, path)


def _in_model_folder(folder: Path) -> Iterator[CacheEntry]:
    for path in _listed(folder):
        if _ENTRY.fullmatch(path.name) and _is_own(path, stat.S_ISDIR):
            yield _prepacked(path)
        elif path.name != files.LOCK or not _is_own(path, stat.S_ISREG):
            yield _other(path)


def _prepacked(folder: Path) -> CacheEntry:
    model, unused, record = "", True, folder / RECORD
    if cache_folder.is_ours(record):
        with suppress(ModelLoadError, OSError, ValueError):  # an earlier version's, or of a model that is gone
            found = read_record(record)
            model = found.model
            unused = not found.source.fit(Path(model))
    return _entry(PREPACKED, folder, model, unused)


def _other(path: Path) -> CacheEntry:
    kept = _PARTIAL.fullmatch(path.name) and (_is_own(path, stat.S_ISREG) or _is_own(path, stat.S_ISDIR))
    return _entry(UNFINISHED if kept else UNKNOWN, path)


def _entry(kind: str, path: Path, model: str = "", unused: bool = False) -> CacheEntry:
    """What is at a path; what vanishes meanwhile counts nothing."""
    used_s = 0.0
    for each in (path, path / RECORD) if kind == PREPACKED else (path,):
        with suppress(OSError):
            used_s = each.lstat().st_mtime
    return CacheEntry(kind, path, _size(path) if kind != UNKNOWN else _file_size(path), used_s, model, unused)


def _folders(*kinds: str) -> list[Path]:
    """The cache's folders of some kinds, as far as they are there and ours."""
    top = cache_folder.root()
    return [top / kind for kind in kinds if _is_own(top / kind, stat.S_ISDIR)] if top else []


def _is_model_folder(path: Path) -> bool:
    return bool(_MODEL_FOLDER.fullmatch(path.name)) and _is_own(path, stat.S_ISDIR)


def _is_own(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Whether there is a file or a folder, no link, that belongs to us: what may be removed."""
    try:
        state = path.lstat()
    except OSError:
        return False
    return is_kind(state.st_mode) and state.st_uid == os.geteuid()


def _listed(folder: Path) -> list[Path]:
    """What a folder holds; nothing when it is gone or cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; links and what vanishes meanwhile count nothing."""
    inside = (Path(base, name) for base, _, names in os.walk(path) for name in names)
    return _file_size(path) + sum(map(_file_size, inside))


def _file_size(path: Path) -> int:
    try:
        state = path.lstat()
    except OSError:
        return 0
    return state.st_size if stat.S_ISREG(state.st_mode) else 0


def cpu() -> str:
    """The processor, as far as the choice of kernels depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    keys = "flags", "Features", "model name", "CPU part"
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(keys)})])
