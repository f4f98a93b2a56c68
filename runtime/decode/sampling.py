"""Logits → token id. Pure: the random number is an argument."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 256
"""Sorted first; the rest of a large vocabulary only when top_p reaches beyond them."""


def sample(
    logits: NDArray[np.float32],
    uniform: float,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> int:
    """A token id drawn from logits [V]; temperature first, then top-k, top-p and min-p, as transformers does.

    Args:
        logits: [V]; −inf never comes out.
        uniform: 0 ≤ uniform < 1, the random number.
        temperature: 0 takes the largest logit, the first of several.
        top_k: Only the k most likely; 0 is off.
        top_p: Only the most likely that together reach this probability; 1 is off.
        min_p: Only those at least this share of the most likely one; 0 is off.
    """
    if temperature == 0:
        return int(logits.argmax())
    ids, probabilities = _filtered(logits, temperature, top_k, top_p, min_p)
    cumulative = np.cumsum(probabilities)
    return int(ids[min(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")), len(ids) - 1)])


def distribution(
    logits: NDArray[np.float32], *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> NDArray[np.float64]:
    """The probabilities [V] that ``sample`` draws from, for a temperature above 0."""
    ids, probabilities = _filtered(logits, temperature, top_k, top_p, min_p)
    full = np.zeros(len(logits))
    full[ids] = probabilities / probabilities.sum()
    return full


def _filtered(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(ids, unnormalized probabilities) of what the filters leave, most likely first, ties by id."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    total = float(weights.sum())
    count = min(top_k or len(weights), len(weights))
    ids = largest(weights, min(count, CANDIDATES))
    if count > CANDIDATES and (top_p >= 1 or weights[ids].sum() < top_p * total):
        ids = largest(weights, count)
    kept = weights[ids]
    if top_k:
        total = float(kept.sum())
    if top_p < 1:
        # One is kept when those before it do not reach top_p yet.
        before = np.cumsum(kept) - kept
        kept = kept[before < top_p * total]
    if min_p > 0:
        kept = kept[kept >= min_p * kept[0]]
    return ids[: len(kept)], kept


def largest(weights: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Ids of the ``count`` largest, sorted; equal ones by id."""
    if count < len(weights):
        threshold = np.partition(weights, len(weights) - count)[len(weights) - count]
        ids = np.flatnonzero(weights >= threshold)
    else:
        ids = np.arange(len(weights))
    return ids[np.lexsort((ids, -weights[ids]))][:count]
