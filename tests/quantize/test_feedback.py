"""Feedback between columns against GPTQ as its paper has it, through the inverse of the second moments."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.errors import QuantizationError
from mimo_mobile.quantize import kernels
from mimo_mobile.quantize.feedback import DAMPING, Feedback
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat
from mimo_mobile.quantize.kernels import Blocks


def correlated(columns: int, tokens: int = 2000) -> NDArray[np.float32]:
    """Inputs [tokens, columns] that depend on each other, of sizes that differ much."""
    rng = np.random.Generator(np.random.PCG64(1))
    mixed = rng.standard_normal((columns, columns)) / columns**0.5 + np.eye(columns) / 3
    made = rng.standard_normal((tokens, columns)) @ mixed * np.exp(rng.standard_normal(columns))
    return np.asarray(made, np.float32)


def weights(rows: int, columns: int) -> NDArray[np.float32]:
    return (np.random.Generator(np.random.PCG64(2)).standard_t(5, (rows, columns)) * 0.02).astype(np.float32)


def moments(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x.T @ x / np.float32(len(x))


def feedback_of(x: NDArray[np.float32]) -> Feedback:
    return Feedback.of(moments(x), len(x))


def gptq(
    values: NDArray[np.float32], x: NDArray[np.float32], blocks: Blocks, scales: NDArray[np.float32]
) -> NDArray[np.float64]:
    """GPTQ's dequantized weights with given scales, in float64; no scale may be worse than one that is searched."""
    wanted, columns = values.astype(np.float64), values.shape[1]
    second = moments(x).astype(np.float64)
    damped = second + (DAMPING + columns / len(x)) * np.diag(np.diag(second))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    importance = 1 / np.diag(upper) ** 2
    made = np.empty_like(wanted)
    for column in range(columns):
        scale, part = scales[:, column // blocks.size].astype(np.float64), slice(column, column + blocks.size)
        inverse = np.divide(1, scale, out=np.zeros(len(values)), where=scale != 0)
        if column % blocks.size == 0:
            these = wanted[:, part]
            levels = np.clip(np.rint(these * inverse[:, None]), -blocks.middle, blocks.middle - 1)
            best = kernels.search_blocks(these.astype(np.float32), importance[part].astype(np.float32), blocks)
            lost, least = (
                (np.square(these - each * one[:, None]) @ importance[part]).sum()
                for each, one in ((levels, scale), (best[0], best[1][:, 0]))
            )
            assert lost < 1.01 * least
        made[:, column] = np.clip(np.rint(wanted[:, column] * inverse), -blocks.middle, blocks.middle - 1) * scale
        error = (wanted[:, column] - made[:, column]) / upper[column, column]
        wanted[:, column:] -= np.outer(error, upper[column, column:])
    return made


def loss(x: NDArray[np.float32], difference: NDArray[np.float64]) -> float:
    return float(np.square(x.astype(np.float64) @ difference.T).mean())


@pytest.mark.parametrize(
    ("blocks", "columns"),
    [
        (Blocks(4, 32), 256),
        (Blocks(4, 64), 192),
        (Blocks(4, 128), 256),
        (Blocks(8, 32), 160),
        (Blocks(4, 32, True), 96),
    ],
    ids=str,
)
def test_feedback_gives_gptqs_weights(blocks: Blocks, columns: int) -> None:
    # Where two scales are nearly as good, rounding decides which is taken, and it differs between processors: of a few
    # rows one unlucky scale is the larger part of what is lost, of many it is not.
    x, values = correlated(columns), weights(2048, columns)
    levels, scales = feedback_of(x).quantize(values, blocks)
    made = levels * np.repeat(scales.astype(np.float64), blocks.size, axis=1)
    expected = gptq(values, x, blocks, scales)
    # A sum at the middle between two levels may round to either, and what follows in its row then differs.
    assert np.isclose(made, expected, rtol=1e-6, atol=0).mean() > 0.99
    assert loss(x, made - values) == pytest.approx(loss(x, expected - values), rel=0.01)


def test_more_columns_than_are_factored_at_a_time_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, values = correlated(256), weights(16, 256)
    whole = feedback_of(x)
    monkeypatch.setattr("mimo_mobile.quantize.feedback.PANEL", 96)
    parts = feedback_of(x)
    np.testing.assert_allclose(np.triu(parts.shares), np.triu(whole.shares), atol=1e-4)
    np.testing.assert_allclose(parts.importance, whole.importance, rtol=1e-4)
    np.testing.assert_allclose(np.diag(whole.shares), 1)
    assert loss(x, values) > 0


def test_feedback_loses_less_than_a_search_and_that_less_than_rounding() -> None:
    x, values = correlated(256), weights(64, 256)
    feedback, squares = feedback_of(x), np.square(x).mean(axis=0)
    nbits, ggml = NBitsFormat(4, 32), GgmlFormat("Q4_0")
    for decoded in (
        [decode(nbits.quantize(values, each)) for each in (feedback, squares, None)],
        [decode_q4_0(ggml, values, each) for each in (feedback, squares, None)],
    ):
        losses = [loss(x, made - values) for made in decoded]
        assert losses[0] < 0.75 * losses[1] < 0.75 * 0.75 * losses[2]


@pytest.mark.parametrize("tokens", [40, 200, 4000])
def test_feedback_gains_on_another_text_however_short_the_one_it_comes_from(tokens: int) -> None:
    x, values = correlated(256, 8000), weights(64, 256)
    seen, other = x[:tokens], x[4000:]
    nbits = NBitsFormat(4, 32)
    searched = decode(nbits.quantize(values, np.square(seen).mean(axis=0)))
    made = decode(nbits.quantize(values, feedback_of(seen)))
    assert loss(other, made - values) < loss(other, searched - values)


def decode(made: tuple[NDArray[np.uint8], NDArray[np.float32]]) -> NDArray[np.float64]:
    packed, scales = made
    levels = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float64) - 8
    return (levels * scales[..., None]).reshape(len(packed), -1)


