"""How much each matrix lost in a written file: the error of what it gives, for the inputs that calibration saw.

An input that is large makes an error in its column count more. Some rows of each matrix are compared, evenly spread:
errors of rows are alike, and to read all of them would take as long as quantizing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.folding import Folded, folded
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize.written import read_written
from mimo_mobile.ranges import ModelRanges

GROUPS, GROUP_ROWS = 16, 16
"""So many groups of so many rows are compared."""


@dataclass(frozen=True, slots=True)
class TensorError:
    """What a matrix lost.

    Attributes:
        tensor: Its name in the checkpoint.
        error: The root mean square of the error of what it gives, over that of what it should give: 0.1 is 10 %.
    """

    tensor: str
    error: float


def tensor_errors(
    checkpoint: Checkpoint,
    path: Path,
    ranges: ModelRanges | None,
    calibrated: Calibrated | None,
    mean_squares: Mapping[str, NDArray[np.float32]],
    progress: ProgressCallback = ignore,
) -> list[TensorError]:
    """What every matrix of a written file lost, in the checkpoint's order.

    Args:
        checkpoint: What the file was made from.
        path: The .gguf file or the ONNX folder.
        ranges: The powers of two by which it was written; None when it was not scaled.
        calibrated: What it was written with, if anything.
        mean_squares: The mean of the squares of each input `[K]`, by the name of the matrix. Without one, as for the
            embedding, all columns count alike.
        progress: Called after every matrix.

    Raises:
        ModelLoadError: The file cannot be read, or is of another model.
    """
    _, written = read_written(path, checkpoint.config)
    factors = calibrated.factors if calibrated else {}
    expected = folded(checkpoint.tensors, ranges or ModelRanges(()), factors)
    names = [name for name in checkpoint.tensors if name in written and len(checkpoint.tensors[name].shape) == 2]
    made = []
    for done, name in enumerate(names, 1):
        view, found = checkpoint.tensors[name], expected[name]
        weights = mean_squares.get(name, np.ones(view.shape[1], np.float32)).astype(np.float64)
        lost = whole = 0.0
        for start, stop in _groups(view.shape[0]):
            values, stored = view.float32(start, stop), written[name].float32(start, stop)
            if isinstance(found, Folded):
                stored = found.undone(stored, start)
            lost += float((np.square(stored - values, dtype=np.float64) @ weights).sum())
            whole += float((np.square(values, dtype=np.float64) @ weights).sum())
        made.append(TensorError(name, math.sqrt(lost / whole) if whole else 0.0 if not lost else math.inf))
        progress(Progress(f"compare {path.name}", done, len(names), name, "matrices"))
    return made


def blamed(errors: Sequence[TensorError], most: int = 5) -> list[TensorError]:
    """The matrices that lost most, the worst first."""
    return sorted(errors, key=lambda each: -each.error)[:most]


def _groups(rows: int) -> Iterator[tuple[int, int]]:
    """The first and the last row of each group that is compared."""
    if rows <= GROUPS * GROUP_ROWS:
        yield 0, rows
        return
    for group in range(GROUPS):
        start = round(group * (rows - GROUP_ROWS) / (GROUPS - 1))
        yield start, start + GROUP_ROWS
