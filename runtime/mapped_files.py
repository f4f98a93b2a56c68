"""The files that a loaded model is mapped from, kept open to notice when somebody changes them in place.

Engines read weights from the page cache whenever they need them. A file that is overwritten gives nonsense, and one
that becomes shorter ends the process with SIGBUS. A file that is deleted, or replaced by renaming another one over it,
does no harm: what was mapped stays as it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from mimo_mobile import untrusted
from mimo_mobile.errors import ModelLoadError, SessionError


class MappedFiles:
    """What a model's files were like when they were loaded."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._files: list[tuple[Path, BinaryIO, int, int]] = []

    def add(self, path: Path) -> None:
        """Watch a file from now on, before it is mapped; adding one twice does no harm.

        Raises:
            ModelLoadError: It cannot be opened.
        """
        if any(each == path for each, *_ in self._files):
            return
        try:
            file = untrusted.opened(path)
        except OSError as error:
            raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error
        state = os.fstat(file.fileno())
        self._files.append((path, file, state.st_size, state.st_mtime_ns))

    def check(self) -> None:
        """See that nobody has changed the files; this takes about a microsecond for each.

        Raises:
            SessionError: Somebody has.
        """
        for path, file, size, changed_ns in self._files:
            state = os.fstat(file.fileno())
            if state.st_size != size or state.st_mtime_ns != changed_ns:
                found = f"it had {size} bytes and has {state.st_size}" if state.st_size != size else "it was written to"
                raise SessionError(
                    f"{path}: the model's file was changed while it was loaded ({found}); load it again, and replace"
                    " files of models by renaming new ones over them"
                )

    def check_place(self, path: Path) -> None:
        """See that a path still leads to the file that is mapped from it; a path that is not watched is not looked at.

        Raises:
            SessionError: Another file was renamed over it, or it was deleted.
        """
        for each, file, _, _ in self._files:
            if each == path and not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                raise SessionError(f"{path}: another file is there than the one that was loaded; load the model again")

    def close(self) -> None:
        """Watch nothing any more."""
        files, self._files = self._files, []
        for _, file, _, _ in files:
            file.close()
