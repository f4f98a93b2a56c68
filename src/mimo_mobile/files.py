"""Outputs that are whole or absent: written beside their final name, flushed to disk, then renamed.

Nothing is replaced but what mimo writes: no pipe or device, and no folder that holds anything of somebody else's.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mimo_mobile import untrusted
from mimo_mobile.errors import DiskFullError, OutputExistsError
from mimo_mobile.progress import Progress, ProgressCallback, ignore

LOCK = ".lock"
"""The empty file in a folder that is held while it is written to."""

PARTIAL = ".partial"
"""The suffix of folders in which outputs are made. A process that writes there holds a lock on the folder; one that
nobody holds may be deleted at any time."""

_SYSTEM = tuple(Path(name) for name in ("/dev", "/dev/fd", "/proc", "/sys"))


@dataclass(frozen=True, slots=True)
class FolderKind:
    """A kind of folder that mimo writes, so that ``--force`` can tell such a folder from one that holds other things.

    Attributes:
        names: Patterns of all files that it may hold, relative to the folder.
        mark: A file that it must hold.
        text: What the mark must contain; empty takes any content.
    """

    names: tuple[str, ...]
    mark: str
    text: bytes = b""

    def stranger(self, folder: Path) -> str:
        """The name of something in ``folder`` that no such folder holds; empty when there is none."""
        patterns = [Path(name).parts for name in self.names]

        def allowed(parts: tuple[str, ...], is_folder: bool) -> bool:
            return any(
                (len(pattern) > len(parts) if is_folder else len(pattern) == len(parts))
                and all(map(fnmatchcase, parts, pattern))
                for pattern in patterns
            )

        for base, folders, found in os.walk(folder):
            folders[:] = [name for name in folders if not fnmatchcase(name, f".*{PARTIAL}")]
            for name in sorted([*folders, *found]):
                path = Path(base, name)
                is_folder = path.is_dir() and not path.is_symlink()
                usual = is_folder or path.is_file() or path.is_symlink()
                if not usual or not allowed(path.relative_to(folder).parts, is_folder):
                    return path.relative_to(folder).as_posix()
        return ""

    def is_marked(self, folder: Path) -> bool:
        """Whether the mark is there."""
        try:
            with untrusted.opened(folder / self.mark) as file:
                return not self.text or self.text in file.read(untrusted.MOST_TEXT_BYTES)
        except OSError:
            return False


@contextmanager
def whole(final: Path, *, force: bool, kind: FolderKind | None = None) -> Iterator[Path]:
    """A path to write to, in a folder of its own beside ``final``; in the end it is renamed to ``final``.

    The block may make a file there, or a folder when ``kind`` says of which kind. A process that is killed leaves the
    earlier ``final``, or none, and something that ends in ``.partial``, which the next start removes. A link in the
    place of ``final`` is replaced itself; what it leads to stays.

    Raises:
        OutputExistsError: ``final`` exists and ``force`` is false, or it is something that is never replaced.
        DiskFullError: The disk is full, or takes no file of this size.
    """
    final = replaceable(final, force=force, kind=kind)
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final.parent, f".{glob.escape(final.name)}.*{PARTIAL}")
    with workplace(final) as folder, _full_disk_named(final):
        temporary = folder / final.name
        yield temporary
        _flush(temporary)
        # What appeared meanwhile is as safe as what was there before.
        replaceable(final, force=True, kind=kind)
        old = folder / f"{final.name}.old"
        if final.is_dir() or temporary.is_dir():
            # A folder cannot be renamed over a full one, nor over a file: between the two steps there is none.
            with suppress(FileNotFoundError):
                os.replace(final, old)
        try:
            os.replace(temporary, final)
        except OSError:
            with suppress(FileNotFoundError):
                os.replace(old, final)
            raise
        _flush_entry(final.parent)


@contextmanager
def _full_disk_named(final: Path) -> Iterator[None]:
    """Say which output did not fit: numpy's error says only how many elements it has written, others say less."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "requested and" in str(error):
            raise DiskFullError(
                f"{final}: not written, the disk or the quota is full, or no file may be so large"
                f" ({error.strerror or error}); make room, or choose another place"
            ) from error
        raise


