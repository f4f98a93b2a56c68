"""ggml's own block quantization, called through ctypes in the library that llama-cpp-python installs.

Source: ``ggml_quantize_chunk`` in ggml.h, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/include/ggml.h
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import BackendUnavailableError, MissingDependencyError

_NAMES = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}


@cache
def library() -> ctypes.CDLL:
    """libggml-base, loaded once; calls into it release the GIL.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
        BackendUnavailableError: Its library is not where it should be.
    """
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("llama-cpp-python", "gguf")
    path = Path(spec.origin).parent / "lib" / _NAMES.get(sys.platform, "libggml-base.so")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendUnavailableError(f"{path}: cannot be loaded ({error}); install llama-cpp-python again") from error
    loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
    loaded.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return loaded


def quantize_rows(ggml_type: int, values: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """Quantize ``values`` [rows, columns], C-contiguous, into ``out`` [rows, row_bytes]; any number of threads at a time.

    Args:
        ggml_type: Value of ``enum ggml_type``.
        values: The weights.
        out: Where the blocks go.
    """
    rows, columns = values.shape
    assert values.flags.c_contiguous and out.flags.c_contiguous
    written = library().ggml_quantize_chunk(ggml_type, values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert written == out.nbytes, (written, out.nbytes)
