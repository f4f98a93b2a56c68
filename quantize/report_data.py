"""Gathers what a report says: it keeps what an earlier report knows of the same files, and finds out the rest."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mimo_mobile import manifest
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.entries import Entry, Rejected
from mimo_mobile.errors import QuantizationError
from mimo_mobile.layout import TOKENIZER
from mimo_mobile.manifest import Manifest
from mimo_mobile.mimo7b import STOP_TOKENS
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import evaluate, report_file
from mimo_mobile.quantize.calibrator import Calibrator
from mimo_mobile.quantize.gate import Limits, judge
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.quantize.report_file import BF16, Histogram, RecipeReport, Report, Shown, content_of, shortened
from mimo_mobile.quantize.report_page import write_page
from mimo_mobile.quantize.tensor_errors import TensorError, tensor_errors
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

SHOWN = 6
"""So many questions and answers are shown."""

Tokens = Mapping[str, Sequence[Sequence[int]]]
"""What each recipe answered to the held-out problems, in token ids; ``bf16`` is the checkpoint itself."""


def earlier(folder: Path, state: Manifest) -> Report | None:
    """The report on the same checkpoint that a folder holds; a damaged one counts as none, and the log says so."""
    path = folder / report_file.NAME
    if not path.exists():
        return None
    try:
        found = report_file.read(path)
    except QuantizationError as error:
        logger.warning("%s", error)
        return None
    return found if found.source.get(manifest.FINGERPRINT) == state.source.get(manifest.FINGERPRINT) else None


def errors_of(
    folder: Path,
    state: Manifest,
    recipes: Sequence[str],
    checkpoint: Checkpoint,
    calibrator: Calibrator,
    known: Report | None,
    progress: ProgressCallback = ignore,
) -> dict[str, tuple[TensorError, ...]]:
    """What every matrix lost in the files of some recipes, and in others of which an earlier report knows it.

    Where nothing was calibrated, all inputs of a matrix count alike. What random weights lose says nothing.

    Raises:
        ModelLoadError: A file cannot be read.
    """
    made = {}
    for entry in _all(state):
        old = known and known.of(entry.recipe, content_of(entry))
        if old and old.errors:
            made[entry.recipe] = old.errors
        elif entry.recipe in recipes and manifest.SYNTHETIC not in state.source:
            gone = state.rejection(entry.recipe)
            path = folder / (gone.aside.path if gone else entry.path)
            calibrated = calibrator.calibrated(RECIPES[entry.recipe])
            squares = calibrator.statistics.mean_squares if calibrated else {}
            made[entry.recipe] = tuple(tensor_errors(checkpoint, path, entry.ranges, calibrated, squares, progress))
    return made


def write_report(
    folder: Path,
    state: Manifest,
    recipes: Sequence[str],
    limits: Mapping[str, Limits],
    errors: Mapping[str, tuple[TensorError, ...]],
    histograms: Mapping[str, Histogram],
    shown: Sequence[Shown],
    known: Report | None,
) -> Report:
    """Write report.json and report.html beside the manifest."""
    made = Report(
        model=state.model,
        source=state.source,
        chosen=tuple(recipes),
        baseline=state.baseline,
        recipes=tuple(
            _recipe(each, state.rejection(entry.recipe), state, limits, errors, histograms, known)
            for entry in _all(state)
            for each in (entry, entry.npu_form)
            if each is not None
        ),
        shown=tuple(shown),
        ranges=next((entry.ranges for entry in _all(state) if entry.ranges), None),
    )
    made.write(folder)
    write_page(made, folder)
    return made


def shown_answers(
    state: Manifest,
    checkpoint: Checkpoint,
    problems: Sequence[evaluate.Problem],
    answers: Tokens,
    known: Report | None,
) -> list[Shown]:
    """Some problems with what was answered; where nothing new was, that is what the same files answered before."""
    same = {BF16, *(each.recipe for each in _all(state) if known and known.of(each.recipe, content_of(each)))}
    before = {
        each.question: Shown(
            each.question, each.expected, {name: each.answers[name] for name in each.answers.keys() & same}
        )
        for each in (known.shown if known else ())
    }
    if not problems:
        return [each for each in before.values() if each.answers]
    tokenizer = TextTokenizer.from_file(checkpoint.path / TOKENIZER)

    def text(ids: Sequence[int]) -> str:
        told = tokenizer.decode(ids)
        for stop in STOP_TOKENS:
            told = told.removesuffix(stop)
        return shortened(told)

    made = []
    for problem in evaluate.problems_of_kinds(problems, SHOWN):
        place, question = problems.index(problem), shortened(problem.question)
        found = {name: text(replies[place]) for name, replies in answers.items()}
        old = before[question].answers if question in before else {}
        made.append(Shown(question, shortened(problem.answer), {**old, **found}))
    return [each for each in made if each.answers]


def _all(state: Manifest) -> Iterator[Entry]:
    """Every entry, those that were rejected too, in the manifest's order."""
    found = {each.recipe: each for each in (*state.entries, *(gone.entry for gone in state.rejected))}
    yield from (found[name] for name in dict.fromkeys([*state.order, *found]) if name in found)


def _recipe(
    entry: Entry,
    gone: Rejected | None,
    state: Manifest,
    limits: Mapping[str, Limits],
    errors: Mapping[str, tuple[TensorError, ...]],
    histograms: Mapping[str, Histogram],
    known: Report | None,
) -> RecipeReport:
    content = content_of(entry)
    old = known and known.of(entry.recipe, content)
    found = errors.get(entry.recipe, ())
    return RecipeReport(
        recipe=entry.recipe,
        format=entry.format,
        path=entry.path.replace(gone.entry.path, gone.aside.path, 1) if gone else entry.path,
        effort=entry.effort,
        bits_per_weight=entry.bits_per_weight,
        size_bytes=entry.size_bytes,
        content=content,
        rejected=gone is not None,
        checks=judge(entry, state.baseline, limits[entry.recipe], found) if entry.recipe in limits else (),
        score=entry.score,
        divergence=entry.divergence,
        histogram=histograms.get(entry.recipe, old.histogram if old else None),
        errors=found,
    )
