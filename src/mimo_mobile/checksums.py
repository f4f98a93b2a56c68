"""SHA-256 of large files, remembered in the cache: a file is read once, and again when it has changed."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from mimo_mobile import cache_folder, files, untrusted
from mimo_mobile.progress import ProgressCallback, ignore

CHECKSUMS = "checksums"

WORTH_REMEMBERING_BYTES = 1_000_000
"""Smaller files are read each time, which takes no time."""

SHA256 = re.compile(r"[0-9a-f]{64}")

TICK_S = 0.02
"""File systems stamp changes by a clock that ticks each 1 to 10 ms. A file that was changed so short ago is read a
little later, since another change could bear the same stamp."""

_unkept: dict[str, str] = {}
"""By key, what this process read and could not keep: it reads no file twice, either."""


def sha256(path: Path, progress: ProgressCallback = ignore) -> str:
    """The file's SHA-256 in hexadecimal, from the cache while its size, its times and its inode are what they were.

    The time of the last change of status is among them. No program can set it, so that a change is noticed even where
    the time of modification was put back. Damage that a disk does by itself is not noticed.

    Raises:
        OSError: There is no regular file, or it cannot be read.
    """
    if path.stat().st_size < WORTH_REMEMBERING_BYTES:
        return files.sha256(path, progress)
    key = _key(path)
    place = cache_folder.place(CHECKSUMS, f"{key}.sha256")
    if place is not None and cache_folder.is_ours(place):
        try:
            found = untrusted.read_text(place, most=100).strip()
            if SHA256.fullmatch(found):
                return found
        except (OSError, ValueError):
            pass  # it is made below
    elif key in _unkept:
        return _unkept[key]
    if abs(time.time_ns() - path.stat().st_ctime_ns) < TICK_S * 1e9:
        time.sleep(TICK_S)
    digest = files.sha256(path, progress)
    if _key(path) == key:  # nobody wrote to the file meanwhile
        remember(path, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Keep the SHA-256 of a file that was read just now."""
    if path.stat().st_size >= WORTH_REMEMBERING_BYTES:
        key = _key(path)
        if not cache_folder.keep(cache_folder.place(CHECKSUMS, f"{key}.sha256"), digest + "\n"):
            _unkept[key] = digest


def _key(path: Path) -> str:
    state = path.stat()
    parts = str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
