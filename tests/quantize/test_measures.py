"""Measures agree with their definitions on full distributions; the error of the short form stays below its bound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.errors import NumericsError
from mimo_mobile.quantize import measures
from mimo_mobile.quantize.measures import Share, TopRows, compare, compare_told, summary, surprise, top_rows, wilson

Array = NDArray[np.float32]


def probabilities(logits: Array) -> NDArray[np.float64]:
    made = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(made / made.sum(axis=1, keepdims=True))


def divergence(first: Array, second: Array) -> NDArray[np.float64]:
    """The KL divergence by its definition."""
    p, q = probabilities(first), probabilities(second)
    return np.asarray((p * (np.log(p) - np.log(q))).sum(axis=1))


def in_pieces(logits: Array, step: int) -> Iterator[tuple[int, Array]]:
    for start in range(0, logits.shape[1], step):
        yield start, logits[:, start : start + step]


def pair(rows: int, tokens: int, sharpness: float, noise: float, seed: int = 1) -> tuple[Array, Array, list[int]]:
    """Logits of a reference and of a model that is a little off, and the tokens that follow."""
    random = np.random.Generator(np.random.PCG64(seed))
    first = (sharpness * random.standard_normal((rows, tokens))).astype(np.float32)
    second = (first + noise * random.standard_normal((rows, tokens))).astype(np.float32)
    return first, second, random.integers(0, tokens, rows).tolist()


@pytest.mark.parametrize("step", [7, 100, 500])
def test_a_small_vocabulary_is_kept_and_compared_exactly(step: int) -> None:
    first, second, targets = pair(130, 500, 1.0, 0.3)
    rows = top_rows(in_pieces(first, step), targets)
    measured = compare(rows, second)
    expected = divergence(first, second)
    np.testing.assert_allclose(measured.kld, expected, atol=1e-6)
    np.testing.assert_allclose(rows.target_log_probs, np.log(probabilities(first)[np.arange(130), targets]), atol=1e-9)
    np.testing.assert_allclose(measured.nll, -np.log(probabilities(second)[np.arange(130), targets]), atol=1e-9)
    np.testing.assert_array_equal(measured.same_top, first.argmax(axis=1) == second.argmax(axis=1))
    np.testing.assert_allclose(surprise(second, targets), measured.nll)


@pytest.mark.parametrize(("sharpness", "noise"), [(0.5, 0.1), (2.0, 0.5), (4.0, 0.05), (6.0, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("most", [1, 16, 300])
def test_the_error_of_the_short_form_is_never_negative_and_within_its_bound(
    sharpness: float, noise: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "MOST_KEPT", most)
    first, second, targets = pair(90, 3000, sharpness, noise)
    measured = compare(top_rows(in_pieces(first, 1024), targets), second)
    error = divergence(first, second) - measured.kld
    assert error.min() > -1e-6
    assert (error <= measured.bound + 1e-6).all()


def test_the_worst_rest_reaches_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is not kept is as likely as the last that is, and the model finds it least likely."""
    monkeypatch.setattr(measures, "MOST_KEPT", 2)
    first = np.array([[3, 2, 2, 2, -90, -90]], np.float32)
    second = np.array([[3, 2, -20, -20, 1, 1]], np.float32)
    measured = compare(top_rows([(0, first)], [0]), second)
    error = divergence(first, second) - measured.kld
    np.testing.assert_allclose(error, measured.bound, rtol=1e-6)


def test_peaked_rows_keep_few_tokens_and_flat_ones_as_many_as_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MOST_KEPT", 50)
    peaked, flat = np.zeros((1, 200), np.float32), np.zeros((1, 200), np.float32)
    peaked[0, 3] = 40
    rows = top_rows([(0, np.concatenate([peaked, flat]))], [3, 4])
    assert np.diff(rows.starts).tolist() == [1, 50] and rows.ids[0] == 3
    assert rows.rest[0] < 1e-9 and rows.rest[1] == pytest.approx(0.75)
    assert rows.ids.nbytes + rows.log_probs.nbytes == 51 * 8


def test_equal_logits_have_the_top_that_argmax_has() -> None:
    logits = np.array([[1, 5, 5, 0]], np.float32)
    rows = top_rows(in_pieces(logits, 1), [0])
    assert rows.ids.tolist()[:2] == [1, 2] and compare(rows, logits).same_top.all()


