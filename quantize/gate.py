"""The quality gate: what a recipe may lose at most, and whether a file did.

The limits below let pass what a model of 135 million parameters loses, calibrated or rounded, and little more: larger
models lose less. ``--thresholds FILE.toml`` changes them (docs/gate.md, which has the trials that they were chosen by).
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mimo_mobile import untrusted
from mimo_mobile.convert.folding import prefix_of
from mimo_mobile.convert.formats import F32
from mimo_mobile.documents import DocumentError, Value
from mimo_mobile.entries import ON_NPU, REJECTED, Entry
from mimo_mobile.errors import BadArgumentError, QualityGateError
from mimo_mobile.manifest import Manifest
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.quantize.tensor_errors import TensorError, blamed
from mimo_mobile.scores import Score

ALL = "all"
"""The table of a TOML file that is for every recipe."""

NAMED = 3
"""So many matrices are named that lost most."""

STANDARD_ERRORS = 2
"""A loss of right answers counts as far as it is larger than so many standard errors, which chance hardly exceeds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a recipe may lose; None is not judged.

    Attributes:
        kld: The largest mean KL divergence from bf16, in nats.
        same_top: The least share of tokens that bf16 would also have chosen, 0…1.
        matrix_error: The largest error of what a single matrix gives, relative to what it should give.
        exact_match_loss: By how many points the share of right answers may be below bf16's.
        answer_growth: How many times longer than bf16's the answers may be, thinking included.
        acceptance_loss: By how many points the share of right drafts by the MTP layer may be below bf16's.
        rounded: What a file of ``--effort none`` is held to instead; None is the same.
    """

    kld: float | None = None
    same_top: float | None = None
    matrix_error: float | None = None
    exact_match_loss: float | None = None
    answer_growth: float | None = None
    acceptance_loss: float | None = None
    rounded: Limits | None = None


def _limits(
    calibrated: tuple[float, float, float], rounded: tuple[float, float, float], answers: tuple[float, float, float]
) -> Limits:
    """Limits from (kld, same_top, matrix_error), the same of --effort none, and what answers may lose."""
    return Limits(*calibrated, *answers, rounded=Limits(*rounded, *answers))


def _on_npu(limits: Limits) -> Limits:
    """Limits for the form with quantized activations of what a recipe makes, which may lose twice as much."""
    assert limits.kld is not None and limits.same_top is not None
    rounded = limits.rounded and _on_npu(limits.rounded)
    return replace(limits, kld=2 * limits.kld, same_top=2 * limits.same_top - 1, rounded=rounded)


DEFAULTS: dict[str, Limits] = {
    **dict.fromkeys(("q8_0", "int8"), _limits((0.01, 0.95, 0.1), (0.01, 0.95, 0.1), (2, 1.2, 3))),
    "q6_k": _limits((0.02, 0.94, 0.1), (0.03, 0.93, 0.1), (2, 1.2, 3)),
    "q5_k_m": _limits((0.05, 0.92, 0.15), (0.15, 0.88, 0.2), (3, 1.25, 4)),
    "q4_k_m": _limits((0.15, 0.85, 0.2), (0.3, 0.80, 0.3), (4, 1.3, 5)),
    **dict.fromkeys(("q4_0_plus", "int4_b32_plus"), _limits((0.15, 0.86, 0.4), (0.4, 0.75, 1), (5, 1.4, 5))),
    **dict.fromkeys(("q4_0", "int4_b32", "int4_b32_f16"), _limits((0.22, 0.80, 0.4), (0.6, 0.68, 1), (6, 1.5, 5))),
    "int4_b64": _limits((0.25, 0.78, 0.5), (0.8, 0.65, 1), (7, 1.5, 6)),
    "int4_b128": _limits((0.35, 0.75, 0.6), (1, 0.62, 1), (8, 1.5, 8)),
}
"""The limits of every recipe."""

DEFAULTS |= {
    f"{name}{ON_NPU}": _on_npu(DEFAULTS[name])
    for name, recipe in RECIPES.items()
    if recipe.int4 and recipe.activations is F32
}


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of a file beside its limit.

    Attributes:
        name: The field of ``Limits``.
        found: The figure.
        limit: The limit.
        passed: Whether the file keeps to it.
        blamed: The matrices to blame where it does not, the worst first; empty where they were not compared.
    """

    name: str
    found: float
    limit: float
    passed: bool
    blamed: tuple[TensorError, ...] = ()

    def __str__(self) -> str:
        """The check in words."""
        told = WORDS[self.name].format(found=self.found, limit=self.limit)
        if not self.blamed:
            return told
        named = ", ".join(f"{each.tensor} ({100 * each.error:.1f} %)" for each in self.blamed[:NAMED])
        if self.name != "matrix_error":
            return f"{told}; most was lost in {named}"
        more = len(self.blamed) - NAMED
        return f"{told}: {named}" + (f" and {more} more" if more > 0 else "")


WORDS = {
    "kld": "mean KL divergence {found:.4f}, at most {limit:g} allowed",
    "same_top": "the same likeliest token {found:.4f}, at least {limit:g} expected",
    "matrix_error": "a matrix whose results are {found:.0%} off, at most {limit:.0%} allowed",
    "exact_match_loss": "{found:.1f} points fewer right answers beyond chance, at most {limit:g} allowed",
    "answer_growth": "answers {found:.2f} times as long, at most {limit:g} allowed",
    "acceptance_loss": "{found:.1f} points fewer right drafts by MTP beyond chance, at most {limit:g} allowed",
}
"""What is judged, by the field of ``Limits``, in words."""


