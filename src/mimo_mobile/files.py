"""Outputs that are whole or absent: written beside their final name, flushed to disk, then renamed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimo_mobile.errors import DiskFullError, OutputExistsError
from mimo_mobile.progress import Progress, ProgressCallback, ignore

PARTIAL = ".partial"
"""The suffix of outputs that are not finished; such files and folders may be deleted at any time."""


@contextmanager
def whole(final: Path, *, force: bool) -> Iterator[Path]:
    """A temporary path beside ``final``, which is renamed to it when the block ends well and removed otherwise.

    The block may make a file or a folder there. A process that is killed leaves the earlier ``final``, or none, and
    something that ends in ``.partial``.

    Raises:
        OutputExistsError: ``final`` exists and ``force`` is false.
    """
    if final.exists() and not force:
        raise OutputExistsError(f"{final} exists; give --force to replace it, or another output")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}{PARTIAL}")
    remove(temporary)
    try:
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and final.is_dir():
            # A folder cannot be renamed over a full one: between the two steps there is none.
            old = final.with_name(f".{final.name}.{os.getpid()}.old{PARTIAL}")
            os.replace(final, old)
            os.replace(temporary, final)
            remove(old)
        else:
            remove_if_other_kind(final, temporary)
            os.replace(temporary, final)
        _flush_entry(final.parent)
    except BaseException:
        remove(temporary)
        raise


def check_room(path: Path, needed: int) -> None:
    """See that an output of ``needed`` bytes fits beside what is there.

    Raises:
        DiskFullError: It does not.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DiskFullError(
            f"{path}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; make room or choose another --out"
        )


def remove_if_other_kind(final: Path, temporary: Path) -> None:
    """Remove ``final`` when a folder is about to replace a file, or a file a folder."""
    if final.exists() and final.is_dir() != temporary.is_dir():
        remove(final)


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
        remove(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Raises:
        OutputExistsError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputExistsError(f"{folder}: another mimo process is writing here; wait for it to end") from error
        yield


def sha256(path: Path, progress: ProgressCallback = ignore) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as handle:
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
