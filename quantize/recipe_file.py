"""Writes a checkpoint by one recipe, with what calibration says of its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import F16, MatMulFormat, PlainFormat, RowFormat
from mimo_mobile.convert.model import write_gguf_model, write_onnx_model
from mimo_mobile.entries import Effort
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize.calibrate import Statistics, calibrate
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat
from mimo_mobile.quantize.recipes import FORMATS, Recipe, fitting
from mimo_mobile.quantize.texts import TEXT, calibration_texts
from mimo_mobile.ranges import ModelRanges
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


def write_model(
    checkpoint: Checkpoint,
    out: Path,
    recipe: Recipe,
    metadata: Mapping[str, str],
    progress: ProgressCallback = ignore,
    single_file: bool = False,
    calibrated: Calibrated | None = None,
) -> tuple[list[Path], ModelRanges | None]:
    """Write a checkpoint by a recipe, in place of what is there.

    Returns the paths that were written, the loadable model first; and how large its numbers get, if that was measured.

    Raises:
        QuantizationError: A format does not fit a tensor, or the model's numbers do not fit the recipe's types.
    """
    layers = checkpoint.config.num_hidden_layers

    def row_format(name: str) -> RowFormat:
        chosen = FORMATS[fitting(recipe.format_of(name, layers), checkpoint.tensors[name].shape[-1])]
        assert isinstance(chosen, PlainFormat | GgmlFormat)
        return chosen

    def matmul_format(name: str) -> PlainFormat | MatMulFormat:
        chosen = FORMATS[recipe.format_of(name, layers)]
        assert isinstance(chosen, PlainFormat | NBitsFormat)
        return chosen

    if recipe.target == "gguf":
        columns = {name: view.shape[-1] for name, view in checkpoint.tensors.items()}
        wanted = {name: recipe.format_of(name, layers) for name in columns}
        if other := [name for name in columns if fitting(wanted[name], columns[name]) != wanted[name]]:
            logger.warning(
                "%s: rows of %d weights fill no blocks of %s; %d tensors are stored as llama-quantize stores such",
                recipe.name, columns[other[0]], wanted[other[0]], len(other),
            )  # fmt: skip
        return write_gguf_model(
            checkpoint, out, row_format, recipe.file_type, metadata, True, progress, single_file, calibrated
        )
    ranges = write_onnx_model(
        checkpoint, out, matmul_format, recipe.activations, F16, metadata, True, progress, calibrated
    )
    return [out], ranges


def calibrated_for(recipe: Recipe, effort: Effort, statistics: Callable[[], Statistics]) -> Calibrated | None:
    """What a recipe is written with; without effort a GGUF file holds the checkpoint's own numbers, rounded."""
    if recipe.target == "gguf" and effort == "none":
        return None
    return calibrated(statistics(), effort)


def calibrated(found: Statistics, effort: Effort = "none") -> Calibrated:
    """What writers need of a checkpoint's statistics."""
    importance = {} if effort == "none" else found.mean_squares
    return Calibrated(
        found.ranges, found.head, found.kv_scales, found.reference, found.reference_ids, importance=importance
    )


def calibration_ids(folder: Path) -> list[int]:
    """Our calibration text, by the tokenizer in a folder."""
    return TextTokenizer.from_file(folder / "tokenizer.json").encode(TEXT.read_text(encoding="utf-8"))


def statistics_of(checkpoint: Checkpoint, progress: ProgressCallback = ignore) -> Statistics:
    """What a checkpoint computes for our calibration text.

    Raises:
        QuantizationError: A layer makes NaN or infinity.
    """
    tokenizer = TextTokenizer.from_file(checkpoint.path / "tokenizer.json")
    texts = calibration_texts(tokenizer, length=checkpoint.config.max_position_embeddings)
    return calibrate(checkpoint.config, checkpoint.tensors, texts, progress)
