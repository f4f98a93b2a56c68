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

ENOUGH_BITS = 8
"""With so many bits neither channel scales nor feedback gain anything."""

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
    """See that a recipe's formats fit the checkpoint's tensors.

    Raises:
        QuantizationError: One does not, or there is none for a tensor.
        MissingDependencyError: gguf is not installed, which knows ggml's formats.
    """
    for name, view in checkpoint.tensors.items():
        chosen = format_of(recipe, name, checkpoint)
        try:
            if isinstance(chosen, NBitsFormat):
                chosen.check_columns(view.shape[-1])
            else:
                chosen.row_bytes(view.shape[-1])
        except QuantizationError as error:
            raise QuantizationError(f"{recipe.name}: tensor {name}: {error}") from error


def coarse_formats(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, GgmlFormat | NBitsFormat]:
    """The formats that channel scales and feedback gain something for, by the names of the tensors that have them."""
    formats = {name: format_of(recipe, name, checkpoint) for name in checkpoint.tensors}
    blocks = {name: each for name, each in formats.items() if not isinstance(each, PlainFormat)}
    return {name: each for name, each in blocks.items() if each.blocks.bits < ENOUGH_BITS}


def feeds_back(recipe: Recipe, checkpoint: Checkpoint) -> bool:
    """Whether feedback gains something for a recipe."""
    return any(each.feeds_back for each in coarse_formats(recipe, checkpoint).values())


def calibration_ids(folder: Path) -> list[int]:
    """Our calibration text, by the tokenizer in a folder."""
    return TextTokenizer.from_file(folder / "tokenizer.json").encode(TEXT.read_text(encoding="utf-8"))
