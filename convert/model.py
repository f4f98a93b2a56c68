"""A checkpoint as one loadable model: the step that ``mimo convert`` and every recipe share."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mimo_mobile import files, untrusted
from mimo_mobile.convert.checkpoint import CONFIG, Checkpoint
from mimo_mobile.convert.folding import fold, folded, folded_config
from mimo_mobile.convert.formats import BF16, F16, F32, MatMulFormat, PlainFormat, RowFormat
from mimo_mobile.convert.gguf_file import write_gguf
from mimo_mobile.convert.json_files import read_json
from mimo_mobile.convert.optimum_export import OPTIMUM_FOLDER, export_with_optimum
from mimo_mobile.convert.tensors import Layout
from mimo_mobile.convert.weight_values import check_values
from mimo_mobile.errors import BadArgumentError, require
from mimo_mobile.hub import Source, resolve
from mimo_mobile.layout import ONNX_FOLDER, mtp_file
from mimo_mobile.mimo7b import PRE_NORM, SYNTHETIC
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.ranges import ModelRanges

if TYPE_CHECKING:
    from mimo_mobile.convert.calibrated import Calibrated

logger = logging.getLogger(__name__)

Target = Literal["gguf", "onnx"]
Dtype = Literal["f32", "f16", "bf16"]
Exporter = Literal["direct", "optimum"]

_CARD_BYTES = 65536
"""The front matter of a model card, which says the licence, is in its first bytes."""

_PLAIN = {"f32": F32, "f16": F16, "bf16": BF16}


def convert_checkpoint(
    source: Source | str | Path,
    out: str | Path,
    *,
    to: Target,
    dtype: Dtype | None = None,
    exporter: Exporter = "direct",
    force: bool = False,
    progress: ProgressCallback = ignore,
    single_file: bool = False,
    calibrate: Callable[[Checkpoint, ProgressCallback], Calibrated] | None = None,
) -> list[Path]:
    """Write a checkpoint as it is, unquantized, and return what was written, the loadable model first.

    Args:
        source: The checkpoint: ``nano``, a folder or a hub id.
        out: A .gguf file (its MTP layer goes to ``…-mtp.gguf`` beside it) or an ONNX folder.
        to: The format.
        dtype: The type of the weights; by default bf16 for GGUF, and f32 for ONNX, whose CPU kernels have no bf16.
        exporter: With ``optimum`` the trunk is traced through PyTorch to ONNX in f32 instead, as a second opinion.
        force: Whether to replace what is there.
        progress: A function that is called often.
        single_file: Whether a GGUF file holds both the trunk and the MTP layer, which llama.cpp's own
            ``--spec-type draft-mtp`` needs.
        calibrate: Runs the checkpoint first when its activations will be float16, so that they are scaled into it.

    Raises:
        BadArgumentError: ONNX is asked for in bf16, or optimum is asked for anything but ONNX in f32.
        CheckpointError: The checkpoint cannot be used.
        OutputExistsError: ``out`` is there and ``force`` is false.
    """
    out, source = Path(out), resolve(source)
    dtype = dtype or ("bf16" if to == "gguf" else "f32")
    if to == "onnx" and dtype == "bf16":
        raise BadArgumentError("ONNX Runtime's CPU kernels have no bf16; use --dtype f32 or f16")
    plain = _PLAIN[dtype]
    checkpoint = Checkpoint.open(source.path)
    if exporter == "optimum" and (to, dtype) != ("onnx", "f32"):
        raise BadArgumentError(f"optimum exports ONNX in f32 only, {to} in {dtype} was asked for")
    if single_file and (to == "onnx" or not checkpoint.config.num_nextn_predict_layers):
        raise BadArgumentError("a single file is for GGUF and checkpoints with an MTP layer")
    kind = None if to == "gguf" else OPTIMUM_FOLDER if exporter == "optimum" else ONNX_FOLDER
    files.replaceable(out, force=force, kind=kind)
    check_values(checkpoint.tensors.values(), progress)
    if exporter == "optimum":
        return [export_with_optimum(checkpoint, out, force=force)]
    calibrated = calibrate(checkpoint, progress) if calibrate and (to, plain) == ("onnx", F16) else None
    return write_plain(checkpoint, out, to, plain, origin(source), force, progress, single_file, calibrated)


def write_plain(
    checkpoint: Checkpoint,
    out: Path,
    to: Target,
    plain: PlainFormat,
    metadata: Mapping[str, str],
    force: bool = False,
    progress: ProgressCallback = ignore,
    single_file: bool = False,
    calibrated: Calibrated | None = None,
) -> list[Path]:
    """Write a checkpoint unquantized, and return what was written, the loadable model first.

    Raises:
        OutputExistsError: ``out`` is there and ``force`` is false.
        MissingDependencyError: The package that writes the format is not installed.
    """
    if to == "onnx":
        write_onnx_model(checkpoint, out, lambda _: plain, plain, plain, metadata, force, progress, calibrated)
        return [out]

    def format_of(name: str) -> RowFormat:
        return F32 if is_vector(name) else plain

    return write_gguf_model(checkpoint, out, format_of, plain.name, metadata, force, progress, single_file)[0]


def write_gguf_model(
    checkpoint: Checkpoint,
    out: Path,
    format_of: Callable[[str], RowFormat],
    file_type: str,
    metadata: Mapping[str, str],
    force: bool = False,
    progress: ProgressCallback = ignore,
    single_file: bool = False,
    calibrated: Calibrated | None = None,
) -> tuple[list[Path], ModelRanges | None]:
    """Write the trunk to ``out``, and the MTP layers, if there are any, to ``…-mtp.gguf`` beside it.

    With ``single_file`` all is written to ``out``. What ``calibrated`` says is folded into the weights.

    Returns the paths, and how large the model's numbers get if that was measured.

    Raises:
        OutputExistsError: One of the files is there and ``force`` is false.
    """
    mtp_out = mtp_file(out)
    layouts: list[tuple[Path, Layout]] = [(out, "whole" if single_file else "trunk")]
    config = checkpoint.config
    if config.num_nextn_predict_layers and not single_file:
        if config.mtp_hidden_state == PRE_NORM:
            layouts.insert(0, (mtp_out, "mtp"))  # first, so that a trunk without its layer is never left behind
        else:
            logger.warning(
                "%s: the trunk alone; llama.cpp runs no MTP layer on %s states", out, config.mtp_hidden_state
            )
    for path in out, mtp_out:
        files.replaceable(path, force=force)
    if checkpoint.vocabulary.flagged:
        logger.warning(
            "%s: GGUF cannot say that white space and words around added tokens are treated in another way: %s",
            out, ", ".join(checkpoint.vocabulary.flagged),
        )  # fmt: skip
    ranges = ModelRanges(())
    if calibrated is not None:
        ranges = fold(calibrated.ranges, config.head_dim, float16=False, float16_attention=False)
    tensors = folded(checkpoint.tensors, ranges, calibrated.factors if calibrated else {})
    if len(layouts) > 1:
        metadata = {**metadata, "pair": _pair_id(checkpoint, format_of, ranges)}
    for path, layout in layouts:
        write_gguf(
            path, checkpoint, layout, format_of, file_type=file_type, metadata=metadata, tensors=tensors,
            eps=folded_config(config, ranges).rms_norm_eps, importance=calibrated.importance if calibrated else {},
            known=calibrated if path == out else None, force=force, progress=progress,
        )  # fmt: skip
    if len(layouts) == 1:
        mtp_out.unlink(missing_ok=True)  # of the checkpoint before; it would be taken for this one's
    return [path for path, _ in reversed(layouts)], ranges if calibrated else None


def _pair_id(checkpoint: Checkpoint, format_of: Callable[[str], RowFormat], ranges: ModelRanges) -> str:
    """A hash of checkpoint, formats and the scale of states, which only a trunk and its own MTP file share."""
    formats = ",".join(format_of(name).name for name in checkpoint.tensors)
    scale = "" if ranges.residual_scale == 1 else f" {ranges.residual_scale}"
    return hashlib.sha256(f"{checkpoint.fingerprint()} {formats}{scale}".encode()).hexdigest()


def write_onnx_model(
    checkpoint: Checkpoint,
    out: Path,
    format_of: Callable[[str], PlainFormat | MatMulFormat],
    activations: PlainFormat,
    kv: PlainFormat,
    metadata: Mapping[str, str],
    force: bool = False,
    progress: ProgressCallback = ignore,
    calibrated: Calibrated | None = None,
) -> ModelRanges | None:
    """Write the ONNX folder ``out``; see ``onnx_file.write_onnx``.

    Raises:
        OutputExistsError: The folder is there and ``force`` is false.
        QuantizationError: The model's numbers do not fit the types, or a format does not fit a tensor.
        MissingDependencyError: onnx-ir is not installed.
    """
    ir = require("onnx_ir", "onnx")
    from mimo_mobile.convert.onnx_file import write_onnx
    from mimo_mobile.convert.onnx_graph import Compute

    for_gpus = activations is F16
    compute = Compute(ir.DataType.from_numpy(activations.dtype), ir.DataType.from_numpy(kv.dtype), sinks=for_gpus)
    return write_onnx(
        out, checkpoint, format_of, compute, metadata=metadata, calibrated=calibrated, force=force, progress=progress
    )


def is_vector(name: str) -> bool:
    """Whether a tensor is a norm's weight or a bias, which stay float32 in GGUF as llama.cpp has them."""
    return "norm" in name or name.endswith(".bias")


def origin(source: Source) -> dict[str, str]:
    """What files say about their origin: name, licence, hub id and revision if known, and if weights are random."""
    made = {"name": source.name}
    card = source.path / "README.md"
    if card.is_file():
        with untrusted.opened(card) as file:
            front = file.read(_CARD_BYTES).decode("utf-8", "replace").replace("\r\n", "\n").split("\n---", 1)[0]
        if front.startswith("---\n") and (
            licence := re.search(r"^license:[ \t]*([\w.+-]{1,60})[ \t]*$", front, re.MULTILINE | re.ASCII)
        ):
            made["license"] = licence[1]
    if read_json(source.path / CONFIG).get(SYNTHETIC):
        made["synthetic"] = "true"
    if source.repository and source.revision:
        made |= {"repository": source.repository, "revision": source.revision}
    return made
