"""A GGUF file's header, read by a bounded reader of our own: what a file claims is compared with what it holds first.

ggml's own parser aborts the process on some values, and takes gigabytes or no end of time over others. This one refuses
all that ggml refuses or asserts, and knows no single model: ``runtime/llama/checked.py`` says what a MiMo-7B must be.

Sources: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and
https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/src/gguf.cpp
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import untrusted
from mimo_mobile.errors import ModelLoadError

FIRST_BYTES, MOST_BYTES = 16_000_000, 64_000_000
"""So much of a file is read at first, and at most, for its header; MiMo-7B's has 6 MB."""

MOST_KEYS, MOST_TENSORS = 4096, 16_384
"""MiMo-7B's files have about 40 keys and 450 tensors; 512 layers, the most that llama.cpp takes, have 6,100."""

MOST_ELEMENTS = 2_000_000
"""So many values all arrays of a header may have together; MiMo-7B's have 455,000."""

DEFAULT_ALIGNMENT = LEAST_ALIGNMENT = 32
"""GGUF's; and ggml computes on mapped weights only when their beginning is aligned so."""

MOST_NAME_BYTES, MOST_DIMENSIONS, MOST_KEY_BYTES = 63, 4, 65_535
"""ggml's limits, and the specification's."""

TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""enum ggml_type → its name, how many values a block has, and how many bytes."""

_SCALARS: dict[int, tuple[str, np.dtype[Any]]] = {
    number: (name, np.dtype(kind).newbyteorder("<"))
    for number, name, kind in (
        (0, "uint8", np.uint8), (1, "int8", np.int8), (2, "uint16", np.uint16), (3, "int16", np.int16),
        (4, "uint32", np.uint32), (5, "int32", np.int32), (6, "float32", np.float32), (7, "bool", np.bool_),
        (10, "uint64", np.uint64), (11, "int64", np.int64), (12, "float64", np.float64),
    )
}  # fmt: skip
"""enum gguf_type → its name and form, of all but texts and arrays."""

_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a file.

    Attributes:
        type: The storage type, such as ``Q4_0``.
        shape: Rows first, as numpy has it: the other way round than ggml.
        offset: Where its data begins, from the file's beginning.
        bytes: How many it takes.
    """

    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Value:
    """One value of the metadata; texts of an array are found again from where the array begins."""

    kind: int
    content: Any
    count: int | None = None


