"""Damaged, lying and strange conversation files, and what Python says of each, for Kotlin to say the same.

`tools/conversation_fixture.py` writes them. Sizes and checksums are right where a case does not say otherwise, so that
readers come as far as what it is about.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mimo_mobile.errors import ContextFullError, ConversationError
from mimo_mobile.runtime import Model
from mimo_mobile.runtime.decode.conversation_file import DTYPES

Header = dict[str, Any]
Arrays = dict[str, bytes]
Change = Callable[[Header, Arrays], None]

_VALUES: tuple[object, ...] = (
    None, True, [], {}, "", "x", "-1", "1.0", -1, 0, 1, 1.5, 3.0, 2**53 - 1, 2**53, 2**64, 1e300,
)  # fmt: skip
"""What is put in the place of each value."""

_SHAPES: tuple[object, ...] = ([0], [1], [2**40], [2**32, 2**32], [0, 2**53 - 1, 2**53 - 1], [1] * 9)


def parts_of(content: bytes) -> tuple[Header, Arrays]:
    """The header and the arrays of a file."""
    (length,) = struct.unpack("<I", content[8:12])
    header, place, arrays = json.loads(content[12 : 12 + length]), 12 + length, Arrays()
    for each in header["arrays"]:
        size = int(np.prod(each["shape"])) * np.dtype(DTYPES[each["dtype"]]).itemsize
        arrays[each["name"]], place = content[place : place + size], place + size
    return header, arrays


def sealed(text: bytes, arrays: bytes) -> bytes:
    """A file of this header and these arrays, with its checksum."""
    body = b"MiMoConv" + struct.pack("<I", len(text)) + text + arrays
    return body + hashlib.sha256(body).digest()


def cases(content: bytes) -> Iterator[bytes]:
    """Files that are made of a good one."""
    yield content
    (length,) = struct.unpack("<I", content[8:12])
    text, arrays = content[12 : 12 + length], content[12 + length : -32]
    for place in (0, 7, 8, 11, 12, 12 + length // 2, 12 + length, len(content) // 2, len(content) - 1):
        yield content[:place]
        yield content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    yield content + b"\0"
    for size in (0, length - 1, length + 1, 32_000_000, 32_000_001, 2**32 - 1):
        yield content[:8] + struct.pack("<I", size) + content[12:]
    for raw in _texts(text):
        yield sealed(raw, arrays)
    for change in _changes(content):
        header, changed = parts_of(content)
        change(header, changed)
        yield sealed(json.dumps(header).encode(), b"".join(changed.values()))


def verdicts(model: Model, file: Path) -> dict[str, bool]:
    """Whether a file is loaded, as it is and as text alone."""
    found = {}
    for text_only in (False, True):
        try:
            model.load_conversation(file, text_only=text_only)
            found["text_only" if text_only else "loads"] = True
        except (ConversationError, ContextFullError):
            found["text_only" if text_only else "loads"] = False
    return found


def _texts(text: bytes) -> Iterator[bytes]:
    """Headers that json.dumps does not write."""
    end = text.rstrip()[:-1]
    for more in (
        b', "new": 1',
        b', "new": {"a": [1, {"b": null}]}',
        b', "draws": 0',
        b', "turns": []',
        b",",
        b', "a": NaN',
    ):
        yield end + more + b"}\n"
    for old, new in [
        (b'"question": "', b'"question": "\xff'), (b'"question": "', b'"question": "\\ud800'),
        (b'"question": "', b'"question": "\\ud83d\\ude00'),
        (b'"question": "', b'"question": "\\u0000\xf0\x9f\x99\x82'),
        (b'"question": "', b'"question": "\x01'), (b'"question": "', b'"question": "\\x'),
        (b'"question": ', b'"question": "a", "question": '), (b'"draws": ', b'"draws": 0'),
        (b'"draws": ', b'"draws": +'),
        (b'"draws": 1', b'"draws": 1e0'), (b'"draws": 1', b'"draws": -0'), (b'"draws": 1', b'"draws": 1e400'),
        (b"false", b"False"), (b"{", b"\xef\xbb\xbf{"), (b"{", b" \n{"), (b"{", b"[" * 70 + b"{"), (b"}\n", b"} {}"),
    ]:  # fmt: skip
        yield text.replace(old, new, 1)
    yield from (b"", b"{}", b"[]", b"null", text[:-20], text + text, b"\0" + text)


def _changes(content: bytes) -> Iterator[Change]:
    header, arrays = parts_of(content)
    for name in header:
        yield _without(name)
        for value in _VALUES:
            yield _with(partial(_top, name), value)
    for value in (*_VALUES, False):
        yield _with(partial(_top, "cut_thinks"), value)
    yield lambda head, _: head.update(turns=[], cut_thinks=True)
    for name in header["turns"][0]:
        for value in _VALUES[:6]:
            yield _with(_field("turns", 0, name), value)
    for place in (0, 1):
        for name in header["arrays"][0]:
            for value in (*_VALUES[:6], 3, "i64", *_SHAPES):
                yield _with(_field("arrays", place, name), value)
    yield lambda head, _: head["turns"].extend([head["turns"][0]] * 2000)
    yield lambda head, _: head["turns"].append(3)
    for added in ({"name": "x", "dtype": "u8", "shape": [4]}, {"name": "trunk.x", "dtype": "u8", "shape": [4]}):
        yield _added(added, b"abcd")
    for name, data in arrays.items():
        yield _lost(name)
        if "past_key_values" not in name:  # those are numbers alone
            for place in range(0, min(len(data), 40), 4):
                for value in (-1, 0, 2**31 - 1):
                    yield _written(name, place, value)


def _top(name: str, header: Header) -> tuple[Header, str]:
    return header, name


def _field(kind: str, place: int, name: str) -> Callable[[Header], tuple[Header, str]]:
    """Where a field of a turn or of an array's entry is."""
    return lambda header: (header[kind][place], name)


def _with(where: Callable[[Header], tuple[Header, str]], value: object) -> Change:
    def change(header: Header, _: Arrays) -> None:
        place, name = where(header)
        place[name] = value

    return change


def _without(name: str) -> Change:
    return lambda header, _: header.pop(name)


def _added(entry: Header, data: bytes) -> Change:
    def change(header: Header, arrays: Arrays) -> None:
        header["arrays"].append(entry)
        arrays[entry["name"]] = data

    return change


def _lost(name: str) -> Change:
    def change(header: Header, arrays: Arrays) -> None:
        header["arrays"] = [each for each in header["arrays"] if each["name"] != name]
        del arrays[name]

    return change


def _written(name: str, place: int, value: int) -> Change:
    def change(_: Header, arrays: Arrays) -> None:
        arrays[name] = arrays[name][:place] + struct.pack("<i", value) + arrays[name][place + 4 :]

    return change