@contextmanager
def workplace(final: Path) -> Iterator[Path]:
    """A new folder beside ``final`` whose name ends in ``.partial``, held by this process and removed in the end."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=PARTIAL, dir=final.parent))
        try:
            descriptor = _held(folder)
            break
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for abandoned before we held it
        except OSError:  # a file system without locks, where nothing counts as abandoned
            descriptor = None
            break
    try:
        yield folder
    finally:
        remove(folder)
        if descriptor is not None:
            os.close(descriptor)


def replaceable(final: Path, *, force: bool, kind: FolderKind | None = None) -> Path:
    """The path of an output that may be written, or written over.

    Args:
        final: Where the output goes.
        force: Whether an earlier output may be replaced.
        kind: The kind of folder that the output is; None for a file.

    Raises:
        OutputExistsError: There is something that ``force`` does not allow to replace, or that is never replaced.
    """
    if final.name in ("", ".."):
        final = Path(os.path.abspath(final))
    try:
        mode = final.stat().st_mode
    except OSError:  # nothing, or a link to nothing
        mode = 0
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OutputExistsError(f"{final}: {untrusted.kind(final)} found, which is never replaced; name another output")
    place = final.parent.resolve()
    if place in _SYSTEM or any(place.is_relative_to(system) for system in _SYSTEM[2:]):
        raise OutputExistsError(
            f"{final}: a folder of the system's devices, where nothing is written; name another output"
        )
    if not force and (mode or final.is_symlink()):
        raise OutputExistsError(f"{final} exists; give --force to replace it, or another output")
    if stat.S_ISDIR(mode) and not final.is_symlink():
        _check_folder(final, kind)
    return final


def _check_folder(folder: Path, kind: FolderKind | None) -> None:
    """See that a folder may be replaced: it is empty, or holds only what mimo wrote."""
    advice = "remove it yourself if nobody needs it, or name another output"
    with suppress(FileNotFoundError):  # a current folder that was removed
        if Path.cwd().is_relative_to(folder.resolve()):
            raise OutputExistsError(f"{folder}: the current folder is in it; {advice}")
    first = next(iter(sorted(each.name for each in folder.iterdir())), None)
    if first is None:
        return
    if kind is None:
        raise OutputExistsError(f"{folder}: a folder found that is not empty ({first} …), a file is written; {advice}")
    if not kind.is_marked(folder):
        raise OutputExistsError(
            f"{folder}: a folder found that mimo did not write (no {kind.mark} of its own); {advice}"
        )
    if stranger := kind.stranger(folder):
        raise OutputExistsError(f"{folder}: it holds {stranger!r}, which mimo did not write; {advice}")


def check_room(path: Path, needed: int) -> None:
    """See that an output of ``needed`` bytes, or what goes into a folder, fits beside what is there.

    Raises:
        DiskFullError: It does not.
    """
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    if needed > free:
        raise DiskFullError(
            f"{path}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; make room or choose another --out"
        )


def write_text(final: Path, text: str) -> None:
    """Replace a small text file in one step."""
    with whole(final, force=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it; no error when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove what interrupted runs left in a folder that is locked by this process."""
    for path in folder.glob(f".*{PARTIAL}"):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
    _remove_abandoned(folder, f".*{PARTIAL}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Raises:
        OutputExistsError: Another process holds it, or something else lies where our lock belongs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _locked_file(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _held(folder: Path) -> int:
    """A descriptor with a lock on a folder that is still there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), folder.lstat()):
            raise FileNotFoundError(folder)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove unfinished folders that no process holds."""
    for path in folder.glob(pattern):
        try:
            descriptor = _held(path)
        except OSError:  # held, no folder, or on a file system without locks
            continue
        try:
            remove(path)
        finally:
            os.close(descriptor)


def _locked_file(folder: Path) -> int:
    """The descriptor of a folder's lock, which we hold until it is closed."""
    while True:
        descriptor = _lock_file(folder / LOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise OutputExistsError(f"{folder}: another mimo process is writing here; wait for it to end") from error
        os.close(descriptor)  # whoever held it has removed it


def _lock_file(path: Path) -> int:
    """A descriptor of a lock; what lies in its place is neither followed, emptied nor waited for."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    except OSError:
        if not os.path.lexists(path) or stat.S_ISREG(path.lstat().st_mode):
            raise
    found = untrusted.kind_of(path.lstat().st_mode)
    raise OutputExistsError(f"{path}: {found} found, our lock expected; remove it")


def sha256(path: Path, progress: ProgressCallback = ignore) -> str:
    """The file's SHA-256 in hexadecimal.

    Raises:
        OSError: There is no regular file, or it cannot be read.
    """
    digest, done = hashlib.sha256(), 0
    with untrusted.opened(path) as handle:
        total = os.fstat(handle.fileno()).st_size
        while block := handle.read(1 << 22):
            digest.update(block)
            done += len(block)
            progress(Progress("checksum", done, total, path.name))
    return digest.hexdigest()


def _flush(path: Path) -> None:
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if each.is_file():
            _flush_entry(each)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
