"""Block formats of ggml and of ONNX Runtime's MatMulNBits: rows of float32 go in, rows of blocks come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.formats import check_finite
from mimo_mobile.errors import QuantizationError, require
from mimo_mobile.quantize import ggml, kernels
from mimo_mobile.quantize.feedback import Feedback
from mimo_mobile.quantize.importance import positive
from mimo_mobile.quantize.kernels import Blocks, Levels

Weighing = NDArray[np.float32] | Feedback | None
"""What errors of columns cost: one number for each [K], or how they make up for each other; None to round alone."""

Q4_0 = "Q4_0"

GGML_BLOCKS = {
    Q4_0: Blocks(4, 32, float16=True),
    **{name: Blocks(bits, size) for name, bits, size in (
        ("Q4_K", 4, 32), ("Q5_0", 5, 32), ("Q5_1", 5, 32), ("Q5_K", 5, 32), ("Q6_K", 6, 16), ("Q8_0", 8, 32),
    )},
}  # fmt: skip
"""How ggml's types divide a row; blocks of types with ``_K`` lie in larger ones, which share the scales' scale."""

UNSEEN, UNSEEN_SHARE = np.float32(1e-6), np.float32(0.1)
"""A column with less than this part of its block's mean importance counts as never seen: another text may need what
ours did not, so that it gets this share of the mean, and is not clipped at will."""


@dataclass(frozen=True, slots=True)
class GgmlFormat:
    """One of ggml's quantized types; the gguf package knows its sizes."""

    name: str

    @property
    def blocks(self) -> Blocks:
        """How a row is divided."""
        return GGML_BLOCKS[self.name]

    @property
    def feeds_back(self) -> bool:
        """Whether ``Feedback`` gives it more than mean squares do."""
        return self.name == Q4_0

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

    def encode(self, values: NDArray[np.float32], out: NDArray[np.uint8], importance: Weighing = None) -> None:
        """Store ``values`` [rows, columns] in ``out`` [rows, row_bytes].

        With ``importance`` [columns] each block's scale is searched for, so that the errors weighted by it are small:
        of Q4_0 by our kernels, which find smaller errors than ggml's, of others by ggml. Q8_0 has no such search.
        ``Feedback`` gives more to Q4_0; others take its mean squares as importance.

        Raises:
            QuantizationError: A value is not finite, or the importance is no importance of these columns.
        """
        check_finite(values)
        if self.name == Q4_0 and importance is not None:
            kernels.pack_q4_0(*_levels(values, self.blocks, importance), out)
            return
        if isinstance(importance, Feedback):
            importance = importance.mean_squares
        weights = None if importance is None else positive(importance, values.shape[1])
        ggml_type = require("gguf", "gguf").GGMLQuantizationType[self.name]
        ggml.quantize_rows(ggml_type, np.ascontiguousarray(values), out, weights)


@dataclass(frozen=True, slots=True)
class NBitsFormat:
    """The symmetric blocks of MatMulNBits and GatherBlockQuantized.

    The weight of largest magnitude in a block becomes the lowest integer, so that no level is lost, as in ggml's
    Q4_0. Scales are rounded to bfloat16 before the integers are chosen: KleidiAI keeps only their upper half. With
    ``in_units`` the scales of a row are positive, and 1 to 15 times a unit: such blocks are also LPBQ, which is what
    QNN has for NPUs.

    Source: https://github.com/microsoft/onnxruntime/blob/v1.22.0/docs/ContribOperators.md#com.microsoft.MatMulNBits
    """

    bits: Literal[4, 8]
    block_size: int
    in_units: bool = False

    @property
    def blocks(self) -> Blocks:
        """How a row is divided."""
        return Blocks(self.bits, self.block_size, in_units=self.in_units)

    @property
    def feeds_back(self) -> bool:
        """Whether ``Feedback`` gives it more than mean squares do."""
        return True

    def check_columns(self, columns: int) -> None:
        """See that rows fill whole blocks.

        Raises:
            QuantizationError: They do not.
        """
        if columns % self.block_size:
            raise QuantizationError(
                f"MatMulNBits in blocks of {self.block_size} takes rows of a multiple of it, {columns} found;"
                " use another recipe"
            )

    def quantize(
        self, values: NDArray[np.float32], importance: Weighing = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Rows [N, K] as integers [N, K / block_size, block_size * bits / 8] and scales [N, K / block_size].

        Integers are stored with the middle level (8 or 128) added. Two 4-bit integers share a byte, of which the
        first is the low half. With ``importance`` scales are searched for, and ``Feedback`` mends errors as well.

        Raises:
            QuantizationError: K is no multiple of ``block_size``, a value is not finite, or the importance is no
                importance of these columns.
        """
        rows, columns = values.shape
        self.check_columns(columns)
        check_finite(values)
        levels, scales = _levels(values, self.blocks, importance)
        packed = kernels.pack_pairs(levels) if self.bits == 4 else levels.view(np.uint8) ^ np.uint8(0x80)
        return packed.reshape(rows, -1, self.block_size * self.bits // 8), scales


def _levels(values: NDArray[np.float32], blocks: Blocks, importance: Weighing) -> Levels:
    if importance is None and not blocks.in_units:
        return kernels.round_blocks(values, blocks)
    if importance is None:
        return kernels.search_blocks(values, np.ones(values.shape[1], np.float32), blocks)
    if isinstance(importance, Feedback):
        return importance.quantize(values, blocks)
    weights = positive(importance, values.shape[1])
    mean = np.repeat(weights.reshape(-1, blocks.size).mean(axis=1), blocks.size)
    return kernels.search_blocks(values, np.where(weights < UNSEEN * mean, UNSEEN_SHARE * mean, weights), blocks)
