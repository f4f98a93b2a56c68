"""Reads what an .onnx file says: its nodes, and which tensors it has where. It computes nothing and reads no weights.

Protobuf is read here rather than by the onnx package, so that a file takes bounded memory, and is read in one way only:
what occurs once in a graph must occur once in the file.

Field numbers: https://github.com/onnx/onnx/blob/v1.18.0/onnx/onnx.proto
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mimo_mobile import untrusted
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.untrusted import printable

T = TypeVar("T")

MOST_GRAPH_BYTES = 64_000_000
"""The largest .onnx file that is read; ours have less than 2 MB, as weights lie beside them."""

MOST_FIELDS = 200_000
"""So many fields a graph may have, each of which takes some hundred bytes of memory; MiMo-7B's has 25,000."""

MOST_DIMENSIONS = 8

TYPES: dict[int, tuple[str, int]] = {
    1: ("FLOAT", 32), 2: ("UINT8", 8), 3: ("INT8", 8), 4: ("UINT16", 16), 5: ("INT16", 16), 6: ("INT32", 32),
    7: ("INT64", 64), 8: ("STRING", 0), 9: ("BOOL", 8), 10: ("FLOAT16", 16), 11: ("DOUBLE", 64), 12: ("UINT32", 32),
    13: ("UINT64", 64), 14: ("COMPLEX64", 64), 15: ("COMPLEX128", 128), 16: ("BFLOAT16", 16), 17: ("FLOAT8E4M3FN", 8),
    18: ("FLOAT8E4M3FNUZ", 8), 19: ("FLOAT8E5M2", 8), 20: ("FLOAT8E5M2FNUZ", 8), 21: ("UINT4", 4), 22: ("INT4", 4),
    23: ("FLOAT4E2M1", 4), 24: ("FLOAT8E8M0", 8), 25: ("UINT2", 2), 26: ("INT2", 2), 27: ("FLOAT6E2M3", 6),
    28: ("FLOAT6E3M2", 6),
}  # fmt: skip
"""Data types by number: name and bits."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        name: Its name.
        type: Its data type, such as ``FLOAT``.
        shape: Its dimensions.
        nbytes: What its values take.
        location: The file beside the graph that holds it; empty when the graph itself does.
        offset: Where in that file it begins.
        length: How many bytes it has there.
        data: Its bytes, where the graph holds them raw.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    location: str = ""
    offset: int = 0
    length: int = 0
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph.

    Attributes:
        op: Its operator, such as ``MatMul``, with the domain before it when that is not ONNX's own.
        inputs: The names of what it reads; empty where one is left out.
        outputs: The names of what it gives.
        attributes: Numbers and texts; None for graphs, tensors, lists and whatever else there is.
        name: Its name.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | float | str | None]
    name: str = ""

    @property
    def op_type(self) -> str:
        """The operator without its domain."""
        return self.op.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a graph says of a value: a data type, and dimensions, which may have names."""

    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What an .onnx file says.

    Attributes:
        path: The file.
        nodes: In the order in which they are computed.
        tensors: By name.
        inputs: By name.
        outputs: By name.
        known: What the file says of values between nodes, by name.
        opsets: Versions of operator sets, by domain.
        metadata: Keys and values.
        others: What the file has beside these: functions, sparse tensors, and fields that are not known here.
    """

    path: Path
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: Mapping[str, Declared]
    outputs: Mapping[str, Declared]
    known: Mapping[str, Declared] = field(default_factory=dict)
    opsets: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def external_bytes(self) -> int:
        """Bytes of weights that lie beside the graph."""
        return sum(tensor.length for tensor in self.tensors.values() if tensor.location)


def read(path: Path) -> GraphFile:
    """What an .onnx file says.

    Raises:
        ModelLoadError: It cannot be read, or is no ONNX graph.
    """
    try:
        data = untrusted.read_bytes(path, MOST_GRAPH_BYTES)
        return _model(path, _Message(memoryview(data), itertools.count()))
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelLoadError(f"{path}: not a readable ONNX file: {error}; convert or quantize again") from error


def check_data(graph: GraphFile) -> None:
    """See that all weights beside a graph are in regular files of its folder, and wholly there.

    Raises:
        ModelLoadError: They are not.
    """
    sizes: dict[str, int] = {}
    for tensor in graph.tensors.values():
        if not tensor.location:
            continue
        try:
            if tensor.location not in sizes:
                sizes[tensor.location] = _place(graph.path, tensor.location).stat().st_size
            size, end = sizes[tensor.location], tensor.offset + tensor.length
            if tensor.length != tensor.nbytes:
                raise ValueError(f"{tensor.length} bytes found, {tensor.nbytes} expected")
            if end > size:
                raise ValueError(f"it ends at byte {end} of {tensor.location}, which has {size}")
        except (OSError, ValueError) as error:
            raise ModelLoadError(
                f"{graph.path}: weight {printable(tensor.name):.100}: {error}; quantize or download it again"
            ) from error


def _place(graph: Path, location: str) -> Path:
    """The file that a graph calls by this name; a ValueError says why there is none in its folder."""
    if any(name in ("", ".", "..") for name in location.split("/")) or set(location) & {"\\", "\0"}:
        raise ValueError(f"{printable(location):.200} leads out of the folder")
    place = untrusted.beside(graph, location)
    if not place.is_file():
        raise ValueError(f"{printable(location):.200} is missing")
    return place


class _Message:
    """The fields of one protobuf message: numbers, and bytes in place."""

    __slots__ = ("_asked", "_fields", "_seen")

    def __init__(self, data: memoryview, seen: Iterator[int]) -> None:
        """Read the message's own fields; ``seen`` counts those of the whole file."""
        self._seen, self._asked = seen, set[int]()
        self._fields: dict[int, list[int | memoryview]] = {}
        at, end = 0, len(data)
        while at < end:
            if next(seen) > MOST_FIELDS:
                raise ValueError(f"more than {MOST_FIELDS:,} fields found")
            tag, at = _varint(data, at)
            number, kind = tag >> 3, tag & 7
            value: int | memoryview
            if kind == 0:
                value, at = _varint(data, at)
            elif kind in (1, 2, 5):
                size, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
                if size > end - at:
                    raise ValueError(f"a field of {size} bytes found where {end - at} are left")
                value, at = data[at : at + size], at + size
            else:
                raise ValueError(f"a field of kind {kind} found, which is none of ONNX")
            self._fields.setdefault(number, []).append(value)

    def _all(self, number: int, kind: type[T]) -> list[T]:
        self._asked.add(number)
        fields = self._fields.get(number, [])
        found: list[T] = [each for each in fields if isinstance(each, kind)]
        if len(found) != len(fields):
            raise ValueError(f"field {number} is of another kind than in ONNX")
        return found

    def _one(self, number: int, kind: type[T]) -> T | None:
        found = self._all(number, kind)
        if len(found) > 1:
            raise ValueError(f"field {number} is there {len(found)} times, once expected")
        return found[0] if found else None

    def integer(self, number: int) -> int:
        """A whole number, 0 when it is not there."""
        value = self._one(number, int) or 0
        return value - (1 << 64) if value >> 63 else value

    def data(self, number: int) -> bytes | None:
        """Bytes; None when they are not there."""
        value = self._one(number, memoryview)
        return None if value is None else bytes(value)

    def text(self, number: int) -> str:
        """A text, empty when it is not there."""
        return untrusted.decoded(self.data(number) or b"")

    def texts(self, number: int) -> tuple[str, ...]:
        """All texts of one number."""
        return tuple(untrusted.decoded(bytes(each)) for each in self._all(number, memoryview))

    def message(self, number: int) -> _Message:
        """A message, empty when it is not there."""
        return _Message(self._one(number, memoryview) or memoryview(b""), self._seen)

    def messages(self, number: int) -> Iterator[_Message]:
        """All messages of one number, one after the other."""
        return (_Message(each, self._seen) for each in self._all(number, memoryview))

    def integers(self, number: int) -> tuple[int, ...]:
        """All whole numbers of one number, packed or not."""
        self._asked.add(number)
        made: list[int] = []
        for each in self._fields.get(number, []):
            at = 0
            while isinstance(each, memoryview) and at < len(each) and len(made) <= MOST_DIMENSIONS:
                value, at = _varint(each, at)
                made.append(value)
            if isinstance(each, int):
                made.append(each)
        if len(made) > MOST_DIMENSIONS:
            raise ValueError(f"more than {MOST_DIMENSIONS} dimensions found")
        return tuple(value - (1 << 64) if value >> 63 else value for value in made)

    def passed_over(self, *numbers: int) -> None:
        """Let fields be there that mean nothing here."""
        self._asked.update(numbers)

    def others(self, what: str) -> list[str]:
        """Fields that nobody asked for, in words."""
        return [f"{what} field {number}" for number in self._fields if number not in self._asked]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError("a number that does not end")


