"""How the rows of a tensor are stored: what a format must offer, and the formats that keep every value.

The block formats are in ``mimo_mobile.quantize.formats``; writers know only the protocols of this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import QuantizationError

Importance = Mapping[str, Any]
"""Checkpoint's tensor name → the mean squares [columns] of what the matrix is multiplied with, in the checkpoint's
order of columns, or whatever else its format takes for them. Not every matrix need have an entry."""

NO_IMPORTANCE: Importance = MappingProxyType({})


class RowFormat(Protocol):
    """A GGUF tensor type: rows of numbers in, rows of bytes out."""

    @property
    def name(self) -> str:
        """The type's name as ggml spells it, e.g. ``Q4_K``."""

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row.

        Raises:
            QuantizationError: Rows of so many columns cannot be stored.
        """

    def encode(self, values: NDArray[np.float32], out: NDArray[np.uint8], importance: Any = None) -> None:
        """Store ``values`` [rows, columns] in ``out`` [rows, row_bytes].

        ``importance`` [columns] says how much an error of each column matters: the mean square of what is multiplied
        with it.
        """


class MatMulFormat(Protocol):
    """How ONNX multiplies by a weight: MatMulNBits' blocks of ``bits``-bit integers."""

    @property
    def bits(self) -> int:
        """How many bits an integer has: 4 or 8."""

    @property
    def block_size(self) -> int:
        """Weights along a row that share a scale."""

    def quantize(
        self, values: NDArray[np.float32], importance: Any = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Rows [N, K] as integers [N, K / block_size, block_size * bits / 8] and scales [N, K / block_size].

        ``importance`` [K] is as in ``RowFormat.encode``.

        Raises:
            QuantizationError: K is no multiple of ``block_size``.
        """


LARGEST = 65504.0
"""The largest float16. It is the largest weight that is converted: block formats keep their scales in float16, and what
is computed with larger weights is no text."""


def check_finite(values: NDArray[np.float32]) -> None:
    """See that every weight is a number that all formats can hold.

    Raises:
        QuantizationError: One is NaN, infinite or larger than ``LARGEST``.
    """
    if values.size and not (values.max() <= LARGEST and values.min() >= -LARGEST):  # neither holds for NaN
        raise QuantizationError(
            f"a weight is NaN or infinite, or beyond {LARGEST:g}, the largest float16; the checkpoint is damaged,"
            " download it again"
        )


@dataclass(frozen=True, slots=True)
class PlainFormat:
    """Numbers that are stored one by one, without blocks."""

    name: str
    dtype: np.dtype[Any]

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row."""
        return columns * self.dtype.itemsize

    def encode(self, values: NDArray[np.float32], out: NDArray[np.uint8], importance: Any = None) -> None:
        """Store ``values`` [rows, columns] in ``out`` [rows, row_bytes]; each is rounded alone, however important.

        Raises:
            QuantizationError: A value is not finite, or too large.
        """
        out.view(self.dtype)[...] = self.cast(values)

    def cast(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """The values in this format.

        Raises:
            QuantizationError: A value is not finite, or too large.
        """
        check_finite(values)
        return values.astype(self.dtype, copy=False)


F32 = PlainFormat("F32", np.dtype(np.float32))
F16 = PlainFormat("F16", np.dtype(np.float16))
BF16 = PlainFormat("BF16", np.dtype(ml_dtypes.bfloat16))
