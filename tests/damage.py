"""Damages tensors of written GGUF files as a fault in quantizing would: the files load, and predict worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def damage(path: Path, tensor: str, how: Callable[[Bytes], Bytes]) -> None:
    """Change the bytes `[rows, bytes of a row]` of a quantized tensor in place."""
    reader = gguf.GGUFReader(path, "r+")
    found = next(each for each in reader.tensors if each.name == tensor)
    found.data[:] = how(found.data.copy())
    reader.data.flush()


def shuffled(rows: Bytes) -> Bytes:
    """The same rows in another order."""
    return np.random.Generator(np.random.PCG64(0)).permutation(rows)
