"""Writes a checkpoint by one recipe, with what calibration says of its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import F16, MatMulFormat, PlainFormat, RowFormat
from mimo_mobile.convert.model import write_gguf_model, write_onnx_model
from mimo_mobile.errors import QuantizationError
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat
from mimo_mobile.quantize.recipes import FORMATS, Recipe, fitting
from mimo_mobile.quantize.texts import TEXT
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
        chosen = format_of(recipe, name, checkpoint)
        assert not isinstance(chosen, NBitsFormat)
        return chosen

    def matmul_format(name: str) -> PlainFormat | MatMulFormat:
        chosen = format_of(recipe, name, checkpoint)
        assert not isinstance(chosen, GgmlFormat)
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


def format_of(recipe: Recipe, name: str, checkpoint: Checkpoint) -> PlainFormat | GgmlFormat | NBitsFormat:
    """The format that a recipe gives to a checkpoint's tensor.

    Raises:
        QuantizationError: The recipe has no rule for it.
    """
    wanted = recipe.format_of(name, checkpoint.config.num_hidden_layers)
    if recipe.target == "gguf":
        wanted = fitting(wanted, checkpoint.tensors[name].shape[-1])
    chosen = FORMATS[wanted]
    assert isinstance(chosen, PlainFormat | GgmlFormat | NBitsFormat)
    return chosen


def check_fits(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """See that the blocks of a recipe fill every row, before anything is computed.

    Raises:
        QuantizationError: They do not, or the recipe has no rule for a tensor.
    """
    for name, view in checkpoint.tensors.items():
        chosen, columns = format_of(recipe, name, checkpoint), view.shape[-1]
        if not isinstance(chosen, PlainFormat) and columns % chosen.blocks.size:
            raise QuantizationError(
                f"{recipe.name}: rows of a multiple of {chosen.blocks.size} weights expected, {name} has rows of"
                f" {columns}; take a recipe with smaller blocks"
            )


def calibration_ids(folder: Path) -> list[int]:
    """Our calibration text, by the tokenizer in a folder."""
    return TextTokenizer.from_file(folder / "tokenizer.json").encode(TEXT.read_text(encoding="utf-8"))