def decode_q4_0(
    ggml: GgmlFormat, values: NDArray[np.float32], importance: NDArray[np.float32] | Feedback | None
) -> NDArray[np.float64]:
    out = np.empty((len(values), ggml.row_bytes(values.shape[1])), np.uint8)
    ggml.encode(values, out, importance)
    return gguf.quants.dequantize(out, gguf.GGMLQuantizationType.Q4_0).astype(np.float64)


def test_columns_that_are_always_zero_take_and_give_nothing() -> None:
    x, values = correlated(128), weights(16, 128)
    x[:, 32:64] = 0
    levels, scales = feedback_of(x).quantize(values, Blocks(4, 32))
    alone = kernels.search_blocks(values[:, 32:64], np.ones(32, np.float32), Blocks(4, 32))
    np.testing.assert_array_equal(levels[:, 32:64], alone[0])
    np.testing.assert_array_equal(scales[:, 1:2], alone[1])
    zero = Feedback.of(np.zeros((128, 128), np.float32), 100).quantize(values, Blocks(4, 32))
    np.testing.assert_array_equal(zero[0], kernels.search_blocks(values, np.ones(128, np.float32), Blocks(4, 32))[0])


def test_moments_of_fewer_tokens_than_columns_are_enough() -> None:
    x, values = correlated(256, tokens=40), weights(16, 256)
    levels, scales = feedback_of(x).quantize(values, Blocks(4, 32))
    made = levels * np.repeat(scales.astype(np.float64), 32, axis=1)
    assert loss(x, made - values) < 0.01 * loss(x, values.astype(np.float64))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_moments_that_are_none_are_an_error(bad: float) -> None:
    second = moments(correlated(64))
    second[7, 7] = bad
    with pytest.raises(QuantizationError, match="second moments that are negative, NaN or infinite found; measure"):
        Feedback.of(second, 1000)


def test_moments_that_contradict_each_other_are_an_error() -> None:
    second = np.ones((64, 64), np.float32)
    second[3, 60] = second[60, 3] = 5
    with pytest.raises(QuantizationError, match="second moments that are none found; measure them on a longer text"):
        Feedback.of(second, 1000)


def test_formats_without_feedback_take_its_mean_squares() -> None:
    x, values = correlated(256), weights(4, 256)
    made = np.empty((2, 4, GgmlFormat("Q4_K").row_bytes(256)), np.uint8)
    second = moments(x)
    for out, importance in zip(made, (np.diag(second).copy(), Feedback.of(second.copy(), len(x))), strict=True):
        GgmlFormat("Q4_K").encode(values, out, importance)
    np.testing.assert_array_equal(*made)
