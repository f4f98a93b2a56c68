"""Cache folders that somebody or something spoilt: altered, other kinds of files, links elsewhere, other owners.

A model must load and answer with each of them as without a cache, and nothing that a link leads to may change.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

Spoil = Callable[[Path], object]

SOMEBODY = 54321


def cases(folder: Path, made: Path, precious: Path) -> Iterator[tuple[str, Path]]:
    """Spoilt copies of a cache, each with its name.

    Args:
        folder: Where the copies are made; each is removed when the next one is asked for.
        made: A cache that a model was loaded with, with costs and a self-test's verdict in it.
        precious: A folder that links lead to.
    """
    kinds = sorted(spoilt(made, precious), key=lambda each: each[0])
    for name, spoil in kinds:
        copy = folder / "cache"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made, copy, symlinks=True)
        spoil(copy)
        yield name, copy


def spoilt(made: Path, precious: Path) -> Iterator[tuple[str, Spoil]]:
    """Names, and what spoils a copy of ``made``."""
    places = [path.relative_to(made) for path in sorted(made.rglob("*"))]
    for place in places:
        is_folder = (made / place).is_dir()
        for name, spoil in REPLACED.items():
            yield f"{_told(place)}: {name}", _at(place, spoil, precious)
        if not is_folder:
            for name, spoil in ALTERED.items():
                yield f"{_told(place)}: {name}", _at(place, spoil, precious)
        if os.geteuid() == 0:
            yield f"{_told(place)}: somebody else's", _at(place, _given_away, precious)
        yield f"{_told(place)}: all may write", _at(place, lambda path, _: path.chmod(0o777), precious)
    (key,) = [place for place in places if place.name == "entry.json"]
    for name, content in RECORDS.items():
        yield f"record: {name}", _at(key, lambda path, _, content=content: path.write_bytes(content), precious)
    for name, change in FORGED.items():
        yield f"record: {name}", _at(key, lambda path, _, change=change: _forge(path, change), precious)
    folder = key.parent.parent
    for name in (".0123456789abcdef.7.partial", ".0123456789abcdef.7.old.partial", "0123456789abcdef", "precious"):
        yield f"beside the entry: a link {name}", _at(folder / name, _link_to_folder, precious)
        yield f"beside the entry: a folder {name} of links", _at(folder / name, _folder_of_links, precious)
        yield f"beside the entries: a link {name}", _at(folder.parent / name, _link_to_folder, precious)
        yield f"beside all: a link {name}", _at(Path(name), _link_to_folder, precious)
    named = folder.with_name("others-0123456789abcdef")
    yield "another model's folder is a link", _at(named, _link_to_folder, precious)
    yield "another model's lock is a link", _at(named / ".lock", _link_to_file, precious)
    yield "another model's lock is a pipe", _at(named / ".lock", _pipe, precious)


def _given_away(path: Path, precious: Path) -> None:
    os.chown(path, SOMEBODY, SOMEBODY)


def _gone(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, precious: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _link_to_folder(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def _link_to_file(path: Path, precious: Path) -> None:
    path.symlink_to(precious / "0123456789abcdef" / "model.onnx")


def _folder_of_links(path: Path, precious: Path) -> None:
    path.mkdir()
    for name in ("model.onnx", "model.onnx.data", "entry.json"):
        (path / name).symlink_to(precious / "0123456789abcdef" / "model.onnx")
    (path / "deeper").symlink_to(precious)


REPLACED: dict[str, Callable[[Path, Path], None]] = {
    "gone": lambda path, _: None,
    "a pipe": _pipe,
    "a socket": _socket,
    "a link to a folder": _link_to_folder,
    "a link to a file": _link_to_file,
    "a link to nothing": lambda path, _: path.symlink_to("nothing"),
    "a link to itself": lambda path, _: path.symlink_to(path),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "an empty file": lambda path, _: path.touch(),
    "an empty folder": lambda path, _: path.mkdir(),
    "a folder of links": _folder_of_links,
}
"""What takes the place of a file or folder."""


def _truncated(path: Path, precious: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _longer(path: Path, precious: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(4096))


def _zeroed(path: Path, precious: Path) -> None:
    """As damage would be that keeps size and time."""
    state, content = path.stat(), path.read_bytes()
    quarter = len(content) // 4
    path.write_bytes(content[:quarter] + bytes(2 * quarter) + content[3 * quarter :])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _flipped(path: Path, precious: Path) -> None:
    content = bytearray(path.read_bytes())
    for index in range(len(content) // 2, len(content), 97):
        content[index] ^= 0x10
    path.write_bytes(content)


ALTERED: dict[str, Callable[[Path, Path], None]] = {
    "truncated": _truncated,
    "longer": _longer,
    "zeroed": _zeroed,
    "bits flipped": _flipped,
    "noise": lambda path, _: path.write_bytes(bytes(range(256)) * 40),
    "huge and empty": lambda path, _: os.truncate(path, 2**40),
}
"""What happens to a file's content."""

RECORDS: dict[str, bytes] = {
    "nested": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"prepacked_version": NaN}',
    "large": b'{"model": "' + b"a" * 40_000_000 + b'"}',
    "a newer version": b'{"prepacked_version": 99}',
    "version 1": b'{"prepacked_version": 1, "model": "/m/model.onnx", "state": "0 0 0"}',
    "half a pair": b'{"prepacked_version": 2, "model": "\\ud800"}',
}
"""Contents of an entry's record."""

FORGED: dict[str, dict[str, object]] = {
    "a device as model": {"model": "/dev/zero"},
    "NUL in the model's path": {"model": "a\0b"},
    "escapes in the model's path": {"model": "/a\x1b[31m[red]\n/b/model.onnx"},
    "another graph": {"source": {"graph": "0" * 64, "data": "0" * 64}},
    "other files": {"files": {"graph": "0" * 64, "data": "0" * 64}},
}
"""Changes of an entry's record."""


def _forge(path: Path, change: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def _at(place: Path, spoil: Callable[[Path, Path], object], precious: Path) -> Spoil:
    replaces = spoil in REPLACED.values()

    def spoil_copy(copy: Path) -> None:
        path = copy / place
        if replaces or not os.path.lexists(path):
            _gone(path)
        spoil(path, precious)

    return spoil_copy


def _told(place: Path) -> str:
    """A place without the hashes in it."""
    return "/".join(name if "." in name else name.split("-")[0][:12] for name in place.parts)
