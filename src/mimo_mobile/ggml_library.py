"""libggml-base, the shared library that llama-cpp-python installs: loaded once, for quantization and GGUF headers."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mimo_mobile.errors import BackendUnavailableError, MissingDependencyError

_NAMES = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}


@cache
def load() -> ctypes.CDLL:
    """The library; calls into it release the GIL.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
        BackendUnavailableError: Its library is not where it should be.
    """
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("llama-cpp-python", "gguf")
    path = Path(spec.origin).parent / "lib" / _NAMES.get(sys.platform, "libggml-base.so")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendUnavailableError(f"{path}: cannot be loaded ({error}); install llama-cpp-python again") from error
