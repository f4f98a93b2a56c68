"""What quantizing spends its time in, compiled from kernels.c and called through ctypes, which releases the GIL.

Levels are the integers of a block around 0: -8…7 of 4 bits, -128…127 of 8. This module knows no file's layout.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import QuantizationError

_FUNCTIONS: dict[str, list[type[Any]]] = {
    "mimo_round": [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 2],
    "mimo_pack_pairs": [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p],
}
"""The types of the arguments of what the library exports."""


def round_blocks(
    values: NDArray[np.float32], block_size: int, bits: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Levels [N, K] and bfloat16-exact scales [N, K / block_size] of rows [N, K], by rounding alone.

    The weight of largest magnitude in a block becomes the lowest level. ``block_size`` is a multiple of 16.

    Raises:
        QuantizationError: The kernels were not built.
    """
    values = np.ascontiguousarray(values, np.float32)
    rows, columns = values.shape
    assert columns % block_size == 0 and block_size % 16 == 0
    levels, scales = np.empty((rows, columns), np.int8), np.empty((rows, columns // block_size), np.float32)
    blocks = (scales.size, block_size, 1 << (bits - 1))
    load().mimo_round(values.ctypes.data, *blocks, levels.ctypes.data, scales.ctypes.data)
    return levels, scales


def pack_pairs(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Bytes [N, K / 2] of 4-bit levels [N, K]: 8 is added, and the first of two is the low half of their byte.

    Raises:
        QuantizationError: The kernels were not built.
    """
    assert levels.flags.c_contiguous and levels.shape[1] % 2 == 0
    out = np.empty((levels.shape[0], levels.shape[1] // 2), np.uint8)
    load().mimo_pack_pairs(levels.ctypes.data, levels.size, out.ctypes.data)
    return out


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
            f"{path}: {found}, and quantizing needs what a C compiler makes of kernels.c (sudo apt install"
            " build-essential); install mimo-mobile again, in a checkout by `make quantize`"
        ) from error
    return library