class GgufHeader:
    """Metadata and tensors of one file.

    Attributes:
        path: The file.
        tensors: By name, in the file's order.
        digest: SHA-256 of the header and the file's size, in hexadecimal: files that differ in weights only share it.
    """

    def __init__(self, path: Path) -> None:
        """Read the header of ``path``; weights are not touched.

        Raises:
            ModelLoadError: The file is no GGUF, is damaged, or holds more than any model's header has.
        """
        self.path = path
        self.tensors: dict[str, GgufTensor] = {}
        self._values: dict[str, _Value] = {}
        self._texts: dict[str, list[str]] = {}
        try:
            with untrusted.opened(path) as file:
                self._size = file.seek(0, 2)
                file.seek(0)
                self._data = file.read(FIRST_BYTES)
                try:
                    self._read()
                except _EndError:
                    if len(self._data) == self._size:
                        raise
                    self._data += file.read(MOST_BYTES - FIRST_BYTES)
                    self._read()
        except OSError as error:
            raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error
        except _EndError as error:
            found = f"its header has more than {MOST_BYTES / 1e6:g} MB, which no model needs"
            if len(self._data) == self._size:
                found = f"it ends after {self._size:,} bytes, within its header"
            raise self._error(found) from error
        digest = hashlib.sha256(self._data)
        digest.update(_U64.pack(self._size))
        self.digest = digest.hexdigest()

    def keys(self) -> Iterator[str]:
        """The metadata's keys, in the file's order."""
        return iter(self._values)

    def kind(self, key: str) -> str:
        """The type of a value, such as ``uint32`` or ``array of string``; ``nothing`` when the key is not there."""
        if key not in self._values:
            return "nothing"
        found = self._values[key]
        name = "string" if found.kind == _STRING else _SCALARS[found.kind][0]
        return name if found.count is None else f"array of {name}"

    def value(self, key: str) -> Any:
        """A number, truth value or text; None when the key is not there or holds an array."""
        found = self._values.get(key)
        return None if found is None or found.count is not None else found.content

    def count(self, key: str) -> int:
        """How many elements an array has; 0 when the key is not there or holds no array."""
        found = self._values.get(key)
        return 0 if found is None else found.count or 0

    def array(self, key: str, most: int | None = None) -> list[Any]:
        """The elements of an array, or the first few; empty when the key is not there or holds no array.

        Raises:
            ModelLoadError: One of its texts is not UTF-8.
        """
        found = self._values.get(key)
        if found is None or found.count is None:
            return []
        count = found.count if most is None else min(most, found.count)
        if found.kind != _STRING:
            return list(found.content[:count].tolist())
        if key not in self._texts or len(self._texts[key]) < count:
            self._texts[key] = self._decoded(key, found.content, count)
        return self._texts[key][:count]

    def _decoded(self, key: str, place: int, count: int) -> list[str]:
        texts: list[str] = []
        data, unpack = self._data, _U64.unpack_from
        try:
            for _ in range(count):
                end = place + 8 + int(unpack(data, place)[0])
                texts.append(data[place + 8 : end].decode())
                place = end
        except UnicodeDecodeError as error:
            raise self._error(f"{shown(key)}: text {len(texts)} is not UTF-8") from error
        return texts

    def strings(self, key: str) -> list[str]:
        """An array of texts.

        Raises:
            ModelLoadError: The key is not there or holds something else.
        """
        return self._array(key, "string")

    def integers(self, key: str) -> list[int]:
        """An array of 32-bit integers.

        Raises:
            ModelLoadError: The key is not there or holds something else.
        """
        return self._array(key, "int32")

    def truths(self, key: str) -> list[bool]:
        """An array of truth values.

        Raises:
            ModelLoadError: The key is not there or holds something else.
        """
        return self._array(key, "bool")

    def _array(self, key: str, kind: str) -> list[Any]:
        if self.kind(key) != f"array of {kind}":
            raise ModelLoadError(
                f"{self.path}: {key}: {self.kind(key)} found, array of {kind} expected; convert the checkpoint again"
            )
        return self.array(key)

    def float32(self, name: str) -> NDArray[np.float32]:
        """A tensor of float32 numbers, flat.

        Raises:
            ModelLoadError: It is not there, of another type, or beyond the file's end.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.type != "F32":
            raise ModelLoadError(f"{self.path}: {name} in float32 expected; convert the checkpoint again")
        with untrusted.opened(self.path) as file:
            file.seek(tensor.offset)
            data = file.read(tensor.bytes)
        if len(data) != tensor.bytes:
            raise ModelLoadError(f"{self.path}: ends before {name}; download it again")
        return np.frombuffer(data, np.dtype("<f4")).astype(np.float32)

    def tensor_bytes(self, name: str) -> int:
        """Size of a tensor; 0 when it is not there."""
        return self.tensors[name].bytes if name in self.tensors else 0

    def _read(self) -> None:
        """Take ``_data`` apart."""
        if self._data[:4] != b"GGUF":
            raise self._error(f"it begins with {self._data[:4]!r}, {b'GGUF'!r} expected")
        self._values.clear()
        self.tensors.clear()
        self._place, self._elements = 4, 0
        version = self._u32()
        if version not in (2, 3):
            raise self._error(f"version {version} found, 2 or 3 (of little-endian numbers) expected")
        tensors, keys = self._u64(), self._u64()
        for what, found, most in (("tensors", tensors, MOST_TENSORS), ("keys", keys, MOST_KEYS)):
            if found > most:
                raise self._error(f"{found:,} {what} promised, at most {most:,} expected")
        for _ in range(keys):
            key = self._text("a key", MOST_KEY_BYTES)
            if not key or key in self._values:
                raise self._error(f"the key {shown(key)} is there twice" if key else "a key without a name")
            self._values[key] = self._value(key)
        alignment = self._alignment()
        found_tensors = [self._tensor() for _ in range(tensors)]
        start = self._place + -self._place % alignment
        self._data = self._data[: self._place]
        self._place_tensors(found_tensors, start, alignment)

    def _value(self, key: str) -> _Value:
        kind = self._u32()
        if kind == _STRING:
            return _Value(kind, self._text(shown(key), MOST_BYTES))
        if kind == _ARRAY:
            return self._elements_of(key, self._u32(), self._u64())
        if kind not in _SCALARS:
            raise self._error(f"{shown(key)}: type {kind} found, which GGUF does not have")
        return _Value(kind, self._numbers(key, kind, 1).tolist()[0])

    def _elements_of(self, key: str, kind: int, count: int) -> _Value:
        self._elements += count
        if self._elements > MOST_ELEMENTS:
            raise self._error(f"{shown(key)}: {count:,} values promised, {MOST_ELEMENTS:,} in all arrays are the most")
        if kind in _SCALARS:
            return _Value(kind, self._numbers(key, kind, count), count)
        if kind != _STRING:
            raise self._error(f"{shown(key)}: an array of type {kind} found; one of numbers, truths or texts expected")
        data, place, unpack = self._data, self._place, _U64.unpack_from
        try:
            for _ in range(count):
                place += 8 + unpack(data, place)[0]
        except (struct.error, OverflowError) as error:
            raise _EndError from error
        if place > len(data):
            raise _EndError
        start, self._place = self._place, place
        return _Value(kind, start, count)

    def _numbers(self, key: str, kind: int, count: int) -> NDArray[Any]:
        form = _SCALARS[kind][1]
        data = self._take(form.itemsize * count)
        if kind == _BOOL and data.strip(b"\0\1"):
            raise self._error(f"{shown(key)}: a truth value that is neither 0 nor 1")
        return np.frombuffer(data, form)

    def _alignment(self) -> int:
        key = "general.alignment"
        kind, alignment = self.kind(key), self.value(key)
        if kind == "nothing":
            return DEFAULT_ALIGNMENT
        if kind != "uint32" or alignment < LEAST_ALIGNMENT or alignment & (alignment - 1):
            raise self._error(f"{key} {alignment!r} ({kind}) found, a power of 2 from {LEAST_ALIGNMENT} on expected")
        return int(alignment)

    def _tensor(self) -> tuple[str, GgufTensor]:
        name = self._text("a tensor's name", MOST_NAME_BYTES)
        dimensions = self._u32()
        if not name:
            raise self._error("a tensor without a name")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._error(f"tensor {shown(name)} has {dimensions} dimensions, 1 to {MOST_DIMENSIONS} expected")
        shape = tuple(self._u64() for _ in range(dimensions))[::-1]
        kind, offset = self._u32(), self._u64()
        if kind not in TYPES:
            raise self._error(f"tensor {shown(name)} has type {kind}, which is not known here")
        type_name, block, block_bytes = TYPES[kind]
        if 0 in shape or shape[-1] % block:
            text = "×".join(map(str, shape))
            raise self._error(f"tensor {shown(name)} is {text} in {type_name}, of which a block has {block} values")
        return name, GgufTensor(type_name, shape, offset, prod(shape) // block * block_bytes)

    def _place_tensors(self, found: list[tuple[str, GgufTensor]], start: int, alignment: int) -> None:
        """Check that tensors lie one after the other, as ggml wants them, and inside the file."""
        offset = 0
        for name, each in found:
            if name in self.tensors:
                raise self._error(f"tensor {shown(name)} is there twice")
            if each.offset != offset:
                raise self._error(f"tensor {shown(name)} begins at {each.offset}, {offset} (its turn) expected")
            if start + offset + each.bytes > self._size:
                raise self._error(
                    f"it ends after {self._size:,} bytes, tensor {shown(name)} after {start + offset + each.bytes:,}"
                )
            self.tensors[name] = GgufTensor(each.type, each.shape, start + offset, each.bytes)
            offset += each.bytes + -each.bytes % alignment

    def _take(self, size: int) -> bytes:
        start, self._place = self._place, self._place + size
        if self._place > len(self._data):
            raise _EndError
        return self._data[start : self._place]

    def _u32(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def _u64(self) -> int:
        return int.from_bytes(self._take(8), "little")

    def _text(self, what: str, most: int) -> str:
        size = self._u64()
        if size > most:
            raise self._error(f"{what}: a text of {size:,} bytes promised, at most {most:,} expected")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise self._error(f"{what}: a text that is not UTF-8") from error

    def _error(self, found: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path}: no valid GGUF file: {found}; download or convert it again")


class _EndError(Exception):
    """The header goes on after the bytes that were read."""


def shown(text: str) -> str:
    """A text from the file, as messages show it: short, and without what steers a terminal."""
    return untrusted.printable(text if len(text) <= 64 else text[:63] + "…")
