"""Weights of ONNX files are made while they are written."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from mimo_mobile.convert import onnx_weights
from mimo_mobile.convert.formats import F16, MatMulFormat, PlainFormat
from mimo_mobile.convert.onnx_graph import Compute
from mimo_mobile.convert.onnx_weights import LazyWeights
from mimo_mobile.errors import QuantizationError
from mimo_mobile.quantize.formats import NBitsFormat
from tests.tiny import tiny_config

ROWS, COLUMNS = 4096, 4096


class Rows:
    """A large tensor, of which there is no more than what is asked for; row ``bad`` holds NaN."""

    shape, size = (ROWS, COLUMNS), ROWS * COLUMNS

    def __init__(self, bad: int | None = None) -> None:
        self.bad, self.read = bad, 0

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        rows = np.arange(ROWS, dtype=np.float32)[start:stop]
        self.read += len(rows)
        if self.bad is not None:
            rows[rows == self.bad] = np.nan
        return np.repeat(rows[:, None], COLUMNS, axis=1)


def lazy_weights(pool: ThreadPoolExecutor, row_format: PlainFormat | MatMulFormat, tensor: Rows) -> LazyWeights:
    compute = Compute(ir.DataType.FLOAT, ir.DataType.FLOAT)
    tensors = {"x.weight": tensor, "lm_head.weight": tensor}
    return LazyWeights(tiny_config(), tensors, lambda _: row_format, compute, np.arange(4), pool)


@pytest.mark.parametrize(
    ("made", "row_format"),
    [
        ("matrix", NBitsFormat(4, 32)),
        ("matrix", NBitsFormat(8, 128)),
        ("embedding", NBitsFormat(4, 32)),
        ("embedding", F16),
    ],
    ids=str,
)
def test_a_tensors_bytes_are_never_all_in_memory(
    made: str, row_format: PlainFormat | MatMulFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_weights, "TASK_WEIGHTS", 1 << 16)
    monkeypatch.setattr(onnx_weights, "AHEAD", 4)
    with ThreadPoolExecutor(2) as pool, (tmp_path / "data").open("wb") as file:
        matrix = getattr(lazy_weights(pool, row_format, Rows()), made)("x.weight")
        tracemalloc.start()
        matrix.values.tofile(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        end = file.tell()
        if matrix.scales is not None:
            matrix.scales.tofile(file)
    assert end == matrix.values.nbytes >= ROWS * COLUMNS // 2
    scales = 0 if matrix.scales is None else matrix.scales.nbytes
    assert peak < 3e6 + 2 * scales
    stored = np.fromfile(tmp_path / "data", np.uint8)
    if row_format is F16:
        np.testing.assert_array_equal(
            stored.view(np.float16).reshape(ROWS, COLUMNS), Rows().float32().astype(np.float16)
        )
    else:
        assert isinstance(row_format, NBitsFormat)
        integers, expected = row_format.quantize(Rows().float32())
        flip = 0x88 if made == "embedding" else 0
        np.testing.assert_array_equal(stored[:end], integers.reshape(-1) ^ np.uint8(flip))
        np.testing.assert_array_equal(stored[end:].view(np.float32), expected.reshape(-1))


def test_a_format_that_does_not_fit_names_the_tensor_and_stops_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_weights, "TASK_WEIGHTS", 1 << 16)
    with ThreadPoolExecutor(2) as pool, (tmp_path / "data").open("wb") as file:
        tensor = Rows(bad=500)
        matrix = lazy_weights(pool, NBitsFormat(4, 32), tensor).matrix("x.weight")
        with pytest.raises(QuantizationError, match=r"^tensor x\.weight: a weight is NaN"):
            matrix.values.tofile(file)
    assert tensor.read < ROWS
