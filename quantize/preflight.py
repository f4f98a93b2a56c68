"""What would make a run fail in the end, found before its work begins: in the checkpoint, on the disk, among packages.

What only the work itself can show is not here: numbers that do not fit float16, or what a file loses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mimo_mobile import files, ggml_library, onnxruntime_library
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.draft_vocabulary import draft_ids
from mimo_mobile.convert.gguf_file import check_layout
from mimo_mobile.errors import BadArgumentError, require
from mimo_mobile.layout import ONNX_FOLDER, mtp_file
from mimo_mobile.manifest import Manifest
from mimo_mobile.quantize import disjoint, evaluate, kernels, report_file
from mimo_mobile.quantize.given import Given
from mimo_mobile.quantize.recipe_file import check_fits, feeds_back
from mimo_mobile.quantize.recipes import Recipe
from mimo_mobile.quantize.sizes import model_size
from mimo_mobile.quantize.texts import MOST_CALIBRATION

IMPORTANCE = "importance.imatrix"
"""The file beside the manifest with the importance matrix that the files were made with."""

BESIDE = (IMPORTANCE, disjoint.NAME, evaluate.REPLIES, report_file.NAME, report_file.PAGE)
"""Files that are written beside the manifest."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is going to be done.

    Attributes:
        checkpoint: The checkpoint.
        outputs: The recipes by which files are made, and where these go.
        single_file: Whether a GGUF file holds both the trunk and the MTP layer.
        given: What the levels are chosen by.
        asked: Whether problems are answered by the files in the end.
        binaries: Bytes that are compiled of a recipe's model for NPUs, by the recipe's name.
    """

    checkpoint: Checkpoint
    outputs: Sequence[tuple[Recipe, Path]]
    single_file: bool
    given: Given
    asked: bool
    binaries: Mapping[str, int] = field(default_factory=dict)

    @property
    def answering(self) -> list[Recipe]:
        """The recipes whose files are going to be run."""
        recipes = [recipe for recipe, _ in self.outputs]
        return recipes if self.asked else recipes[:1] if self.given.asks_model else []


def check_checkpoint(job: Job) -> None:
    """See that every recipe can be applied to the checkpoint, with the packages that are installed.

    Raises:
        BadArgumentError: A single file is asked for, and there is no MTP layer to put in.
        CheckpointError: What a format needs is not there, or is damaged.
        QuantizationError: A format does not fit a tensor.
        MissingDependencyError: A package is not installed.
    """
    checkpoint, targets = job.checkpoint, {recipe.target for recipe, _ in job.outputs}
    kernels.load()
    if "gguf" in targets:
        require("gguf", "gguf")
        ggml_library.load()
        if job.single_file and not checkpoint.config.num_nextn_predict_layers:
            raise BadArgumentError(
                f"--single-file: {checkpoint.path} has no MTP layer that could be put beside the trunk; leave it out"
            )
        check_layout(checkpoint, "whole" if job.single_file else "trunk")
    if "onnx" in targets:
        require("onnx_ir", "onnx")
        from mimo_mobile.convert.onnx_file import companions

        companions(checkpoint)
        draft_ids(checkpoint.path, checkpoint.vocabulary)
    if any(recipe.target == "onnx" for recipe in job.answering):
        onnxruntime_library.load()
    for recipe, _ in job.outputs:
        check_fits(recipe, checkpoint)


def check_folder(job: Job, folder: Path, known: Manifest | None, *, same: bool) -> None:
    """See that everything can be written where it is going to be written.

    Args:
        job: What is going to be done.
        folder: The folder of all outputs.
        known: Its manifest, if it has one that can be read.
        same: Whether the manifest is of the same checkpoint; else its files are going to be removed.

    Raises:
        OutputExistsError: There is something that is never replaced.
        QuantizationError: What others of its files were calibrated on is to be remembered, and damaged.
        DiskFullError: The disk has no room.
    """
    if not job.outputs:
        return
    for recipe, path in job.outputs:
        old = known.entry(recipe.name) if known else None
        kind = ONNX_FOLDER if recipe.target == "onnx" else None
        if kind and old and old.path == path.name and not kind.is_marked(path):
            continue  # a damaged folder of ours, which is removed by what its entry lists
        for place in (path, mtp_file(path)) if kind is None else (path,):
            files.replaceable(place, force=True, kind=kind)
    for name in BESIDE:
        files.replaceable(folder / name, force=True)
    others = known.without(job.outputs[0][0].name) if known and same else None
    if others and (others.entries or others.rejected):
        disjoint.read(folder)
    files.check_room(folder, needed_bytes(job, known, same=same))


def needed_bytes(job: Job, known: Manifest | None, *, same: bool) -> int:
    """The most that all outputs and the work on them take of the disk at a time, beside what is there now.

    The weights are counted to the byte; vocabularies, graphs and reports are not counted.
    """
    checkpoint = job.checkpoint
    drafts = len(draft_ids(checkpoint.path, checkpoint.vocabulary))
    taken = -sum(entry.size_bytes for entry in known.entries) if known and not same else 0
    if job.given.effort == "high" and any(feeds_back(recipe, checkpoint) for recipe, _ in job.outputs):
        tokens = MOST_CALIBRATION if job.given.adds_answers else sum(map(len, job.given.texts))
        taken += (checkpoint.config.num_hidden_layers + 1) * tokens * checkpoint.config.hidden_size * 4
    most = taken
    for recipe, _ in job.outputs:
        size = model_size(recipe, checkpoint.config, single_file=job.single_file, drafts=drafts)
        taken += size.model_bytes + size.mtp_bytes + job.binaries.get(recipe.name, 0)
        most = max(most, taken)
        old = known.entry(recipe.name) if known and same else None
        taken -= old.size_bytes if old else 0  # it is there until the new one is whole
    if job.asked and (known is None or not same or known.baseline is None):
        most = max(most, taken + 2 * checkpoint.num_parameters)  # the model in bf16, which answers first
    return max(most, 0)
