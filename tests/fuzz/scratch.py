"""A folder for the files of one input at a time, in memory where the system has such a place."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def scratch() -> Path:
    """The folder; it is removed when the process ends."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mimo-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
