"""What the recipes of one checkpoint are written with: nothing is computed before the first recipe needs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from mimo_mobile import files
from mimo_mobile.convert.calibrated import Calibrated, Factors
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.folding import folded
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize.calibrate import Statistics, calibrate
from mimo_mobile.quantize.channel_scales import after, channel_factors
from mimo_mobile.quantize.feedback import Feedback
from mimo_mobile.quantize.forward import Array
from mimo_mobile.quantize.given import ANSWERS, Given, hash_of, texts_for
from mimo_mobile.quantize.kept_work import KeptAnswers, KeptLayers, KeptWork
from mimo_mobile.quantize.recipe_file import coarse_formats, feeds_back, write_model
from mimo_mobile.quantize.recipes import Recipe
from mimo_mobile.quantize.second_moments import SecondMoments, States, group_of
from mimo_mobile.quantize.texts import calibration_texts
from mimo_mobile.ranges import ModelRanges


class Calibrator:
    """Knows a checkpoint by what it computes for a text."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        given: Given,
        recipes: Sequence[Recipe],
        folder: Path,
        fingerprint: str = "",
        progress: ProgressCallback = ignore,
    ) -> None:
        """Calibrate ``checkpoint`` when a recipe needs it.

        Args:
            checkpoint: The checkpoint.
            given: How much to do, and by what. The highest effort adds the model's own answers to our text.
            recipes: All recipes that it will be asked for; the first one quantizes the model that answers.
            folder: Where work is kept, so that the next one goes on where this one is killed; the highest effort needs
                it for as long as this object is used.
            fingerprint: A hash of the checkpoint, by which it knows kept work.
            progress: Called often.
        """
        self._checkpoint, self._given, self._folder, self._progress = checkpoint, given, folder, progress
        self._recipes, self._fingerprint = recipes, fingerprint
        self._factors: dict[str, dict[str, Factors]] = {}

    def calibrated(self, recipe: Recipe) -> Calibrated | None:
        """What a recipe is written with; without effort a GGUF file holds the checkpoint's own numbers, rounded.

        Raises:
            QuantizationError: A layer makes NaN or infinity.
        """
        effort, matrix = self._given.effort, self._given.importance
        if effort == "none":
            margin = self._given.cache_margin
            return None if recipe.target == "gguf" else self.statistics.calibrated(cache_margin=margin)
        if matrix is not None:
            return self.statistics.calibrated(importance=matrix)
        config, tensors = self._checkpoint.config, self._checkpoint.tensors
        coarse = coarse_formats(recipe, self._checkpoint)
        blocks = {name: each.blocks for name, each in coarse.items()}
        if recipe.name not in self._factors:
            squares = self.statistics.mean_squares
            self._factors[recipe.name] = channel_factors(config, tensors, squares, blocks.get, self._progress)
        factors = self._factors[recipe.name]
        found = after(self.statistics, factors)
        importance: Mapping[str, Any] = found.mean_squares
        fed = [name for name, each in coarse.items() if each.feeds_back and name in found.mean_squares]
        if effort == "high" and fed:
            states = States(self._layers, config, tuple(map(len, self._texts)))
            moments = SecondMoments(config, folded(tensors, ModelRanges(()), factors), states)
            importance = _Fed(found.mean_squares, fed, moments)
        return found.calibrated(factors, importance)

    @cached_property
    def statistics(self) -> Statistics:
        """What the checkpoint computes for the texts."""
        return calibrate(self._checkpoint.config, self._checkpoint.tensors, self._texts, self._progress, self._layers)

    def calibrated_by(self, recipe: Recipe) -> dict[str, str]:
        """Hashes of what a recipe's files depend on, and of what was read if the model's answers are a part of it."""
        asked = {ANSWERS: hash_of(self._texts)} if self._given.adds_answers else {}
        return self._given.calibrated_by(recipe) | asked

    @cached_property
    def _texts(self) -> Sequence[tuple[int, ...]]:
        return self._with_answers() if self._given.adds_answers else self._given.calibrates_on

    @cached_property
    def _layers(self) -> KeptLayers:
        """What is kept of the layers: feedback needs what each of them reads once more."""
        effort = self._given.effort
        work = KeptWork.of(self._folder, "layers", self._fingerprint, effort, self._texts)
        fed = (feeds_back(recipe, self._checkpoint) for recipe in self._recipes)
        return KeptLayers(work, every=effort == "high" and any(fed))

    def _with_answers(self) -> list[tuple[int, ...]]:
        """Our text, which is too short, and what the model itself answers to our prompts, quantized with less effort.

        Where a server runs the model, that answers.
        """
        served = self._given.served
        by = () if served is None else (served.name,)
        work = KeptWork.of(self._folder, "answers", self._fingerprint, self._given.texts, *by)
        answers = KeptAnswers(work, self._checkpoint.config.vocab_size)
        if not answers.texts:
            work.make_folder()
            if served is None:
                with files.workplace(self._folder / "answering") as folder:
                    answers.texts = self._answered(answers, folder)
            else:
                answers.texts = calibration_texts(
                    served.tokenizer, model=served, known=answers, progress=self._progress
                )
            answers.complete(answers.texts)
        return answers.texts

    def _answered(self, known: KeptAnswers, folder: Path) -> list[tuple[int, ...]]:
        from mimo_mobile.runtime import load

        recipe = self._recipes[0]
        given = dataclasses.replace(self._given, effort="normal")
        quick = Calibrator(self._checkpoint, given, [recipe], self._folder, self._fingerprint, self._progress)
        model = folder / ("answering.gguf" if recipe.target == "gguf" else "answering-onnx")
        write_model(
            self._checkpoint, model, recipe, {"name": "answering"}, self._progress, calibrated=quick.calibrated(recipe)
        )
        with load(model, speculate="off", cache=False) as answering:
            return calibration_texts(answering.tokenizer, model=answering, known=known, progress=self._progress)


class _Fed(Mapping[str, Any]):
    """For some matrices how their columns make up for each other, for all others how much each column matters."""

    def __init__(self, mean_squares: Mapping[str, Array], fed: Collection[str], moments: SecondMoments) -> None:
        self._mean_squares, self._fed, self._moments = mean_squares, frozenset(fed), moments
        self._lock, self._group = Lock(), ("", "")
        self._feedback: Feedback | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in self._fed:
            return self._mean_squares[name]
        with self._lock:
            if self._feedback is None or self._group != group_of(name):
                self._feedback = None  # before the next one takes its place
                self._feedback, self._group = Feedback.of(self._moments.of(name), self._moments.tokens), group_of(name)
            return self._feedback

    def __iter__(self) -> Iterator[str]:
        return iter(self._mean_squares)

    def __len__(self) -> int:
        return len(self._mean_squares)


def statistics_of(checkpoint: Checkpoint, progress: ProgressCallback = ignore) -> Statistics:
    """What a checkpoint computes for our text.

    Raises:
        QuantizationError: A layer makes NaN or infinity.
    """
    return calibrate(checkpoint.config, checkpoint.tensors, texts_for(checkpoint), progress)
