"""Feedback between columns (GPTQ): what rounding one weight loses, the weights after it make up for.

Columns of a matrix's input are correlated, so that an error in one can be mended in others. Let H be the second moments
of the input and H = R Rᵀ with R upper triangular. Then the error of an output is |(W − Q) R|, and column j adds to it
nothing but Rⱼⱼ (wⱼ + Σ eᵢ Rᵢⱼ / Rⱼⱼ − qⱼ), where eᵢ = wᵢ − qᵢ are the errors of the columns before it: each column is
rounded with that sum added. This equals GPTQ's way through the inverse of H, which is never needed here.

Sources: Frantar et al., https://arxiv.org/abs/2210.17323; that both are one, Chee et al.,
https://arxiv.org/abs/2307.13304, theorem 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import QuantizationError
from mimo_mobile.quantize import kernels
from mimo_mobile.quantize.kernels import CHUNK, Blocks, Levels

DAMPING = 0.3
"""Each column's mean square is taken to be larger by this share, and by the number of columns over that of tokens: what
happened to go together in a short text is not mended. docs/design/quantization.md has the figures."""

LEAST_SQUARE = 1e-6
"""The share of the mean of all columns' mean squares that each has at least."""

PANEL = 512
"""Columns that are factored at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """How the errors of a matrix's columns make up for each other.

    Attributes:
        shares: Row i holds how much of the error of column i each later column takes [K, K]; what is not right of the
            diagonal means nothing.
        importance: What an error that is left in a column costs [K].
        mean_squares: The columns' mean squares [K], for formats that no feedback is made for.
    """

    shares: NDArray[np.float32]
    importance: NDArray[np.float32]
    mean_squares: NDArray[np.float32]

    @classmethod
    def of(cls, moments: NDArray[np.float32], tokens: int) -> Feedback:
        """The feedback for second moments [K, K] of a matrix's input, of which only the upper triangle is read.

        ``tokens`` is how many inputs they are the mean of.

        ``moments`` is overwritten: with 11,008 columns it takes 485 MB, and there shall not be two of it.

        Raises:
            QuantizationError: The moments are not finite, or no moments.
        """
        diagonal = np.einsum("ii->i", moments)
        mean_squares = diagonal.copy()
        mean = float(mean_squares.mean(dtype=np.float64))
        if not (np.isfinite(mean) and mean_squares.min() >= 0):
            raise QuantizationError("second moments that are negative, NaN or infinite found; measure them again")
        least = LEAST_SQUARE * mean if mean > 0 else 1
        diagonal[:] = np.maximum(diagonal * (1 + DAMPING + len(moments) / tokens), least)
        _factor(moments)
        roots = diagonal.copy()
        moments /= roots
        return cls(moments, np.square(roots), mean_squares)

    def quantize(self, values: NDArray[np.float32], blocks: Blocks) -> Levels:
        """Rows [N, K], column by column; each block's scale is searched for when its first column's turn comes.

        Raises:
            QuantizationError: The kernels were not built.
        """
        values = np.ascontiguousarray(values, np.float32)
        rows, columns = values.shape
        levels, errors = np.empty((rows, columns), np.int8), np.empty((rows, columns), np.float32)
        scales = np.empty((rows, columns // blocks.size), np.float32)
        units = kernels.units_of(values, self.importance, blocks)
        for start in range(0, columns, CHUNK):
            part = slice(start, min(start + CHUNK, columns))
            targets = errors[:, :start] @ self.shares[:start, part]
            targets += values[:, part]
            shares = np.ascontiguousarray(self.shares[part, part])
            out = (levels, scales, errors)
            kernels.feed_back(values, targets, self.importance[part], shares, start, blocks, out, units)
        return levels, scales


def _factor(matrix: NDArray[np.float32]) -> None:
    """Replace the upper triangle of a symmetric matrix by R, upper triangular, with R Rᵀ = the matrix.

    Raises:
        QuantizationError: It is not positive definite.
    """
    for stop in range(len(matrix), 0, -PANEL):
        start = max(0, stop - PANEL)
        own = np.triu(matrix[start:stop, start:stop]).astype(np.float64)
        own += np.triu(own, 1).T
        try:
            root = np.linalg.cholesky(own[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError as error:
            raise QuantizationError("second moments that are none found; measure them on a longer text") from error
        matrix[start:stop, start:stop] = root
        panel = matrix[:start, start:stop] @ np.linalg.inv(root).T.astype(np.float32)
        matrix[:start, start:stop] = panel
        for left in range(0, start, PANEL):
            right = min(left + PANEL, start)
            matrix[:right, left:right] -= panel[:right] @ panel[left:right].T
