"""Block formats of ggml and of ONNX Runtime's MatMulNBits: rows of float32 go in, rows of blocks come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.formats import check_finite
from mimo_mobile.errors import QuantizationError, require
from mimo_mobile.quantize import ggml
from mimo_mobile.quantize.importance import positive


@dataclass(frozen=True, slots=True)
class GgmlFormat:
    """One of ggml's quantized types; the gguf package knows its sizes."""

    name: str

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row.

        Raises:
            QuantizationError: ``columns`` is no multiple of the block.
        """
        gguf = require("gguf", "gguf")
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.name]]
        if columns % block_size:
            raise QuantizationError(
                f"{self.name} takes rows of a multiple of {block_size} weights, {columns} found; use another recipe"
            )
        return int(columns // block_size * block_bytes)

    def encode(
        self, values: NDArray[np.float32], out: NDArray[np.uint8], importance: NDArray[np.float32] | None = None
    ) -> None:
        """Store ``values`` [rows, columns] in ``out`` [rows, row_bytes].

        With ``importance`` [columns] ggml searches each block's scale for the smallest error, weighted by it. Q8_0 has
        no such search.

        Raises:
            QuantizationError: A value is not finite, or the importance is no importance of these columns.
        """
        check_finite(values)
        weights = None if importance is None else positive(importance, values.shape[1])
        ggml_type = require("gguf", "gguf").GGMLQuantizationType[self.name]
        ggml.quantize_rows(ggml_type, np.ascontiguousarray(values), out, weights)


@dataclass(frozen=True, slots=True)
class NBitsFormat:
    """The symmetric blocks of MatMulNBits and GatherBlockQuantized.

    The weight of largest magnitude in a block becomes the lowest integer, so that no level is lost, as in ggml's
    Q4_0. Scales are rounded to bfloat16 before the integers are chosen: KleidiAI keeps only their upper half.

    Source: https://github.com/microsoft/onnxruntime/blob/v1.22.0/docs/ContribOperators.md#com.microsoft.MatMulNBits
    """

    bits: Literal[4, 8]
    block_size: int

    def quantize(self, values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Rows [N, K] as integers [N, K / block_size, block_size * bits / 8] and scales [N, K / block_size].

        Integers are stored with the middle level (8 or 128) added. Two 4-bit integers share a byte, of which the
        first is the low half.

        Raises:
            QuantizationError: K is no multiple of ``block_size``, or a value is not finite.
        """
        rows, columns = values.shape
        if columns % self.block_size:
            raise QuantizationError(
                f"MatMulNBits in blocks of {self.block_size} takes rows of a multiple of it, {columns} found"
            )
        check_finite(values)
        middle = 1 << (self.bits - 1)
        blocks = values.reshape(rows, -1, self.block_size)
        high, low = blocks.max(axis=-1), blocks.min(axis=-1)
        extreme = np.where(high > -low, high, low)
        scales = (extreme / -middle).astype(ml_dtypes.bfloat16).astype(np.float32)
        scales[np.abs(scales) < np.finfo(np.float32).tiny] = 0  # the inverse of a subnormal one would be infinite
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
        levels = np.rint(blocks * inverse[..., None])
        levels = np.clip(levels + middle, 0, 2 * middle - 1).astype(np.uint8)
        if self.bits == 4:
            levels = levels[..., 0::2] | levels[..., 1::2] << 4
        return levels, scales
