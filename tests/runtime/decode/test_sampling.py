"""The sampler against plain definitions of its filters, written out here."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.runtime.decode.sampling import distribution, sample


def expected(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float
) -> NDArray[np.float64]:
    """Temperature, then top-k, top-p, min-p, one after the other, each over a renormalized distribution."""
    weights = np.exp(logits.astype(np.float64) / temperature)
    order = np.argsort(-weights, kind="stable")
    if top_k:
        weights[order[top_k:]] = 0
    weights /= weights.sum()
    reached, kept = 0.0, []
    for index in order:
        if reached >= top_p and top_p < 1:
            break
        kept.append(index)
        reached += weights[index]
    out = np.zeros_like(weights)
    out[kept] = weights[kept]
    out[out < min_p * out.max()] = 0
    result: NDArray[np.float64] = out / out.sum()
    return result


@pytest.mark.parametrize("size", [50, 5000])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.6, 0, 0.95, 0.0),
        (2.0, 20, 0.9, 0.05),
        (0.7, 0, 1.0, 0.1),
        (5.0, 400, 0.99, 0.0),
        (1.0, 1, 1.0, 0.0),
    ],
)
def test_filters_are_those_of_the_definitions(
    size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.random.Generator(np.random.PCG64(size)).normal(0, 3, size).astype(np.float32)
    made = distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    np.testing.assert_allclose(made, expected(logits, temperature, top_k, top_p, min_p), atol=1e-12)


def test_draws_follow_the_distribution() -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0, -np.inf], np.float32)
    random = np.random.Generator(np.random.PCG64(1))
    draws = [sample(logits, random.random(), temperature=0.8, top_p=0.97) for _ in range(20_000)]
    counts = np.bincount(draws, minlength=5)
    probabilities = distribution(logits, temperature=0.8, top_p=0.97)
    seen = probabilities > 0
    assert counts[~seen].sum() == 0
    chi_square = ((counts[seen] - 20_000 * probabilities[seen]) ** 2 / (20_000 * probabilities[seen])).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001


def test_temperature_zero_takes_the_first_of_the_largest() -> None:
    assert sample(np.array([0, 3, 3, 1], np.float32), 0.99, temperature=0) == 1


def test_the_largest_uniform_number_still_gives_a_token() -> None:
    logits = np.zeros(3, np.float32)
    assert sample(logits, np.nextafter(1.0, 0.0), temperature=1.0) == 2
    assert sample(logits, 0.0, temperature=1.0) == 0
