"""GGUF files in parts, to change each and write them again: taken apart by the gguf package, written by hand.

Weights are holes that take no room on disk.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path

import gguf

from mimo_mobile.gguf_header import TYPES

U8, I8, U16, U32, I32, F32, BOOL, STRING, ARRAY, U64, F64 = 0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 12
_FORMS = {U8: "<B", I8: "<b", U16: "<H", I32: "<i", U32: "<I", F32: "<f", BOOL: "<?", U64: "<Q", F64: "<d"}
_SIZES = {number: (block, size) for number, (_, block, size) in TYPES.items()}


def text(value: str | bytes) -> bytes:
    """A text as GGUF has it."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def number(kind: int, value: float) -> bytes:
    """A typed number."""
    return struct.pack("<I", kind) + struct.pack(_FORMS[kind], value)


def string(value: str | bytes) -> bytes:
    """A typed text."""
    return struct.pack("<I", STRING) + text(value)


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    """A typed array that claims to have so many elements."""
    return struct.pack("<IIQ", ARRAY, kind, count) + data


def strings(values: list[str]) -> bytes:
    """A typed array of texts."""
    return array(STRING, len(values), b"".join(map(text, values)))


@dataclasses.dataclass
class Tensor:
    """What a file says of a tensor; ``ne`` is ggml's order."""

    name: bytes
    ne: tuple[int, ...]
    kind: int
    offset: int | None = None
    dimensions: int | None = None

    def bytes(self) -> int:
        """Its size, where that can be told."""
        block, size = _SIZES.get(self.kind, (1, 1))
        count = 1
        for each in self.ne:
            count *= each
        return count // block * size


@dataclasses.dataclass
class File:
    """A whole file in parts: keys with their typed values, and tensors."""

    values: dict[str, bytes]
    tensors: list[Tensor]
    magic: bytes = b"GGUF"
    version: int = 3
    promised_tensors: int | None = None
    promised_keys: int | None = None
    more: bytes = b""
    alignment: int = 32
    short: int = 0

    @classmethod
    def of(cls, path: Path) -> File:
        """A good file, taken apart."""
        reader = gguf.GGUFReader(path)
        values = {}
        for name, field in reader.fields.items():
            if not name.startswith("GGUF."):
                values[name] = b"".join(part.tobytes() for part in field.parts)[8 + len(name.encode()) :]
        tensors = [
            Tensor(each.name.encode(), tuple(int(size) for size in each.shape), int(each.tensor_type))
            for each in reader.tensors
        ]
        return cls(values, tensors)

    def write(self, path: Path) -> Path:
        """Write it; offsets that are not given are the right ones."""
        tensors = len(self.tensors) if self.promised_tensors is None else self.promised_tensors
        keys = len(self.values) + bool(self.more) if self.promised_keys is None else self.promised_keys
        made = self.magic + struct.pack("<IQQ", self.version, tensors % 2**64, keys % 2**64)
        made += b"".join(text(name) + value for name, value in self.values.items()) + self.more
        offset = 0
        for each in self.tensors:
            place = offset if each.offset is None else each.offset
            made += text(each.name) + struct.pack("<I", len(each.ne) if each.dimensions is None else each.dimensions)
            made += b"".join(struct.pack("<Q", size % 2**64) for size in each.ne)
            made += struct.pack("<IQ", each.kind % 2**32, place % 2**64)
            offset += -(-each.bytes() // self.alignment) * self.alignment
        with path.open("wb") as file:
            file.write(made)
            start = -(-len(made) // self.alignment) * self.alignment
            if 0 <= offset < 1 << 33:
                file.truncate(start + offset - self.short)
        return path

    def tensor(self, name: str) -> Tensor:
        """One of its tensors, to change it."""
        return next(each for each in self.tensors if each.name == name.encode())

    def key(self, name: str) -> str:
        """A key of the architecture with its prefix."""
        prefix = "step35" if "step35.block_count" in self.values else "qwen2"
        return f"{prefix}.{name}"


Change = Callable[[File], object]


def put(key: str, value: bytes) -> Change:
    """Set a key, whose name begins with the architecture when it begins with a dot."""
    return lambda file: file.values.__setitem__(file.key(key[1:]) if key.startswith(".") else key, value)


def drop(key: str) -> Change:
    """Leave a key out."""
    return lambda file: file.values.pop(file.key(key[1:]) if key.startswith(".") else key)


def tensor(which: str, **changes: object) -> Change:
    """Change what is said of a tensor."""

    def change(file: File) -> None:
        found = file.tensor(which)
        for key, value in changes.items():
            setattr(found, key, value)

    return change


def add(name: str, ne: tuple[int, ...], kind: int = 0) -> Change:
    """Add a tensor."""
    return lambda file: file.tensors.append(Tensor(name.encode(), ne, kind))


def lose(name: str) -> Change:
    """Leave a tensor out."""
    return lambda file: file.tensors.remove(file.tensor(name))


def whole(**changes: object) -> Change:
    """Change the file itself."""
    return lambda file: [setattr(file, key, value) for key, value in changes.items()]


def more(data: bytes) -> Change:
    """Add the bytes of one more key."""
    return whole(more=data)
