"""The folder for what was learnt of this machine: where it is, that nobody else can write there, and its small files.

What we find there is used as if we had computed it just now. So each folder and each file must be our own, must be no
link, and nobody else may be able to write to it; docs/security.md says what that guards against, and what not. What
the files hold is known to those who keep them.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mimo_mobile import files, untrusted
from mimo_mobile.errors import BadArgumentError, DiskFullError, OutputExistsError

logger = logging.getLogger(__name__)

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_LONGEST_NAME = 60


def root() -> Path | None:
    """``$MIMO_CACHE``, else ``mimo-mobile`` in the user's cache folder; it may not be there yet.

    It is None when there is no such folder that we can use, such as where no home folder is known; the log says why.

    Raises:
        BadArgumentError: ``$MIMO_CACHE`` names a folder that belongs to somebody else or that others may write to.
    """
    chosen = os.environ.get("MIMO_CACHE", "")
    try:
        folder = Path(os.path.abspath(chosen)) if chosen else _default()
    except (OSError, RuntimeError) as error:  # the current folder was removed, or no home folder is known
        tell(f"nothing that is learnt of this machine is kept: {error} (MIMO_CACHE chooses a folder)")
        return None
    try:
        state = folder.stat()  # this one folder may be a link, as it is the user's choice
        problem = _problem(state, "a folder")
        if chosen and stat.S_ISDIR(state.st_mode) and problem:
            raise BadArgumentError(
                f"MIMO_CACHE is {chosen!r}: {problem}; name a folder of your own that nobody else can write to"
            )
    except FileNotFoundError:
        problem = "" if chosen else _unsuited(folder)
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        tell(f"{folder}: {problem}; nothing is kept there (MIMO_CACHE chooses another folder)")
        return None
    return folder


def place(kind: str, name: str) -> Path | None:
    """Where a small file belongs; None when nothing can be kept."""
    folder = root()
    return None if folder is None else folder / kind / name


def short(name: str) -> str:
    """A name of any file or folder as a part of a name in the cache.

    >>> short("my model")
    'my_model'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_LONGEST_NAME].lstrip(".")


def is_ours(path: Path) -> bool:
    """Whether there is a file of ours in the cache, reached through folders of ours and no link.

    If there is anything else, the log says what.
    """
    try:
        for each in _way(path.parent):
            _check(each, "a folder")
        _check(path, "a file")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        tell(f"{error.filename}: {error.strerror}; it is not used")
        return False
    return True


def make(folder: Path) -> None:
    """Make a folder in the cache, and those above it, so that nobody else can enter them.

    Raises:
        OSError: That is not possible, or there is something that is not ours.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    for each in reversed(missing):
        with suppress(FileExistsError):  # another process made it
            each.mkdir(0o700)
    for each in _way(folder):
        _check(each, "a folder")


def keep(path: Path | None, content: str | bytes) -> bool:
    """Write a small file in one step; the log says why when that is not possible, which costs nothing else."""
    if path is None:
        return False
    try:
        make(path.parent)
        if path.is_dir() and not path.is_symlink():
            raise OutputExistsError("a folder found, a file expected")
        with files.whole(path, force=True) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            temporary.chmod(0o600)
    except (OSError, OutputExistsError, DiskFullError) as error:
        tell(f"{path}: cannot be kept: {error}")
        return False
    return True


@functools.cache
def tell(message: str) -> None:
    """Warn in the log, once in a process: the same file is often asked for again."""
    logger.warning("%s", untrusted.printable(message))


def _default() -> Path:
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # "If an implementation encounters a relative path … it should consider the path invalid and ignore it."
    # Source: https://specifications.freedesktop.org/basedir-spec/0.8/
    return (Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache") / "mimo-mobile"


def _unsuited(folder: Path) -> str:
    """Why the default folder should not be made: with ``sudo``, the home folder may be another user's."""
    above = next(each for each in folder.parents if each.exists())
    owner = above.stat().st_uid
    return "" if owner in (0, os.geteuid()) else f"{above} belongs to user {owner}, we are user {os.geteuid()}"


def _way(folder: Path) -> Iterator[Path]:
    """The folders below the cache's own on the way to one of them, and itself."""
    top = root()
    if top is None:
        raise FileNotFoundError(errno.ENOENT, "nothing can be kept", str(folder))
    names = folder.relative_to(top).parts
    return (top.joinpath(*names[: count + 1]) for count in range(len(names)))


def _check(path: Path, expected: str) -> None:
    if problem := _problem(path.lstat(), expected):
        raise OSError(errno.EPERM, problem, str(path))


def _problem(state: os.stat_result, expected: str) -> str:
    """Why a file or folder is not used; empty when it is."""
    found = untrusted.kind_of(state.st_mode)
    return f"{found} found, {expected} expected" if found != expected else _danger(state)


def _danger(state: os.stat_result) -> str:
    """Why its content may be somebody else's; empty when it may not."""
    if state.st_uid != os.geteuid():
        return f"it belongs to user {state.st_uid}, we are user {os.geteuid()}"
    if state.st_mode & _OTHERS_WRITE:
        return f"others may write to it (its mode is {stat.S_IMODE(state.st_mode):o})"
    return ""
