"""What a quantized model was measured to lose: on held-out problems, and beside the checkpoint's own predictions.

manifest.json keeps both; ``quantize.evaluate`` and ``quantize.measures`` find them out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mimo_mobile.documents import Value
from mimo_mobile.layout import MOST_TOKENS


@dataclass(frozen=True, slots=True)
class Drafts:
    """How often the MTP layer drafts right while a model answers greedily.

    Attributes:
        tokens: How many tokens it drafted.
        acceptance: The share of these that the model chose, too, 0…1.
    """

    tokens: int
    acceptance: float


@dataclass(frozen=True, slots=True)
class Score:
    """How well a model answers a checkpoint's held-out problems greedily.

    Attributes:
        problems: How many problems were asked.
        exact_match: The share of right answers, 0…1.
        by_kind: The same share for each kind of problem.
        perplexity: The model's perplexity on the bf16 model's own answers, read token by token; NaN when there were no
            tokens.
        same_top: The share of those tokens that this model would also have chosen, 0…1; NaN when there were none.
        answer_tokens: The mean length of an answer in tokens, thinking included.
        problem_set: A text that tells which problems were asked; empty in what earlier versions wrote.
        drafts: How often the MTP layer drafted right; None without one, and in what earlier versions wrote.
    """

    problems: int
    exact_match: float
    by_kind: Mapping[str, float]
    perplexity: float
    same_top: float
    answer_tokens: float
    problem_set: str = ""
    drafts: Drafts | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a model's predictions are from a reference's, over all rows.

    Attributes:
        tokens: How many predictions were compared.
        perplexity: The model's perplexity on the text.
        reference_perplexity: The reference's.
        mean_kld: The mean KL divergence of the model's predictions from the reference's, in nats.
        mean_kld_error: The standard error of that mean; NaN for a single prediction.
        median_kld: The median KL divergence.
        p99_kld: The KL divergence that 99 % of the predictions stay below.
        max_kld: The largest KL divergence.
        kld_bound: By how much ``mean_kld`` may be too small at most, because the reference is kept in short.
        same_top: The share of predictions with the reference's likeliest token, 0…1.
    """

    tokens: int
    perplexity: float
    reference_perplexity: float
    mean_kld: float
    mean_kld_error: float
    median_kld: float
    p99_kld: float
    max_kld: float
    kld_bound: float
    same_top: float


@dataclass(frozen=True, slots=True)
class OnNpu:
    """What a model loses on NPUs with quantized activations, from the graphs that are compiled, run on the CPU.

    Attributes:
        score: How well it answers.
        divergence: How far its predictions are from the checkpoint's.
    """

    score: Score | None = None
    divergence: Divergence | None = None

    def to_json(self) -> dict[str, Any]:
        """Both as plain JSON values."""
        found = {"score": self.score, "divergence": self.divergence}
        return {name: each and to_json(each) for name, each in found.items()}


def read_on_npu(found: Value | None) -> OnNpu | None:
    """What a model loses on NPUs, if that was measured.

    Raises:
        DocumentError: It is damaged.
    """
    return None if found is None else OnNpu(read_score(found.get("score")), read_divergence(found.get("divergence")))


def to_json(found: Score | Divergence) -> dict[str, Any]:
    """A score as plain JSON values, in which null stands for what is not finite."""
    values = dataclasses.asdict(found)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def read_score(found: Value | None) -> Score | None:
    """A score, if there is one.

    Raises:
        DocumentError: It is damaged.
    """
    if found is None:
        return None
    return Score(
        problems=found["problems"].integer(most=MOST_TOKENS),
        exact_match=found["exact_match"].number(0, 1),
        by_kind={kind: each.number(0, 1) for kind, each in found["by_kind"].fields().items()},
        perplexity=_number(found, "perplexity"),
        same_top=_number(found, "same_top", most=1),
        answer_tokens=found["answer_tokens"].number(0, MOST_TOKENS),
        problem_set=problems.text() if (problems := found.get("problem_set")) else "",
        drafts=_read_drafts(found.get("drafts")),
    )


def _read_drafts(found: Value | None) -> Drafts | None:
    if found is None:
        return None
    return Drafts(found["tokens"].integer(1, MOST_TOKENS), found["acceptance"].number(0, 1))


def read_divergence(found: Value | None) -> Divergence | None:
    """A divergence, if there is one.

    Raises:
        DocumentError: It is damaged.
    """
    if found is None:
        return None
    names = [field.name for field in dataclasses.fields(Divergence) if field.name not in ("tokens", "same_top")]
    numbers = {name: _number(found, name) for name in names}
    return Divergence(
        tokens=found["tokens"].integer(1, MOST_TOKENS), same_top=found["same_top"].number(0, 1), **numbers
    )


def _number(found: Value, name: str, most: float = math.inf) -> float:
    value = found.get(name)
    return math.nan if value is None else value.number(least=0, most=most)
