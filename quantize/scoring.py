"""Scores the files of a folder on held-out problems, beside the unquantized model: a step of the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mimo_mobile import files, manifest
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import BF16, F32
from mimo_mobile.convert.model import origin, write_plain
from mimo_mobile.entries import Entry
from mimo_mobile.errors import MissingDependencyError
from mimo_mobile.hub import Source
from mimo_mobile.manifest import Manifest
from mimo_mobile.progress import ProgressCallback
from mimo_mobile.quantize import evaluate, report_file
from mimo_mobile.quantize.answering import answer_all, answer_one_by_one
from mimo_mobile.quantize.opening import opened
from mimo_mobile.runtime.load_config import LoadConfig
from mimo_mobile.scores import Score


def scored(
    state: Manifest,
    source: Source,
    checkpoint: Checkpoint,
    out: Path,
    recipes: Sequence[str],
    problems: Sequence[evaluate.Problem],
    answers: dict[str, list[tuple[int, ...]]],
    progress: ProgressCallback,
) -> Manifest:
    """The manifest with the missing scores, that of bf16 included; scores on the same problems are kept.

    What is answered on the way goes into ``answers``, by recipe.
    """
    asked = evaluate.problem_set(problems)
    key = {"fingerprint": state.source[manifest.FINGERPRINT], "problem_set": asked}

    def measured(score: Score | None) -> bool:
        return score is not None and score.problem_set == asked

    def whole(entry: Entry) -> bool:
        form = entry.npu_form
        return measured(entry.score) and (form is None or measured(form.score))

    todo = [name for name in recipes if (entry := state.entry(name)) and not whole(entry)]
    if measured(state.baseline) and not todo:
        return state
    reference = evaluate.kept_replies(out, key, len(problems)) if measured(state.baseline) else None
    if reference is None:  # what was scored on other replies is not for the same table
        replies = _reference(source, checkpoint, out, problems, progress)
        reference = [reply.tokens for reply in replies]
        todo = [entry.recipe for entry in state.entries if entry.recipe in recipes or measured(entry.score)]
        unscored = tuple(entry.with_score(None).with_npu_score(None) for entry in state.entries)
        baseline = dataclasses.replace(evaluate.score(replies), problem_set=asked)
        state = dataclasses.replace(state, baseline=baseline, entries=unscored)
        state.write(out)
        evaluate.keep_replies(out, key, replies)
    answers[report_file.BF16] = list(reference)
    for entry in [entry for entry in state.entries if entry.recipe in todo]:
        stage = f"evaluate {entry.recipe}"
        if not measured(entry.score):
            replies = answer_all(out / entry.path, problems, reference, stage=stage, progress=progress)
            answers[entry.recipe] = [reply.tokens for reply in replies]
            entry = entry.with_score(dataclasses.replace(evaluate.score(replies), problem_set=asked))
        if (form := entry.npu_form) and not measured(form.score):
            stage += " as NPUs compute it"
            with opened(out / form.path, LoadConfig()) as model:
                replies = answer_one_by_one(model, problems, reference, stage=stage, progress=progress)
            answers[form.recipe] = [reply.tokens for reply in replies]
            entry = entry.with_npu_score(dataclasses.replace(evaluate.score(replies), problem_set=asked))
        state = state.with_entry(entry)
        state.write(out)
    return state


def _reference(
    source: Source,
    checkpoint: Checkpoint,
    out: Path,
    problems: Sequence[evaluate.Problem],
    progress: ProgressCallback,
) -> list[evaluate.Reply]:
    """The unquantized model's replies, scored on their own tokens; the model's files are removed afterwards.

    They lie in ``out`` meanwhile: there is room for models there, and the next start removes what a killed one left.
    """
    with files.workplace(out / "bf16") as folder:
        try:
            model = write_plain(checkpoint, folder / "bf16.gguf", "gguf", BF16, origin(source), progress=progress)[0]
        except MissingDependencyError:  # float32 holds the same values
            model = write_plain(checkpoint, folder / "onnx", "onnx", F32, origin(source), progress=progress)[0]
        return answer_all(model, problems, stage="evaluate bf16", progress=progress)