def judge(
    entry: Entry, baseline: Score | None, limits: Limits, errors: Sequence[TensorError] = ()
) -> tuple[Check, ...]:
    """Every figure that was measured beside its limit; empty when nothing was measured.

    ``errors`` are what the file's matrices lost; what is not kept to names those to blame.
    """
    made = []
    if entry.effort == "none" and limits.rounded is not None:
        limits = limits.rounded
    score, apart = entry.score, entry.divergence
    if apart is not None:
        made += [_at_most("kld", apart.mean_kld, limits.kld), _at_least("same_top", apart.same_top, limits.same_top)]
    elif score is not None:
        made += [_at_least("same_top", score.same_top, limits.same_top)]
    if errors:
        made += [_at_most("matrix_error", max(each.error for each in errors), limits.matrix_error)]
    if score is not None and baseline is not None and score.problem_set == baseline.problem_set:
        shares = [(each.exact_match, each.problems) for each in (baseline, score)]
        made += [_at_most("exact_match_loss", _beyond_chance(*shares), limits.exact_match_loss)]
        if baseline.answer_tokens:
            growth = score.answer_tokens / baseline.answer_tokens
            made += [_at_most("answer_growth", growth, limits.answer_growth)]
        if baseline.drafts and score.drafts:
            shares = [(each.acceptance, each.tokens) for each in (baseline.drafts, score.drafts)]
            made += [_at_most("acceptance_loss", _beyond_chance(*shares), limits.acceptance_loss)]
    return tuple(_blaming(each, errors) for each in made if each is not None)


def _blaming(check: Check, errors: Sequence[TensorError]) -> Check:
    """The same check; if it failed, with the matrices that lost most, or all of those that lost more than they may."""
    if check.passed:
        return check
    if check.name == "matrix_error":
        over = [each for each in errors if not each.error <= check.limit]
        return dataclasses.replace(check, blamed=tuple(blamed(over, len(over))))
    drafting = [each for each in errors if each.tensor.startswith(prefix_of("mtp_layers"))]
    own = drafting if check.name == "acceptance_loss" and drafting else errors
    return dataclasses.replace(check, blamed=tuple(blamed(own, NAMED)))


def _beyond_chance(before: tuple[float, int], after: tuple[float, int]) -> float:
    """By how many points a share became less, so far as chance does not explain it; each comes with its count."""
    chance = sum(share * (1 - share) / count for share, count in (before, after))
    return max(0.0, 100 * (before[0] - after[0] - STANDARD_ERRORS * math.sqrt(chance)))


def _at_most(name: str, found: float, limit: float | None) -> Check | None:
    return None if limit is None else Check(name, found, limit, found <= limit)


def _at_least(name: str, found: float, limit: float | None) -> Check | None:
    return None if limit is None or math.isnan(found) else Check(name, found, limit, found >= limit)


def read_thresholds(path: Path) -> dict[str, Limits]:
    """The limits of every recipe, where a TOML file changes some of the defaults.

    Its tables are called as recipes are, or ``all``, and what a recipe says goes before what is said of all.

    >>> read_thresholds(Path("none.toml"))
    Traceback (most recent call last):
    mimo_mobile.errors.BadArgumentError: none.toml: cannot be read: No such file or directory

    Raises:
        BadArgumentError: The file cannot be read, or says something else.
    """
    try:
        found = Value(tomllib.loads(untrusted.read_text(path))).fields()
        changes = {name: _changes(name, each) for name, each in found.items()}
    except OSError as error:
        raise BadArgumentError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadArgumentError(
            f"{path}: {untrusted.printable(str(error))[:500]}; tables such as [q4_0] with {', '.join(WORDS)} expected"
        ) from error
    general = changes.pop(ALL, {})
    return {name: _changed(limits, general | changes.get(name, {})) for name, limits in DEFAULTS.items()}


def _changed(limits: Limits, changes: dict[str, float]) -> Limits:
    """Other limits, whatever the effort."""
    kept, rounded = ({each: getattr(old, each) for each in WORDS} | changes for old in (limits, limits.rounded))
    return Limits(**kept, rounded=Limits(**rounded))


def _changes(name: str, found: Value) -> dict[str, float]:
    if name != ALL and name not in DEFAULTS:
        known = dict.fromkeys([ALL, *RECIPES, *DEFAULTS])
        raise DocumentError(f"[{name}] is no recipe; there are {', '.join(known)}")
    made: dict[str, float] = {}
    for key, value in found.fields().items():
        if key not in WORDS:
            raise DocumentError(f"{value.place} is not known; there are {', '.join(WORDS)}")
        made[key] = value.number(least=0, most=1 if key == "same_top" else math.inf)
    return made


def require_passed(state: Manifest, recipes: Sequence[str]) -> None:
    """See that none of the recipes was rejected.

    Raises:
        QualityGateError: Some were; ``.rejected`` are their names.
    """
    told = []
    for name in recipes:
        if (found := state.rejection(name)) is not None:
            told.append(f"{found.aside.path}: {'; '.join(found.reasons)}")
    if told:
        raise QualityGateError(
            f"{' | '.join(told)}. What ends in {REJECTED} lost too much: take a recipe with more bits or --effort high,"
            " or allow more by --thresholds",
            tuple(name for name in recipes if state.rejection(name)),
        )
