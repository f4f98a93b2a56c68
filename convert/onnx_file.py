"""Checkpoint → a folder for ONNX Runtime: model.onnx, mtp.onnx, one shared data file, tokenizer and settings.

Weights are lazy until they are written, one at a time; both graphs point at the same bytes. The folder runs unchanged
under onnxruntime-genai. This module knows files; ``onnx_graph`` makes the graphs.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir

from mimo_mobile import files
from mimo_mobile.convert import onnx_graph
from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.draft_vocabulary import draft_ids
from mimo_mobile.convert.folding import check_head, fold, folded, folded_config, prefix_of
from mimo_mobile.convert.json_files import present, read_bytes, read_json
from mimo_mobile.convert.onnx_graph import Compute
from mimo_mobile.convert.onnx_weights import FormatOf, LazyWeights
from mimo_mobile.convert.vocabulary import Vocabulary
from mimo_mobile.layout import (
    CHAT_TEMPLATE,
    CONFIG,
    COPIED,
    DATA,
    GENAI_CONFIG,
    KV_INT8,
    MODEL,
    MTP,
    ONNX_FOLDER,
    REFERENCE,
    REFERENCE_FORMAT,
    TOKENIZER_CONFIG,
)
from mimo_mobile.mimo7b import SAMPLING_TEMPERATURE, SAMPLING_TOP_P, MimoConfig
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.ranges import ModelRanges

ALIGNMENT_BYTES = 4096
"""Every tensor in the data file begins at a page, so that it can be mapped as it lies."""


def write_onnx(
    out: Path,
    checkpoint: Checkpoint,
    format_of: FormatOf,
    compute: Compute,
    *,
    metadata: Mapping[str, str],
    calibrated: Calibrated | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressCallback = ignore,
) -> ModelRanges | None:
    """Write a checkpoint as a folder that ONNX Runtime and onnxruntime-genai run.

    Returns how large its numbers get, and by what they were scaled; None when nothing was measured.

    Args:
        out: The folder.
        checkpoint: The source.
        format_of: Checkpoint's tensor name → format of matrices and embedding.
        compute: The types in which activations and attention are computed.
        metadata: Goes into the models' metadata_props.
        calibrated: By what the weights are scaled, the scales for a second trunk with an int8 KV cache, and what makes
            reference logits; None leaves weights as they are and writes neither.
        threads: How many encode weights; one for each core by default.
        force: Replace ``out``.
        progress: Called for every tensor.

    Raises:
        QuantizationError: A format does not fit a tensor, or the model's numbers do not fit ``compute``.
        CheckpointError: The tokenizer's files are missing or of another type.
        OutputExistsError: ``out`` is there and ``force`` is false.
        DiskFullError: The folder would not fit.
    """
    config, beside, ranges = checkpoint.config, companions(checkpoint), ModelRanges(())
    drafts = draft_ids(checkpoint.path, checkpoint.vocabulary)
    with (
        files.whole(out, force=force, kind=ONNX_FOLDER) as folder,
        ThreadPoolExecutor(threads or os.cpu_count() or 2) as pool,
    ):
        folder.mkdir()
        if calibrated is not None:
            coarse = ir.DataType.FLOAT16 in (compute.activations, compute.kv)
            float16 = compute.activations == ir.DataType.FLOAT16
            if float16:
                check_head(calibrated.head)
            ranges = fold(calibrated.ranges, config.head_dim, float16=float16, float16_attention=coarse)
            config = folded_config(config, ranges)
            exact = frozenset(prefix_of(each.layer) for each in ranges.layers if each.float32_attention)
            compute = dataclasses.replace(compute, float32=exact)
        tensors = folded(checkpoint.tensors, ranges, calibrated.factors if calibrated else {})
        importance = calibrated.importance if calibrated else {}
        weights = LazyWeights(config, tensors, format_of, compute, drafts, pool, importance)
        graphs = {MODEL: onnx_graph.trunk(config, weights, compute)}
        for layer in range(config.num_nextn_predict_layers):
            name = MTP if layer == 0 else f"mtp_{layer}.onnx"
            graphs[name] = onnx_graph.mtp(config, weights, compute, layer)
        with (folder / DATA).open("wb") as data:
            places = _write_data(data, folder, graphs, progress, out)
        if calibrated is not None:
            weights.set_kv_scales(calibrated.kv_scales)
            int8 = dataclasses.replace(compute, kv=ir.DataType.INT8)
            graphs[KV_INT8] = _placed(onnx_graph.trunk(config, weights, int8), places)
        for name, model in graphs.items():
            model.metadata_props.update({f"mimo_mobile.{key}": value for key, value in metadata.items()})
            ir.save(model, folder / name)
        for name, content in beside.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if calibrated is not None:
            found = dataclasses.asdict(calibrated.reference(folder, config))
            (folder / REFERENCE).write_text(REFERENCE_FORMAT.to_text(found), encoding="utf-8")
    return ranges if calibrated is not None else None


def _write_data(
    data: BinaryIO, folder: Path, graphs: Mapping[str, ir.Model], progress: ProgressCallback, out: Path
) -> dict[str, ir.ExternalTensor]:
    """Write every lazy tensor once, in the graphs' order, and tell its place in the file to all that use it.

    Returns the places by name.
    """
    uses = [value for model in graphs.values() for value in _lazy_initializers(model)]
    total = data_bytes(graphs.values())
    files.check_room(out, total)
    places: dict[str, ir.ExternalTensor] = {}
    for value in uses:
        tensor, name = value.const_value, str(value.name)
        assert tensor is not None
        if name not in places:
            data.write(bytes(-data.tell() % ALIGNMENT_BYTES))
            offset = data.tell()
            tensor.tofile(data)
            length = data.tell() - offset
            places[name] = ir.ExternalTensor(
                DATA, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape), name=name, base_dir=folder
            )
            progress(Progress(f"write {out.name}", data.tell(), total, name))
        value.const_value = places[name]
    return places


def data_bytes(graphs: Iterable[ir.Model]) -> int:
    """How large the data file of graphs will be; no weight is read."""
    lazy = {str(value.name): value.const_value for graph in graphs for value in _lazy_initializers(graph)}
    end = 0
    for tensor in lazy.values():
        end += -end % ALIGNMENT_BYTES + tensor.nbytes
    return end


def _placed(model: ir.Model, places: Mapping[str, ir.ExternalTensor]) -> ir.Model:
    """The same model, whose lazy tensors now point to where they were written."""
    for value in _lazy_initializers(model):
        value.const_value = places[str(value.name)]
    return model


def _lazy_initializers(model: ir.Model) -> Iterator[ir.Value]:
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.LazyTensor):
            yield value


def genai_config(config: MimoConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """What onnxruntime-genai reads; it takes the trunk for a qwen2.

    Source: https://onnxruntime.ai/docs/genai/reference/config.html
    """
    return {
        "model": {
            "type": "qwen2",
            "bos_token_id": vocabulary.text_end_id,
            "eos_token_id": [vocabulary.eos_id, vocabulary.text_end_id],
            "pad_token_id": vocabulary.pad_id,
            "context_length": config.max_position_embeddings,
            "vocab_size": config.vocab_size,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": MODEL,
                "head_size": config.head_dim,
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": config.num_hidden_layers,
                "num_key_value_heads": config.num_key_value_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": True,
            "temperature": SAMPLING_TEMPERATURE,
            "top_p": SAMPLING_TOP_P,
            "max_length": config.max_position_embeddings,
            "past_present_share_buffer": True,
        },
    }


def companions(checkpoint: Checkpoint) -> dict[str, str | bytes]:
    """What the files beside the graphs hold, by their names.

    Raises:
        CheckpointError: One of those that they are made of is missing or damaged.
    """
    path = checkpoint.path
    made: dict[str, str | bytes] = {name: read_bytes(path / name) for name in COPIED if present(path / name)}
    mtp_layers = {"num_nextn_predict_layers": checkpoint.config.num_nextn_predict_layers}
    if {key: checkpoint.raw_config.get(key, 0) for key in mtp_layers} != mtp_layers:  # some were left out
        text = json.dumps(dict(checkpoint.raw_config) | mtp_layers, indent=2, ensure_ascii=False)
        made[CONFIG] = text + "\n"
    config = read_json(path / TOKENIZER_CONFIG)
    config["tokenizer_class"] = "Qwen2Tokenizer"  # a list in config.json of MiMo-7B, which loaders do not take
    if checkpoint.vocabulary.chat_template is not None:
        made[CHAT_TEMPLATE] = checkpoint.vocabulary.chat_template
    made[TOKENIZER_CONFIG] = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    genai = genai_config(checkpoint.config, checkpoint.vocabulary)
    made[GENAI_CONFIG] = json.dumps(genai, indent=2) + "\n"
    return made
