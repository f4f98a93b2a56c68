"""Checkpoint → a folder of quantized files with a manifest: the work behind ``make quantize``.

Each recipe is one streamed pass over the checkpoint. A killed run leaves whole files only; the next run keeps
what is finished. Knows recipes and writers, not tensors.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mimo_mobile import files, manifest
from mimo_mobile.convert import write_model
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import MissingDependencyError
from mimo_mobile.hub import Source
from mimo_mobile.manifest import Entry, Manifest
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import evaluate
from mimo_mobile.quantize.recipes import Recipe, recipe_named


def quantize_checkpoint(
    source: Source,
    out: Path,
    recipes: Sequence[str],
    *,
    force: bool = False,
    problems: int | None = None,
    progress: ProgressCallback = ignore,
) -> Manifest:
    """Quantize a checkpoint by each recipe into ``out`` and score what came out.

    Args:
        source: The checkpoint.
        out: The folder for this checkpoint's files; made if it is not there.
        recipes: Names, e.g. ``["q4_0", "int4_b32"]``.
        force: Replace another checkpoint's files in ``out`` and do finished recipes anew.
        problems: How many of the held-out problems to answer, 0 for none, None for all.
        progress: Called often.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        QuantizationError: A recipe is unknown or cannot be applied.
        OutputExistsError: ``out`` holds something else.
    """
    chosen = [recipe_named(name) for name in dict.fromkeys(recipes)]
    checkpoint = Checkpoint.open(source.path)
    questions = evaluate.read_problems(source.path)
    if problems is not None:
        questions = list(evaluate.problems_of_kinds(questions, problems)) if problems else []
    with files.locked(out):
        files.remove_partials(out)
        state = manifest.start(out, source, force=force)
        for recipe in chosen:
            if force or not _finished(state, recipe, out):
                state = state.without(recipe.name)
                state.write(out)
                state = state.with_entry(_quantize(checkpoint, source, out, recipe, progress))
                state.write(out)
        if questions:
            state = _score(state, source, checkpoint, out, [recipe.name for recipe in chosen], questions, progress)
            state.write(out)
    return state


def _finished(state: Manifest, recipe: Recipe, out: Path) -> bool:
    entry = state.entry(recipe.name)
    return entry is not None and all(
        (out / part.path).is_file() and (out / part.path).stat().st_size == part.size_bytes for part in entry.parts
    )


def _quantize(checkpoint: Checkpoint, source: Source, out: Path, recipe: Recipe, progress: ProgressCallback) -> Entry:
    written = write_model(
        checkpoint,
        out / (f"{source.name}-{recipe.name}.gguf" if recipe.target == "gguf" else f"{source.name}-{recipe.name}-onnx"),
        recipe,
        metadata=origin(source),
        force=True,
        progress=progress,
    )
    paths = sorted(path for each in written for path in ([each] if each.is_file() else each.rglob("*")) if path.is_file())
    parts = tuple(manifest.part(out, path, progress) for path in paths)
    size = sum(part.size_bytes for part in parts)
    weights = sum(part.size_bytes for part in parts if part.path.endswith((".gguf", ".data")))
    return Entry(
        recipe=recipe.name,
        format=recipe.target,
        path=written[0].relative_to(out).as_posix(),
        bits_per_weight=8 * weights / checkpoint.num_parameters,
        size_bytes=size,
        parts=parts,
    )


def _score(
    state: Manifest,
    source: Source,
    checkpoint: Checkpoint,
    out: Path,
    recipes: Sequence[str],
    problems: Sequence[evaluate.Problem],
    progress: ProgressCallback,
) -> Manifest:
    """The manifest with the missing scores, bf16's included."""
    entries = [entry for name in recipes if (entry := state.entry(name)) is not None]
    fresh = state.baseline is not None and state.baseline.problems == len(problems)
    if fresh and all(entry.score and entry.score.problems == len(problems) for entry in entries):
        return state
    reference = _reference(source, checkpoint, problems, progress)
    state = dataclasses.replace(state, baseline=evaluate.score(reference))
    for entry in entries:
        replies = evaluate.answer_all(
            out / entry.path, problems, reference, stage=f"evaluate {entry.recipe}", progress=progress
        )
        state = state.with_entry(dataclasses.replace(entry, score=evaluate.score(replies)))
        state.write(out)
    return state


def _reference(
    source: Source, checkpoint: Checkpoint, problems: Sequence[evaluate.Problem], progress: ProgressCallback
) -> list[evaluate.Reply]:
    """The unquantized model's replies, scored on their own tokens; its files are removed again."""
    with tempfile.TemporaryDirectory(prefix="mimo-bf16-") as folder:
        try:
            recipe, name = recipe_named("bf16"), "bf16.gguf"
            model = write_model(checkpoint, Path(folder) / name, recipe, metadata=origin(source), progress=progress)[0]
            replies = evaluate.answer_all(model, problems, stage="evaluate bf16", progress=progress)
        except MissingDependencyError:
            recipe, name = recipe_named("onnx_f32"), "onnx"
            model = write_model(checkpoint, Path(folder) / name, recipe, metadata=origin(source), progress=progress)[0]
            replies = evaluate.answer_all(model, problems, stage="evaluate bf16", progress=progress)
        return replies


def origin(source: Source) -> dict[str, str]:
    """What the files say of where they came from."""
    made = {"name": source.name}
    if source.repository and source.revision:
        made |= {"repository": source.repository, "revision": source.revision}
    return made
