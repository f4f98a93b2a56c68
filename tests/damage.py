"""Damages tensors of written GGUF files as a fault in quantizing would: the files load, and predict worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

Q4_0_BYTES = 18
"""The size of a block: a scale in float16, and 32 weights."""


def damage(path: Path, tensor: str, how: Callable[[Bytes], Bytes]) -> None:
    """Change the bytes `[rows, bytes of a row]` of a quantized tensor in place."""
    reader = gguf.GGUFReader(path, "r+")
    found = next(each for each in reader.tensors if each.name == tensor)
    found.data[:] = how(found.data.copy())
    reader.data.flush()


def shuffled(rows: Bytes) -> Bytes:
    """The same rows in another order."""
    return np.random.Generator(np.random.PCG64(0)).permutation(rows)


def scaled(factor: float) -> Callable[[Bytes], Bytes]:
    """Every block's scale times a factor; for Q4_0, whose blocks begin with it."""

    def how(rows: Bytes) -> Bytes:
        blocks = rows.reshape(-1, Q4_0_BYTES)
        scales = blocks[:, :2].copy().view(np.float16)
        blocks[:, :2] = (scales * np.float16(factor)).view(np.uint8)
        return blocks.reshape(rows.shape)

    return how
