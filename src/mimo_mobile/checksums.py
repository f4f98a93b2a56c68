"""SHA-256 of large files, remembered in the cache: a file is read once, and again when it has changed."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from mimo_mobile import files
from mimo_mobile.cache import cache_folder
from mimo_mobile.progress import ProgressCallback, ignore

logger = logging.getLogger(__name__)

WORTH_REMEMBERING_BYTES = 1_000_000
"""Smaller files are read each time, which takes no time."""

SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256(path: Path, progress: ProgressCallback = ignore) -> str:
    """The file's SHA-256 in hexadecimal, from the cache while its size, its times and its inode are what they were.

    The time of the last change of status is among them. No program can set it, so that a change is noticed even where
    the time of modification was put back. Damage that a disk does by itself is not noticed.
    """
    if path.stat().st_size < WORTH_REMEMBERING_BYTES:
        return files.sha256(path, progress)
    place = _place(path)
    try:
        found = place.read_text(encoding="ascii").strip()
        if SHA256.fullmatch(found):
            return found
    except (OSError, UnicodeDecodeError):
        pass  # it is made below
    digest = files.sha256(path, progress)
    if _place(path) == place:  # nobody wrote to the file meanwhile
        try:
            files.write_text(place, digest + "\n")
        except OSError as error:
            logger.warning("%s: cannot be kept: %s", place, error)
    return digest


def _place(path: Path) -> Path:
    state = path.stat()
    parts = str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
    return cache_folder() / "checksums" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.sha256"
