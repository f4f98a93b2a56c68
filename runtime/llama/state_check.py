"""Whether a copy of a KV cache is one sequence's: llama.cpp ends the process at some that are not.

A copy has one part for each cache of the context, which has two when some layers belong to a window of their own.
llama.cpp itself checks types and sizes; this module knows positions, and of the rest only what leads to them. The
layout is that of ``llama_kv_cache::state_write`` in the llama.cpp that llama-cpp-python 0.3.36 brings.
"""

from __future__ import annotations

import struct

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

_MOST_LAYERS = 1000


def has_positions(state: NDArray[np.uint8], tokens: int, *, gaps: bool) -> bool:
    """Whether a copy is of ``tokens`` positions, each once in each part; with ``gaps`` some may be missing."""
    data, place = state.tobytes() if state.ndim == 1 else b"", _HEAD.size
    try:
        while place < len(data):
            streams, count = _PART.unpack_from(data, place)
            place += _PART.size
            if streams != 1 or not _are_positions(data, place, count, tokens, gaps):
                return False
            place = _end_of_layers(data, place + count * _CELL.itemsize, count) if count else place
    except (struct.error, ValueError):  # it ends early
        return False
    return place == len(data)


def _are_positions(data: bytes, place: int, count: int, tokens: int, gaps: bool) -> bool:
    """Whether the cells at a place are of different positions within a text, and of one sequence."""
    if count > tokens or (count < tokens and not gaps):
        return False
    cells = np.frombuffer(data, _CELL, count, place) if count else np.empty(0, _CELL)
    distinct = np.unique(cells["position"])
    inside = not count or (distinct[0] >= 0 and distinct[-1] < tokens)
    return bool(len(distinct) == count and inside and (cells["sequences"] == 1).all())


def _end_of_layers(data: bytes, place: int, count: int) -> int:
    """Where the keys and values of ``count`` cells end that begin at a place."""
    transposed, layers = _LAYERS.unpack_from(data, place)
    place += _LAYERS.size
    if layers > _MOST_LAYERS:
        raise ValueError
    for kind in ("keys", "values"):
        for _ in range(layers):
            if kind == "values" and transposed:
                _, size, columns = _COLUMNS.unpack_from(data, place)
                place += _COLUMNS.size + size * columns * count
            else:
                _, size = _ROWS.unpack_from(data, place)
                place += _ROWS.size + size * count
    return place
