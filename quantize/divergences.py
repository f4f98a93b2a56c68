"""How far the files of a folder predict from their checkpoint, all on one text: the step of ``quality`` for a pipeline.

The text is what the first file answers; it and the checkpoint's predictions are kept in the cache, where ``mimo eval``
finds them, too.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.entries import Entry
from mimo_mobile.errors import MimoMobileError, NumericsError
from mimo_mobile.hub import Source
from mimo_mobile.manifest import Manifest
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import disjoint, evaluate, measures
from mimo_mobile.quantize.opening import opened
from mimo_mobile.quantize.quality import MOST_ASKED, Job, Told, read_windows, told_by_checkpoint
from mimo_mobile.quantize.report_file import Histogram
from mimo_mobile.quantize.texts import Prompt
from mimo_mobile.scores import Divergence, OnNpu

logger = logging.getLogger(__name__)

BARS, LOW, HIGH = 36, -8.0, 1.0
"""Bars of a histogram, and the powers of ten that it reaches from and to."""


@dataclass(frozen=True, slots=True)
class Apart:
    """What was found out about one file."""

    divergence: Divergence
    histogram: Histogram | None


def divergences(
    folder: Path,
    state: Manifest,
    recipes: Sequence[str],
    source: Source,
    tokens: int,
    progress: ProgressCallback = ignore,
) -> dict[str, Apart]:
    """How far the files of some recipes are from the checkpoint, by recipe; those that were measured are left out.

    Forms for NPUs with quantized activations are among them, by the names that they have as entries.

    What was measured on another text is measured again, whatever its recipe. A model that cannot be run here is not
    measured, and the log says why.

    Args:
        folder: Where the files are.
        state: The folder's manifest.
        recipes: The names of the recipes.
        source: The checkpoint.
        tokens: At most so many are read; 0 measures nothing.
        progress: Called often.
    """
    from mimo_mobile.runtime import LoadConfig

    entries = [entry for name in recipes if (entry := state.entry(name))]
    if not tokens or not entries:
        return {}
    asked = evaluate.problems_of_kinds(evaluate.read_problems(source.path), MOST_ASKED)
    job = Job(LoadConfig(speculate="off", ep="cpu", trust=True), tokens=tokens)
    prompts = [Prompt(each.kind, each.question) for each in asked]
    made: dict[str, Apart] = {}
    try:
        told = told_by_checkpoint(folder / entries[0].path, job, source, prompts, progress)
        if told.tokenizer is not None:
            disjoint.check(told.windows, disjoint.read(folder), told.tokenizer)
        for entry in state.entries:
            for each in filter(None, (entry, entry.npu_form)):
                if _is_of(each.divergence, told) if each.divergence else entry.recipe not in recipes:
                    continue
                made[each.recipe] = _apart(folder, each, job, told, progress)
    except MimoMobileError as error:
        logger.warning("the files were not compared with bf16: %s", error)
    return made


def with_divergences(entry: Entry, found: Mapping[str, Apart]) -> Entry:
    """An entry with what was found of it, and of its form for NPUs."""
    if entry.recipe in found:
        entry = dataclasses.replace(entry, divergence=found[entry.recipe].divergence)
    form = entry.npu_form
    if form is None or form.recipe not in found:
        return entry
    measured = entry.on_npu or OnNpu()
    return dataclasses.replace(entry, on_npu=dataclasses.replace(measured, divergence=found[form.recipe].divergence))


def _is_of(divergence: Divergence, told: Told) -> bool:
    """Whether it was measured on this text: as many predictions, of which the reference says the same."""
    assert told.rows is not None
    return (divergence.tokens, divergence.reference_perplexity) == (len(told.rows), _perplexity(told.rows))


def _perplexity(rows: measures.TopRows) -> float:
    return measures.perplexity(-rows.target_log_probs)


def _apart(folder: Path, entry: Entry, job: Job, told: Told, progress: ProgressCallback) -> Apart:
    assert told.rows is not None
    try:
        with opened(folder / entry.path, job.config) as model:
            _, measured = read_windows(model, told, progress)
    except NumericsError as error:
        logger.warning("%s: %s", entry.path, error)
        lost = math.inf
        return Apart(
            Divergence(len(told.rows), lost, _perplexity(told.rows), lost, math.nan, lost, lost, lost, 0.0, 0.0), None
        )
    assert measured is not None
    return Apart(measures.summary(told.rows, measured), histogram_of(measured.kld))


def histogram_of(kld: NDArray[np.float64]) -> Histogram:
    """How often KL divergences were how large; what lies outside is in the first and the last bar.

    >>> histogram_of(np.array([0.0, 0.5, 100.0])).counts[0]
    1
    """
    edges = np.logspace(LOW, HIGH, BARS + 1)
    counts, _ = np.histogram(np.clip(kld, edges[0], edges[-1]), edges)
    return Histogram(tuple(float(f"{edge:.4g}") for edge in edges), tuple(int(each) for each in counts))
