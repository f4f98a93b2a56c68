"""What logits say beside a reference's: perplexity, KL divergence, same top token; and shares with their uncertainty.

This module knows numbers only: no text, no model, no file. Shapes: R rows, V vocabulary; N kept tokens of all rows.

The reference's distribution of a row is kept as its likeliest tokens, as many as cover all but ``UNCOVERED`` of the
probability but at most ``MOST_KEPT``, and the probability of the rest as one number. The KL divergence that is computed
from it treats the rest as one token. It is never larger than the true one, and smaller by at most
``RowMeasures.bound``, which takes the worst rest that there can be: one whose tokens are all as likely as the last one
that is kept, while the model finds each as unlikely as its unlikeliest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import NumericsError
from mimo_mobile.scores import Divergence

UNCOVERED = 1e-7
"""So much of a row's probability may belong to tokens that are not kept."""

MOST_KEPT = 2048
"""So many tokens of a row are kept at most."""

BLOCK = 64
"""So many rows are in memory as float64 at a time."""

_NINETY_FIVE = 1.959963984540054
"""Standard deviations around the middle of a normal distribution that hold 95 % of it."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TopRows:
    """A reference's distributions of the next token, one for each row.

    Attributes:
        vocabulary: How many tokens there are.
        starts: Where each row's kept tokens begin, and where the last one's end `[R + 1] int64`.
        ids: The kept tokens, the likeliest of a row first `[N] uint32`.
        log_probs: The natural logarithms of their probabilities `[N] float32`.
        rest: The probability of all that are not kept together `[R] float64`.
        targets: The token that really follows `[R] int64`.
        target_log_probs: The natural logarithm of its probability `[R] float64`.
    """

    vocabulary: int
    starts: NDArray[np.int64]
    ids: NDArray[np.uint32]
    log_probs: Array
    rest: NDArray[np.float64]
    targets: NDArray[np.int64]
    target_log_probs: NDArray[np.float64]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.targets)

    def rows(self, start: int, stop: int) -> TopRows:
        """Some of the rows."""
        first, last = int(self.starts[start]), int(self.starts[min(stop, len(self))])
        return TopRows(
            self.vocabulary,
            self.starts[start : min(stop, len(self)) + 1] - first,
            self.ids[first:last],
            self.log_probs[first:last],
            self.rest[start:stop],
            self.targets[start:stop],
            self.target_log_probs[start:stop],
        )

    @classmethod
    def joined(cls, parts: Sequence[TopRows]) -> TopRows:
        """The rows of several, one after the other; there must be at least one."""
        ends = np.cumsum([0, *(part.starts[-1] for part in parts)])
        starts = [part.starts[:-1] + end for part, end in zip(parts, ends, strict=False)]

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        return cls(
            parts[0].vocabulary,
            np.concatenate([*starts, ends[-1:]]),
            *(column(name) for name in ("ids", "log_probs", "rest", "targets", "target_log_probs")),
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowMeasures:
    """What a model's logits are beside a reference's, row by row.

    Attributes:
        kld: The KL divergence of the model from the reference, in nats `[R] float64`.
        bound: By how much the true one may be larger at most `[R] float64`.
        nll: The negative natural logarithm of the following token's probability `[R] float64`.
        same_top: Whether model and reference find the same token likeliest `[R] bool`.
    """

    kld: NDArray[np.float64]
    bound: NDArray[np.float64]
    nll: NDArray[np.float64]
    same_top: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[RowMeasures]) -> RowMeasures:
        """The rows of several, one after the other; there must be at least one."""
        names = ("kld", "bound", "nll", "same_top")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Share:
    """A share of right answers, with its 95 % confidence interval.

    Attributes:
        problems: How many problems were asked.
        seeds: How many times each was asked with sampling; 0 is once and greedily.
        share: The share of right answers, 0…1.
        low: The interval's lower end.
        high: Its upper end.
    """

    problems: int
    seeds: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, right: Sequence[bool], problems: int, seeds: int) -> Share:
        """That of all answers to so many problems.

        The interval is Wilson's for as many observations as there are problems: answers with several seeds to one
        problem depend on each other, in the worst case wholly.
        """
        share = sum(right) / len(right)
        return cls(problems, seeds, share, *wilson(share, problems))


@dataclass(frozen=True, slots=True)
class Thinking:
    """How long a model thinks.

    Attributes:
        answers: How many answers were looked at.
        mean_tokens: The mean number of tokens of thinking.
        median_tokens: The median.
        unclosed: The share of answers that reached the limit of tokens before the thinking was closed, 0…1.
    """

    answers: int
    mean_tokens: float
    median_tokens: float
    unclosed: float


def top_rows(pieces: Iterable[tuple[int, Array]], targets: Sequence[int]) -> TopRows:
    """The distributions that logits stand for, in short.

    Args:
        pieces: The first token's id and the logits `[R, tokens]` of some neighbouring tokens, in order.
        targets: The token that really follows each row.

    Raises:
        NumericsError: The logits are not finite.
    """
    wanted, count = np.asarray(targets, np.int64), len(targets)
    kept, ids = np.empty((count, 0), np.float32), np.empty((count, 0), np.uint32)
    peak, total, chosen = np.full(count, -np.inf), np.zeros(count), np.full(count, np.nan)
    end = 0
    for first, logits in pieces:
        end = first + logits.shape[1]
        width = min(MOST_KEPT, end)
        new, new_ids = np.empty((count, width), np.float32), np.empty((count, width), np.uint32)
        for start in range(0, count, BLOCK):
            some = slice(start, start + BLOCK)
            part = logits[some].astype(np.float64)
            _check_finite(part)
            higher = np.maximum(peak[some], part.max(axis=1))
            total[some] = total[some] * np.exp(peak[some] - higher) + np.exp(part - higher[:, None]).sum(axis=1)
            peak[some] = higher
            inside = np.flatnonzero((wanted[some] >= first) & (wanted[some] < end))
            chosen[start + inside] = part[inside, wanted[start + inside] - first]
            both = np.concatenate([kept[some], logits[some]], axis=1)
            numbers = np.broadcast_to(np.arange(first, end, dtype=np.uint32), part.shape)
            both_ids = np.concatenate([ids[some], numbers], axis=1)
            best = np.argpartition(-both, width - 1, axis=1)[:, :width]
            new[some] = np.take_along_axis(both, best, axis=1)
            new_ids[some] = np.take_along_axis(both_ids, best, axis=1)
        kept, ids = new, new_ids
    log_sum = peak + np.log(total)
    parts = [
        _cut(kept[start : start + BLOCK], ids[start : start + BLOCK], log_sum[start : start + BLOCK], end)
        for start in range(0, count, BLOCK)
    ]
    lengths = np.concatenate([part[0] for part in parts])
    return TopRows(
        end,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
        wanted,
        chosen - log_sum,
    )


def _cut(
    kept: Array, ids: NDArray[np.uint32], log_sum: NDArray[np.float64], vocabulary: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32], Array, NDArray[np.float64]]:
    """(kept tokens of each row, their ids, their log probabilities, what is left of each row)."""
    order = np.lexsort((ids, -kept), axis=1)  # of equal ones, the lowest id is first, as argmax has it
    kept, ids = np.take_along_axis(kept, order, axis=1), np.take_along_axis(ids, order, axis=1)
    log_probs = kept - log_sum[:, None]
    left = 1 - np.cumsum(np.exp(log_probs), axis=1)
    used = np.concatenate([np.ones((len(kept), 1), np.bool_), left[:, :-1] > UNCOVERED], axis=1)
    lengths = used.sum(axis=1)
    rest = np.where(lengths == vocabulary, 0, np.maximum(0, left[np.arange(len(kept)), lengths - 1]))
    return lengths, ids[used], log_probs[used].astype(np.float32), rest


def compare(reference: TopRows, logits: Array) -> RowMeasures:
    """What a model's logits `[R, V]` are beside a reference's rows.

    Raises:
        NumericsError: The logits are not finite.
    """
    return RowMeasures.joined(
        [
            _compare(reference.rows(start, start + BLOCK), logits[start : start + BLOCK])
            for start in range(0, len(reference), BLOCK)
        ]
    )


def _compare(reference: TopRows, logits: Array) -> RowMeasures:
    log_q = log_softmax(logits)
    lengths, begins = np.diff(reference.starts), reference.starts[:-1]
    log_p = reference.log_probs.astype(np.float64)
    kept = log_q[np.repeat(np.arange(len(reference)), lengths), reference.ids]
    kld = np.add.reduceat(np.exp(log_p) * (log_p - kept), begins)
    least = log_q.min(axis=1)
    p_rest = reference.rest
    # What rounding leaves of a sum near 1 is no less than that many times the least likely token.
    q_rest = np.maximum(1 - np.add.reduceat(np.exp(kept), begins), (reference.vocabulary - lengths) * np.exp(least))
    there = p_rest > 0
    rest = np.zeros(len(reference))
    rest[there] = p_rest[there] * np.log(p_rest[there] / q_rest[there])
    worst = p_rest * (log_p[reference.starts[1:] - 1] - least)
    return RowMeasures(
        np.maximum(0, kld + rest),
        np.maximum(0, worst - rest),
        -log_q[np.arange(len(reference)), reference.targets],
        log_q.argmax(axis=1) == reference.ids[begins],
    )


def compare_told(reference: TopRows, told: TopRows) -> RowMeasures:
    """What a model's rows of likeliest tokens are beside a reference's, as far as they say it.

    A KL divergence treats all tokens as one that are not known of both. So it is never larger than the true one, and
    ``bound`` is infinite. A following token that is not known is taken as likely as it can be, so that ``nll`` is never
    too large.
    """
    kld = np.zeros(len(reference))
    for row in range(len(reference)):
        p, q = reference.rows(row, row + 1), told.rows(row, row + 1)
        _, ours, theirs = np.intersect1d(p.ids, q.ids, assume_unique=True, return_indices=True)
        log_p, log_q = p.log_probs[ours].astype(np.float64), q.log_probs[theirs].astype(np.float64)
        p_rest, q_rest = 1 - np.exp(log_p).sum(), 1 - np.exp(log_q).sum()
        kld[row] = (np.exp(log_p) * (log_p - log_q)).sum()
        if p_rest > 0:  # what rounding leaves of a sum near 1 must not look like a divergence
            kld[row] += p_rest * np.log(p_rest / max(q_rest, UNCOVERED))
    least = told.log_probs[told.starts[1:] - 1].astype(np.float64)
    unknown = np.minimum(least, np.log(np.maximum(told.rest, UNCOVERED)))
    log_probs = np.where(np.isnan(told.target_log_probs), unknown, told.target_log_probs)
    return RowMeasures(
        np.maximum(0, kld),
        np.full(len(reference), np.inf),
        -log_probs,
        reference.ids[reference.starts[:-1]] == told.ids[told.starts[:-1]],
    )


def log_softmax(logits: Array) -> NDArray[np.float64]:
    """The natural logarithms of the probabilities `[R, V]` that logits stand for.

    Raises:
        NumericsError: The logits are not finite.
    """
    made = logits.astype(np.float64)
    _check_finite(made)
    made -= made.max(axis=1, keepdims=True)
    made -= np.log(np.exp(made).sum(axis=1, keepdims=True))
    return made


def surprise(logits: Array, targets: Sequence[int]) -> NDArray[np.float64]:
    """The negative natural logarithm of each following token's probability `[R]`.

    Raises:
        NumericsError: The logits are not finite.
    """
    blocks = range(0, len(targets), BLOCK)
    parts = [-log_softmax(logits[start : start + BLOCK]) for start in blocks]
    wanted = [np.asarray(targets[start : start + BLOCK], np.int64) for start in blocks]
    return np.concatenate([part[np.arange(len(each)), each] for part, each in zip(parts, wanted, strict=True)])


def perplexity(nll: NDArray[np.float64]) -> float:
    """The perplexity of a text from its tokens' negative log probabilities."""
    return float(np.exp(np.minimum(nll.mean(), 700)))


def summary(reference: TopRows, measured: RowMeasures) -> Divergence:
    """All rows in one record."""
    kld, count = measured.kld, len(measured.kld)
    return Divergence(
        tokens=count,
        perplexity=perplexity(measured.nll),
        reference_perplexity=perplexity(-reference.target_log_probs),
        mean_kld=float(kld.mean()),
        mean_kld_error=float(kld.std() / math.sqrt(count - 1)) if count > 1 else math.nan,
        median_kld=float(np.median(kld)),
        p99_kld=float(np.quantile(kld, 0.99)),
        max_kld=float(kld.max()),
        kld_bound=float(measured.bound.mean()),
        same_top=float(measured.same_top.mean()),
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share that was seen in so many independent observations.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.

    >>> [round(end, 3) for end in wilson(1.0, 10)]
    [0.722, 1.0]
    """
    square = _NINETY_FIVE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _NINETY_FIVE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _check_finite(logits: NDArray[np.float64]) -> None:
    if not np.isfinite(logits).all():
        raise NumericsError(
            "the model computed NaN or infinity for the text; the file is damaged, or its numbers are too large for"
            " its types: see `mimo inspect --verify`"
        )