def test_a_model_is_no_distance_from_itself() -> None:
    first, _, targets = pair(70, 1000, 3.0, 0)
    rows = top_rows([(0, first)], targets)
    found = summary(rows, compare(rows, first))
    assert found.tokens == 70 and found.same_top == 1 and found.max_kld < 1e-6
    assert found.perplexity == pytest.approx(found.reference_perplexity, rel=1e-6)


def test_rows_can_be_cut_and_joined() -> None:
    first, second, targets = pair(100, 400, 2.0, 0.2)
    rows = top_rows([(0, first)], targets)
    parts = [rows.rows(0, 30), rows.rows(30, 31), rows.rows(31, 500)]
    assert [len(part) for part in parts] == [30, 1, 69]
    joined = TopRows.joined(parts)
    for name in ("starts", "ids", "log_probs", "rest", "targets", "target_log_probs"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(rows, name))
    np.testing.assert_array_equal(compare(parts[2], second[31:]).kld, compare(rows, second).kld[31:])


def test_the_summary_is_numpys() -> None:
    first, second, targets = pair(201, 300, 2.0, 0.5)
    rows = top_rows([(0, first)], targets)
    found, kld = summary(rows, compare(rows, second)), divergence(first, second)
    assert found.mean_kld == pytest.approx(kld.mean(), abs=1e-5)
    assert found.median_kld == pytest.approx(np.median(kld), abs=1e-5)
    assert found.p99_kld == pytest.approx(np.percentile(kld, 99), abs=1e-5)
    assert found.mean_kld_error == pytest.approx(kld.std(ddof=1) / np.sqrt(201), rel=1e-4)
    assert found.kld_bound < 1e-3


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_none_are_an_error(number: float) -> None:
    first, second, targets = pair(3, 10, 1.0, 0.1)
    rows = top_rows([(0, first)], targets)
    second[1, 1] = number
    for measure in (lambda: top_rows([(0, second)], targets), lambda: compare(rows, second)):
        with pytest.raises(NumericsError, match="computed NaN or infinity"):
            measure()


@pytest.mark.parametrize(("share", "count"), [(0.8, 20), (0.0, 20), (0.5, 3), (0.989, 660)])
def test_wilson_s_interval_ends_where_the_share_is_just_not_too_unlikely(share: float, count: int) -> None:
    """By its definition: the ends are 1.96 of their own standard deviations from what was seen."""
    for end in wilson(share, count):
        assert abs(share - end) == pytest.approx(1.959964 * (end * (1 - end) / count) ** 0.5, abs=1e-6)
    assert wilson(1.0, 1)[1] == pytest.approx(1) and wilson(0.0, 7)[0] == pytest.approx(0)


def test_more_seeds_do_not_pretend_to_be_more_problems() -> None:
    once = Share.of([True, False, True, True], problems=4, seeds=0)
    thrice = Share.of([True, False, True, True] * 3, problems=4, seeds=3)
    assert (once.share, once.low, once.high) == (thrice.share, thrice.low, thrice.high)


def told(logits: Array, targets: list[int], count: int) -> TopRows:
    """What a server tells of its predictions: the likeliest tokens, and not more."""
    p = probabilities(logits)
    ids = np.argsort(-p, axis=1)[:, :count]
    known = np.take_along_axis(p, ids, axis=1)
    chosen = np.where((ids == np.array(targets)[:, None]).any(axis=1), p[np.arange(len(p)), targets], np.nan)
    return TopRows(
        logits.shape[1],
        np.arange(len(p) + 1) * count,
        ids.astype(np.uint32).ravel(),
        np.log(known).astype(np.float32).ravel(),
        np.maximum(0, 1 - known.sum(axis=1)),
        np.array(targets),
        np.log(chosen),
    )


@pytest.mark.parametrize("sharpness", [0.5, 4.0])
def test_what_a_server_tells_gives_no_more_than_the_true_divergence(sharpness: float) -> None:
    first, second, targets = pair(60, 300, sharpness, 0.3)
    rows, true = top_rows([(0, first)], targets), divergence(first, second)
    nll = surprise(second, targets)
    before = np.zeros(60)
    for count in (1, 20, 100, 300):
        measured = compare_told(rows, told(second, targets, count))
        assert (measured.kld <= true + 1e-6).all() and (measured.kld >= before - 1e-6).all(), count
        assert (measured.nll <= nll + 1e-6).all() and np.isinf(measured.bound).all()
        assert (measured.same_top == (first.argmax(axis=1) == second.argmax(axis=1))).all()
        before = measured.kld
    np.testing.assert_allclose(before, true, atol=1e-6)
    np.testing.assert_allclose(measured.nll, nll, atol=1e-5)
