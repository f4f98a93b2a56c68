"""Files that others wrote, read with care: nothing in them can make us wait, take all memory, or leave their folder.

docs/security.md says what is trusted. Problems are OSErrors and ValueErrors, which readers turn into their own errors.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

MOST_TEXT_BYTES = 32_000_000
"""The largest file of text or JSON that is read; MiMo-7B's tokenizer.json has 7 MB."""

MOST_VALUES = 2_000_000
"""So many values a JSON file may hold, each of which takes about 100 bytes of memory; MiMo-7B's tokenizer.json has less
than a million."""

MOST_DEPTH = 64
"""So deeply arrays and objects of a JSON file may be nested, which keeps recursive readers within their stack."""

_NO_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^][{},"]+', re.DOTALL)
"""What in a JSON text opens, closes and parts nothing: strings, numbers, words and white space."""

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def opened(path: Path) -> BufferedReader:
    """A regular file, open for reading; a pipe, a device or a folder is refused without waiting for it.

    Raises:
        OSError: It is none, or cannot be opened; ``strerror`` says why.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, f"{kind(path)} found, a file expected", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, most: int = MOST_TEXT_BYTES) -> bytes:
    """What a regular file of at most so many bytes holds.

    Raises:
        OSError: It is none, is larger, or cannot be read; ``strerror`` says why.
    """
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most / 1e6:g} MB found, which no such file has", str(path))
    return content


def read_text(path: Path, most: int = MOST_TEXT_BYTES) -> str:
    """The text in a regular file of at most so many bytes.

    Raises:
        OSError: It is none, is larger, or cannot be read; ``strerror`` says why.
        ValueError: It is not UTF-8.
    """
    return decoded(read_bytes(path, most))


def decoded(data: bytes) -> str:
    """The text that bytes stand for in UTF-8, with or without a mark at its beginning.

    Raises:
        ValueError: They are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from error


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: It is no JSON, is nested too deeply, holds too many values, a key twice, or half a surrogate pair.
    """
    _check_structure(text)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if _HALF_PAIR.search(text):  # only an escape can stand for one, which no file can be written with
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair found, which is no text") from error
    except RecursionError as error:  # of a caller that is deep in the stack itself
        raise ValueError("no JSON: nested too deeply") from error
    return value


def inside(folder: Path, relative: str) -> Path:
    """The path of a file or folder in a folder, when nothing on the way leads out of it.

    Raises:
        ValueError: A link on the way leads out or back to the folder itself, or there is something that is neither a
            file nor a folder.
    """
    path, shown = folder / relative, printable(relative)
    try:
        resolved, root = path.resolve(), folder.resolve()
        if resolved == root or not resolved.is_relative_to(root):
            raise ValueError(f"{shown}: leads out of {folder}; copy the files that its links mean")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{shown}: {kind(path)} found, a file or folder expected")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else "links lead in a circle"
        raise ValueError(f"{shown}: {reason}") from error
    return path


def beside(file: Path, relative: str) -> Path:
    """The path of what a file names in its own folder, as ``inside`` allows it.

    Where the file is a link, other files may be links to the folder in which it really lies: so huggingface_hub keeps
    what it downloads.

    Raises:
        ValueError: What is named is somewhere else, or is neither a file nor a folder.
    """
    path = file.parent / relative
    try:
        if file.is_symlink() and path.is_file() and path.resolve().parent == file.resolve().parent:
            return path
    except (OSError, RuntimeError):  # which the other check puts in words
        pass
    return inside(file.parent, relative)


def kind(path: Path) -> str:
    """What there is at a path, or where a link there leads, in words, such as ``a file`` or ``a pipe``."""
    return kind_of(path.stat().st_mode)


def kind_of(mode: int) -> str:
    """What has a mode, in words; ``a link`` is among them."""
    names = {
        stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFLNK: "a link",
    }  # fmt: skip
    return names.get(stat.S_IFMT(mode), "something unknown")


def printable(text: str) -> str:
    r"""A text as a terminal may show it: characters that steer terminals or turn the reading direction are escaped.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _check_structure(text: str) -> None:
    """Refuse a text that a recursive reader could not take, or that would fill the memory."""
    if text.count(",") + text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    structure = _NO_STRUCTURE.sub("", text)
    if structure.count(",") + structure.count("[") + structure.count("{") > MOST_VALUES:
        raise ValueError(f"no JSON that we read: it holds more than {MOST_VALUES:,} values")
    brackets = structure.replace(",", "")
    for _ in range(MOST_DEPTH):  # each time, the innermost ones of those that belong together go
        brackets = brackets.replace("[]", "").replace("{}", "")
    if "[]" in brackets or "{}" in brackets or brackets.count("[") + brackets.count("{") > MOST_DEPTH:
        raise ValueError(f"no JSON that we read: arrays and objects are nested more than {MOST_DEPTH} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r:.60} is there twice; a damaged or hostile file")
    return made


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
