"""ggml's own block quantization, called through ctypes.

Source: ``ggml_quantize_chunk`` in ggml.h, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/include/ggml.h
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import ggml_library


def quantize_rows(
    ggml_type: int, values: NDArray[np.float32], out: NDArray[np.uint8], importance: NDArray[np.float32] | None = None
) -> None:
    """Quantize ``values`` [rows, columns] into ``out`` [rows, row_bytes], both C-contiguous; threads may do so at once.

    Args:
        ggml_type: A value of ``enum ggml_type``.
        values: The weights.
        out: Where the blocks go.
        importance: The weight [columns] of each column's error, C-contiguous and positive; None lets ggml choose.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
    """
    rows, columns = values.shape
    assert values.flags.c_contiguous and out.flags.c_contiguous
    weights = None
    if importance is not None:
        assert importance.shape == (columns,) and importance.dtype == np.float32 and importance.flags.c_contiguous
        weights = importance.ctypes.data
    written = _quantize_chunk()(ggml_type, values.ctypes.data, out.ctypes.data, 0, rows, columns, weights)
    assert written == out.nbytes, (written, out.nbytes)


@cache
def _quantize_chunk() -> Callable[..., int]:
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    return prototype(("ggml_quantize_chunk", ggml_library.load()))
