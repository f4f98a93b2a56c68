"""What quantizing spends its time in, compiled from kernels.c and called through ctypes, which releases the GIL.

Levels are the integers of a block around 0: -8…7 of 4 bits, -128…127 of 8. This module knows no file's layout.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import QuantizationError

CHUNK = 128
"""So many columns ``feed_back`` takes at most; blocks of 32, 64 and 128 fill it."""

_PLACES = {
    4: np.square(np.linspace(2.12, 4, 32)).astype(np.float32),
    8: np.linspace(100, 132, 32, dtype=np.float32),
}
"""Where a search puts the weight of largest magnitude, by bits: at these levels, as they would be without clipping. In
4 bits it pays to clip a weight that matters little. 2,048 places from 2 to 30 gave errors smaller by 1 % at most, and
4,096 from 60 to 256 in 8 bits smaller by 5 %."""

TOKENS, TILE = 32, 6
"""So many tokens, and so many rows of weights or a divisor of that, ``multiply`` takes side by side."""
MOST_UNITS, LEAST_SCALE = 15, np.float32(1e-12)
"""How many units a scale in units has at most, as 4 bits hold them; and the least largest scale of a row."""

_UNITS = np.array([0, 1, -1, -2, -3, -4])
"""The units that are tried for a row, eighths of an octave from the one with which nothing is clipped. More change the
error by less than 1 %."""

_P, _I = ctypes.c_void_p, ctypes.c_int64

_FUNCTIONS: dict[str, list[type[Any]]] = {
    "mimo_round": [_P, _I, _I, _I, _P, _P],
    "mimo_search": [_P, _P, _I, _I, _I, _I, _I, _P, _P, _P, _P],
    "mimo_units": [_P, _P, _I, _I, _I, _I, _P, _I, _P],
    "mimo_feedback": [_P, _P, _P, _P, _I, _I, _I, _I, _I, _I, _P, _P, _P, _P, _P],
    "mimo_pack_pairs": [_P, _I, _P],
    "mimo_pack_q4_0": [_P, _P, _I, _P],
    "mimo_unpack": [_P, _P, _I, _I, _I, _I, _P],
    "mimo_multiply": [_P, _I, _I, _P, _I, _P, _P, _I],
}
"""The types of the arguments of what the library exports."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a row is divided.

    Attributes:
        bits: Of a level, 4 or 8.
        size: Weights that share a scale, a multiple of 16.
        float16: Whether scales are exact in float16; else they are in bfloat16.
        in_units: Whether the scales of a row are 1 to 15 times a unit, as NPUs want them.
    """

    bits: int
    size: int
    float16: bool = False
    in_units: bool = False

    @property
    def middle(self) -> int:
        """How many levels are below 0."""
        return 1 << (self.bits - 1)


Levels = tuple[NDArray[np.int8], NDArray[np.float32]]
"""Levels [N, K] and scales [N, K / size] of rows [N, K]."""


def round_blocks(values: NDArray[np.float32], blocks: Blocks) -> Levels:
    """Rows [N, K] by rounding alone: the weight of largest magnitude in a block becomes the lowest level.

    Raises:
        QuantizationError: The kernels were not built.
    """
    assert not blocks.float16 and not blocks.in_units
    values = np.ascontiguousarray(values, np.float32)
    levels, scales = _empty(values, blocks)
    load().mimo_round(
        values.ctypes.data, scales.size, blocks.size, blocks.middle, levels.ctypes.data, scales.ctypes.data
    )
    return levels, scales


def search_blocks(values: NDArray[np.float32], importance: NDArray[np.float32], blocks: Blocks) -> Levels:
    """Rows [N, K] by scales with which the errors' squares, weighted by ``importance`` [K], sum up to little.

    A block is rounded alone where its importance is zero or NaN.

    Raises:
        QuantizationError: The kernels were not built.
    """
    values, importance = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(importance, np.float32)
    levels, scales = _empty(values, blocks)
    assert importance.shape == (values.shape[1],)
    units = units_of(values, importance, blocks)
    load().mimo_search(
        values.ctypes.data, importance.ctypes.data, *values.shape, blocks.size, blocks.middle, blocks.float16,
        _PLACES[blocks.bits].ctypes.data, _address(units), levels.ctypes.data, scales.ctypes.data,
    )  # fmt: skip
    return levels, scales


def units_of(
    values: NDArray[np.float32], importance: NDArray[np.float32], blocks: Blocks
) -> NDArray[np.float32] | None:
    """The units [N] of which the scales of rows [N, K] are multiples, chosen as ``search_blocks`` does.

    None where scales need not be multiples.

    Units have 4 significant bits, so that 15 of them are exact in bfloat16. The largest scale that clips nothing would
    be 15 times about the one at ``_UNITS``' 0; smaller units clip a few weights, and are finer for all others.

    Raises:
        QuantizationError: The kernels were not built.
    """
    if not blocks.in_units:
        return None
    values, importance = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(importance, np.float32)
    wanted = np.maximum(values.max(axis=1) / (blocks.middle - 1), values.min(axis=1) / -blocks.middle)
    significand, exponent = np.frexp(np.maximum(wanted, LEAST_SCALE) / MOST_UNITS)
    place = 8 * exponent.astype(np.int64) + np.ceil(16 * significand).astype(np.int64) - 8
    octave, eighth = np.divmod(place[:, None] + _UNITS, 8)
    tried = np.ldexp((8 + eighth).astype(np.float32), (octave - 4).astype(np.int32))
    errors = np.empty(tried.shape, np.float32)
    load().mimo_units(
        values.ctypes.data, importance.ctypes.data, *values.shape, blocks.size, blocks.middle, tried.ctypes.data,
        tried.shape[1], errors.ctypes.data,
    )  # fmt: skip
    chosen: NDArray[np.float32] = np.take_along_axis(tried, errors.argmin(axis=1)[:, None], axis=1)[:, 0]
    return np.ascontiguousarray(chosen)


def _address(array: NDArray[np.float32] | None) -> int | None:
    return None if array is None else array.ctypes.data


def feed_back(
    values: NDArray[np.float32],
    targets: NDArray[np.float32],
    importance: NDArray[np.float32],
    feedback: NDArray[np.float32],
    start: int,
    blocks: Blocks,
    out: tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]],
    units: NDArray[np.float32] | None = None,
) -> None:
    """Quantize some columns from ``start`` on, at most ``CHUNK``, each with what the ones before it in the chunk lost.

    Args:
        values: Rows [N, K].
        targets: Columns [N, C] of the rows, plus what all columns before ``start`` lost.
        importance: The weights [C] of errors.
        feedback: How much of a column's error each later one takes [C, C].
        start: The first column.
        blocks: How rows are divided.
        out: Levels [N, K], scales [N, K / size] and errors [N, K], whose columns are filled in.
        units: What ``units_of`` gives for these rows and all columns.

    Raises:
        QuantizationError: The kernels were not built.
    """
    levels, scales, errors = out
    (rows, columns), chunk = values.shape, targets.shape[1]
    assert chunk <= CHUNK and targets.shape == (rows, chunk) and feedback.shape == (chunk, chunk)
    for each in (values, targets, importance, feedback, *out):
        assert each.flags.c_contiguous
    load().mimo_feedback(
        values[:, start:].ctypes.data, targets.ctypes.data, importance.ctypes.data, feedback.ctypes.data, rows, chunk,
        columns, blocks.size, blocks.middle, blocks.float16, _PLACES[blocks.bits].ctypes.data,
        _address(units), levels[:, start:].ctypes.data, errors[:, start:].ctypes.data,
        scales[:, start // blocks.size :].ctypes.data,
    )  # fmt: skip


def pack_pairs(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Bytes [N, K / 2] of 4-bit levels [N, K]: 8 is added, and the first of two is the low half of their byte.

    Raises:
        QuantizationError: The kernels were not built.
    """
    assert levels.flags.c_contiguous and levels.shape[1] % 2 == 0
    out = np.empty((levels.shape[0], levels.shape[1] // 2), np.uint8)
    load().mimo_pack_pairs(levels.ctypes.data, levels.size, out.ctypes.data)
    return out


def pack_q4_0(levels: NDArray[np.int8], scales: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """Write levels [N, K] and float16-exact scales [N, K / 32] as ggml's Q4_0 into ``out`` [N, K / 32 * 18].

    Raises:
        QuantizationError: The kernels were not built.
    """
    halves = scales.astype(np.float16)
    assert levels.size == 32 * scales.size and out.nbytes == 18 * scales.size
    assert levels.flags.c_contiguous and halves.flags.c_contiguous and out.flags.c_contiguous
    load().mimo_pack_q4_0(levels.ctypes.data, halves.ctypes.data, scales.size, out.ctypes.data)


def unpack(
    packed: NDArray[np.uint8], scales: NDArray[np.float32], bits: int, flip: int, out: NDArray[np.float32]
) -> None:
    """Write the weights [N, K] that levels of 4 or 8 bits, flipped by some bits, and scales [N, K / size] stand for.

    Raises:
        QuantizationError: The kernels were not built.
    """
    assert packed.size * 8 == out.size * bits and out.size % scales.size == 0
    assert packed.flags.c_contiguous and scales.flags.c_contiguous and out.flags.c_contiguous
    size = out.size // scales.size
    load().mimo_unpack(packed.ctypes.data, scales.ctypes.data, scales.size, size, bits, flip, out.ctypes.data)


def side_by_side(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inputs [T, K] of a matrix as ``multiply`` takes them: [T / TOKENS, K, TOKENS], filled up with zeros."""
    tokens, columns = inputs.shape
    made = np.empty((-(-tokens // TOKENS), columns, TOKENS), np.float32)
    for place, part in enumerate(made):
        some = inputs[place * TOKENS : (place + 1) * TOKENS]
        part[:, : len(some)] = some.T
        part[:, len(some) :] = 0
    return made


def multiply(weights: NDArray[np.float32], inputs: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write what a matrix [N, K] gives for T inputs, which ``side_by_side`` made ready, into columns of ``out`` [T, N].

    Every processor adds in the same order, so that a token's numbers depend neither on it nor on other tokens.

    Raises:
        QuantizationError: The kernels were not built.
    """
    weights = np.ascontiguousarray(weights, np.float32)
    (rows, columns), tokens = weights.shape, len(out)
    assert inputs.shape == (-(-tokens // TOKENS), columns, TOKENS) and out.shape == (tokens, rows)
    assert inputs.flags.c_contiguous and out.strides[1] == out.itemsize
    sums = np.empty((rows, len(inputs) * TOKENS), np.float32)
    load().mimo_multiply(
        weights.ctypes.data, rows, columns, inputs.ctypes.data, tokens, sums.ctypes.data, out.ctypes.data,
        out.strides[0] // out.itemsize,
    )  # fmt: skip


def _empty(values: NDArray[np.float32], blocks: Blocks) -> Levels:
    rows, columns = values.shape
    assert columns % blocks.size == 0 and blocks.size % 16 == 0
    return np.empty((rows, columns), np.int8), np.empty((rows, columns // blocks.size), np.float32)


@cache
def load() -> ctypes.CDLL:
    """The library.

    Raises:
        QuantizationError: It was not built, or from other sources than these.
    """
    path = Path(__file__).with_name("libkernels.dll" if sys.platform == "win32" else "libkernels.so")
    try:
        library = ctypes.CDLL(str(path))
        for name, arguments in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
    except (OSError, AttributeError) as error:
        found = "of other sources" if path.exists() else "not there"
        raise QuantizationError(
            f"{path}: {found}, and quantizing, converting to ONNX and comparing with a checkpoint need what a C"
            " compiler makes of kernels.c (sudo apt install build-essential); install mimo-mobile again, in a checkout"
            " by `make quantize`"
        ) from error
    return library