def _model(path: Path, model: _Message) -> GraphFile:
    graph = model.message(7)
    nodes, listed, others = [], [], []
    for each in graph.messages(1):
        node, odd = _node(each)
        nodes.append(node)
        others += odd
    for each in graph.messages(5):
        listed.append(_tensor(each))
        others += each.others("tensor")
    tensors = _named([(tensor.name, tensor) for tensor in listed], "tensor")
    inputs, outputs, known = (
        _named([_declared(each) for each in graph.messages(number)], kind)
        for number, kind in ((11, "input"), (12, "output"), (13, "value"))
    )
    opsets = {each.text(1): each.integer(2) for each in model.messages(8)}
    metadata = {each.text(1): each.text(2) for each in model.messages(14)}
    graph.passed_over(2, 10, 16)  # name, doc_string, metadata_props
    model.passed_over(1, 2, 3, 4, 5, 6)  # versions, producer, doc_string
    others += [*graph.others("graph"), *model.others("model")]
    return GraphFile(path, tuple(nodes), tensors, inputs, outputs, known, opsets, metadata, tuple(others))


def _named(found: list[tuple[str, T]], kind: str) -> dict[str, T]:
    made = dict(found)
    if len(made) != len(found):
        raise ValueError(f"a {kind}'s name is there twice")
    return made


