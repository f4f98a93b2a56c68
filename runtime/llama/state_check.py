"""Whether a copy of a KV cache is one sequence's, and its layers as another context of llama.cpp has them.

llama.cpp ends the process at some copies that are no sequence's. A copy has one part for each cache of the context,
which has two when some layers belong to a window of their own. llama.cpp itself checks types and sizes; this module
knows positions and layers, and of the rest only what leads to them. The layout is that of
``llama_kv_cache::state_write`` in the llama.cpp that llama-cpp-python 0.3.36 brings.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct("<II")
"""Two words at the beginning, which are llama.cpp's own."""

_PART = struct.Struct("<II")
"""How many streams there are, and how many cells."""

_LAYERS = struct.Struct("<II")
"""Whether values are transposed, and how many layers follow."""

_ROWS = struct.Struct("<iQ")
"""The type of keys or values, and the bytes of one position."""

_COLUMNS = struct.Struct("<iII")
"""The type of transposed values, the bytes of one, and how many each position has."""

_CELL = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])

_MOST_PARTS, _MOST_LAYERS = 2, 1000

Layers = Sequence[Sequence[int]]
"""The layers in each part of a copy, in their order there."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a copy: its cells, and where the keys and the values of each of its layers are."""

    cells: memoryview
    transposed: int
    keys: list[memoryview]
    values: list[memoryview]

    @property
    def count(self) -> int:
        return len(self.cells) // _CELL.itemsize

    @property
    def positions(self) -> NDArray[np.int32]:
        """Of the cells; what else they say llama.cpp does not read, or it is the same."""
        return np.frombuffer(self.cells, _CELL)["position"]


def has_positions(state: NDArray[np.uint8], tokens: int, *, gaps: bool) -> bool:
    """Whether a copy is of ``tokens`` positions, each once in each part; with ``gaps`` some may be missing."""
    try:
        return all(_are_positions(part, tokens, gaps) for part in _parts_of(state))
    except (struct.error, ValueError):  # it ends early
        return False


def parts_of_layers(windows: Sequence[bool]) -> Layers:
    """How a context divides layers, of which some belong to a window.

    >>> parts_of_layers([True, False, False])
    [[1, 2], [0]]
    """
    kinds = [[layer for layer, window in enumerate(windows) if window is kind] for kind in (False, True)]
    return kinds if any(windows) else [list(range(len(windows)))]


def arranged(state: NDArray[np.uint8], order: Sequence[int], layers: Layers) -> NDArray[np.uint8]:
    """A copy whose parts have ``layers``, of one that has its layers in ``order``; itself when it has them so already.

    Raises:
        ValueError: It has other layers, or its parts are not of the same cells.
    """
    parts = _parts_of(state)
    found, wanted = [len(each.keys) for each in parts], [len(each) for each in layers]
    if found == wanted and list(order) == [layer for part in layers for layer in part]:
        return state
    alike = all(
        each.transposed == parts[0].transposed and np.array_equal(each.positions, parts[0].positions) for each in parts
    )
    if not parts or not alike or sorted(order) != list(range(sum(found))) or sum(found) != sum(wanted):
        raise ValueError("layers or cells that do not go together")
    keys = dict(zip(order, [each for part in parts for each in part.keys], strict=True))
    values = dict(zip(order, [each for part in parts for each in part.values], strict=True))
    made: list[bytes | memoryview] = [_data_of(state)[: _HEAD.size]]
    for part in layers:
        made += [_PART.pack(1, parts[0].count), parts[0].cells, _LAYERS.pack(parts[0].transposed, len(part))]
        made += [*(keys[layer] for layer in part), *(values[layer] for layer in part)]
    return np.frombuffer(b"".join(made), np.uint8)


def _data_of(state: NDArray[np.uint8]) -> memoryview:
    of_bytes = state.ndim == 1 and state.dtype == np.uint8
    return np.ascontiguousarray(state).data if of_bytes else memoryview(b"")


def _parts_of(state: NDArray[np.uint8]) -> list[_Part]:
    """The parts of a copy, which are views of it.

    Raises:
        ValueError: It ends early, or behind them; so does a struct.error.
    """
    data, place, parts = _data_of(state), _HEAD.size, list[_Part]()
    while place < len(data):
        streams, count = _PART.unpack_from(data, place)
        place += _PART.size
        end = place + count * _CELL.itemsize
        if streams != 1 or end > len(data) or len(parts) == _MOST_PARTS:
            raise ValueError("streams, cells or parts that are not there")
        cells, place = data[place:end], end
        transposed, layers, ends = 0, 0, list[int]()
        if count:
            transposed, layers = _LAYERS.unpack_from(data, place)
            place += _LAYERS.size
            ends = _ends_of_layers(data, place, count, layers, transposed)
        sides = [data[start:stop] for start, stop in zip([place, *ends], ends, strict=False)]
        parts.append(_Part(cells, transposed, sides[:layers], sides[layers:]))
        place = ends[-1] if ends else place
    if place != len(data):
        raise ValueError("bytes that are not there")
    return parts


def _are_positions(part: _Part, tokens: int, gaps: bool) -> bool:
    """Whether the cells of a part are of different positions within a text, and of one sequence."""
    count = part.count
    if count > tokens or (count < tokens and not gaps):
        return False
    cells = np.frombuffer(part.cells, _CELL)
    distinct = np.unique(cells["position"])
    inside = not count or (distinct[0] >= 0 and distinct[-1] < tokens)
    return bool(len(distinct) == count and inside and (cells["sequences"] == 1).all())


def _ends_of_layers(data: memoryview, place: int, count: int, layers: int, transposed: int) -> list[int]:
    """Where the keys of each layer end that begin at a place, and behind them the values of each."""
    if layers > _MOST_LAYERS:
        raise ValueError(f"{layers} layers")
    ends = []
    for kind in ("keys", "values"):
        for _ in range(layers):
            if kind == "values" and transposed:
                _, size, columns = _COLUMNS.unpack_from(data, place)
                place += _COLUMNS.size + size * columns * count
            else:
                _, size = _ROWS.unpack_from(data, place)
                place += _ROWS.size + size * count
            if place > len(data):
                raise ValueError(f"{kind} that are not there")
            ends.append(place)
    return ends