def _node(found: _Message) -> tuple[Node, list[str]]:
    attributes: list[tuple[str, int | float | str | None]] = []
    others = []
    for each in found.messages(5):
        name, kind = each.text(1), each.integer(20)
        value: int | float | str | None = None
        if kind == 1:
            number = each.data(2) or bytes(4)
            if len(number) != 4:
                raise ValueError(f"attribute {name!r:.100}: no float found")
            (value,) = struct.unpack("<f", number)
        elif kind == 2:
            value = each.integer(3)
        elif kind == 3:
            value = (each.data(4) or b"").decode("utf-8", "replace")
        each.passed_over(13)
        if value is not None:
            others += each.others("attribute")
        attributes.append((name, value))
    op, domain = found.text(4), found.text(7)
    node = Node(
        f"{domain}.{op}" if domain not in ("", "ai.onnx") else op,
        found.texts(1), found.texts(2), _named(attributes, "node's attribute"), found.text(3),
    )  # fmt: skip
    found.passed_over(6, 9)  # doc_string, metadata_props
    return node, others + found.others("node")


def _tensor(found: _Message) -> Tensor:
    name, shape = found.text(8), found.integers(1)
    kind, bits = _type(found.integer(2))
    if min(shape, default=0) < 0:
        raise ValueError(f"tensor {name!r:.100}: dimensions {shape} found")
    nbytes = -(-math.prod(shape) * bits // 8)
    found.passed_over(12, 14, 16)  # doc_string, data_location, metadata_props
    places = _named([(each.text(1), each.text(2)) for each in found.messages(13)], "key of a tensor's place")
    if not places:
        return Tensor(name, kind, shape, nbytes, data=found.data(9))
    if found.integer(14) != 1 or found.data(9) is not None:
        raise ValueError(f"tensor {name!r:.100}: both in the graph and beside it")
    return Tensor(
        name, kind, shape, nbytes, places.get("location", ""), _number(places.get("offset", "0")),
        _number(places.get("length", str(nbytes))),
    )  # fmt: skip


def _declared(found: _Message) -> tuple[str, Declared]:
    name, tensor = found.text(1), found.message(2).message(1)
    shape = tuple(each.text(2) or each.integer(1) for each in tensor.message(2).messages(1))
    number = tensor.integer(1)
    return name, Declared(_type(number)[0] if number else "", shape)


def _type(number: int) -> tuple[str, int]:
    if number not in TYPES:
        raise ValueError(f"data type {number} found, which is not known")
    return TYPES[number]


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(f"a place of {text!r:.40} found, a number of bytes expected")
    return int(text)
