"""Checkpoint → GGUF: the trunk as architecture ``qwen2``, and files with MTP layers in a form that llama.cpp runs.

While a tensor is written, two or more threads read and encode the next one, so that no more than two encoded tensors
are in memory. This module knows GGUF's names through the gguf package, and knows nothing of block formats.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import files
from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.folding import Folded
from mimo_mobile.convert.formats import NO_IMPORTANCE, Importance, RowFormat
from mimo_mobile.convert.gguf_reference import add_room, fill
from mimo_mobile.convert.shards import TensorView
from mimo_mobile.convert.tensors import Layout, Mapped, map_tensors
from mimo_mobile.convert.vocabulary import Vocabulary
from mimo_mobile.errors import CheckpointError, QuantizationError, require
from mimo_mobile.layout import LARGEST_QUERY_KEY, PAIR_ID, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS
from mimo_mobile.mimo7b import PRE_NORM, SAMPLING_TEMPERATURE, SAMPLING_TOP_P, SYNTHETIC, MimoConfig
from mimo_mobile.progress import Progress, ProgressCallback, ignore

if TYPE_CHECKING:
    from gguf import GGUFWriter

logger = logging.getLogger(__name__)

TRUNK_ARCHITECTURE = "qwen2"
"""MiMo's trunk equals Qwen2's, tensor by tensor, so that every llama.cpp app runs it."""

MTP_ARCHITECTURE = "step35"
"""llama.cpp's qwen2 has no MTP layers. Step-3.5's graph has all that MiMo needs: dense layers with biases, and MTP
layers that read the hidden state before the last norm. It uses its other parts only when their tensors are there.

Source: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/src/models/step35.cpp
"""

TASK_WEIGHTS = 1 << 22
"""Weights that one thread encodes at a time."""


def write_gguf(
    out: Path,
    checkpoint: Checkpoint,
    layout: Layout,
    format_of: Callable[[str], RowFormat],
    *,
    file_type: str,
    metadata: Mapping[str, str],
    tensors: Mapping[str, TensorView | Folded] | None = None,
    eps: float | None = None,
    importance: Importance = NO_IMPORTANCE,
    known: Calibrated | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressCallback = ignore,
) -> Path:
    """Write a checkpoint, or a part of it, as a GGUF file.

    Args:
        out: The file.
        checkpoint: The source.
        layout: ``trunk`` for every llama.cpp app, ``mtp`` to draft beside a trunk file, ``whole`` with both.
        format_of: Checkpoint's tensor name → format.
        file_type: The name in gguf.LlamaFileType, without ``MOSTLY_``.
        metadata: ``name``, and where known ``license``, ``repository``, ``revision``, ``synthetic``, and ``pair``,
            which a trunk has in common with its MTP file.
        tensors: The checkpoint's tensors as they are to be written; as they are by default.
        eps: The norms' eps that belongs to them; the checkpoint's by default.
        importance: Checkpoint's tensor name → how much each column of the tensor matters; others are encoded without.
        known: What the checkpoint gave when it was run: the file tells engines how large q·k gets, and has a reference
            to test them with. It has neither by default.
        threads: How many encode weights; one for each core by default.
        force: Replace ``out``.
        progress: Called for every tensor.

    Raises:
        CheckpointError: MTP layers are asked for and are not there, or they read the state after the norm, which
            llama.cpp does not give them.
        QuantizationError: A format does not fit a tensor.
        OutputExistsError: ``out`` is there and ``force`` is false.
        DiskFullError: The file would not fit.
        MissingDependencyError: gguf is not installed.
    """
    gguf = require("gguf", "gguf")
    config, tensors = checkpoint.config, tensors or checkpoint.tensors
    check_layout(checkpoint, layout)
    mapped = map_tensors(checkpoint.tensors, config.num_hidden_layers, layout)
    formats = {name: format_of(name) for name in mapped}
    with files.whole(out, force=force) as temporary:
        files.check_room(out, sum(_stored_bytes(tensors[name], formats[name]) for name in mapped))
        architecture = TRUNK_ARCHITECTURE if layout == "trunk" else MTP_ARCHITECTURE
        writer: GGUFWriter = gguf.GGUFWriter(temporary, architecture)
        try:
            if known and known.reference_ids:
                add_room(writer, known.reference_ids, config.vocab_size)
            if known and known.ranges.layers:
                writer.add_float32(LARGEST_QUERY_KEY, known.ranges.query_key)
            _add_origin(writer, metadata, layout)
            _add_hyperparameters(writer, config, eps or config.rms_norm_eps)
            _add_layers(writer, config, layout)
            if "pair" in metadata:
                _add_pair(writer, metadata["pair"], checkpoint, layout)
            writer.add_file_type(_file_type(gguf, file_type))
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            _add_vocabulary(gguf, writer, checkpoint.vocabulary)
            for name, target in mapped.items():
                _add_tensor_info(gguf, writer, tensors[name], target, formats[name])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            _write_tensors(writer, tensors, mapped, formats, importance, threads, progress, f"write {out.name}")
        finally:
            writer.close()
        if known and known.reference_ids:
            fill(temporary, known.reference(temporary, config))
    return out


def check_layout(checkpoint: Checkpoint, layout: Layout) -> None:
    """See that a checkpoint has what a layout holds.

    Raises:
        CheckpointError: It has no MTP layers, or such as llama.cpp cannot run.
    """
    config = checkpoint.config
    if layout != "trunk" and (not config.num_nextn_predict_layers or config.mtp_hidden_state != PRE_NORM):
        raise CheckpointError(
            f"{checkpoint.path}: {config.num_nextn_predict_layers} MTP layers on {config.mtp_hidden_state} states"
            f" found; llama.cpp runs those on {PRE_NORM} ones: take the trunk alone, or ONNX"
        )


def _write_tensors(
    writer: GGUFWriter,
    tensors: Mapping[str, TensorView | Folded],
    mapped: Mapping[str, Mapped],
    formats: Mapping[str, RowFormat],
    importance: Importance,
    threads: int | None,
    progress: ProgressCallback,
    stage: str,
) -> None:
    done, total = 0, sum(tensors[name].size for name in mapped)
    with ThreadPoolExecutor(threads or os.cpu_count() or 2) as pool:
        waiting: deque[tuple[str, Encoding]] = deque()

        def write_first() -> None:
            nonlocal done
            name, encoding = waiting.popleft()
            writer.write_tensor_data(encoding.result())
            done += tensors[name].size
            progress(Progress(stage, done, total, name, unit="weights"))

        for name, target in mapped.items():
            # The next tensor is read and encoded while the one before is written.
            encoding = Encoding(
                name, tensors[name], formats[name], pool, importance.get(name), swap_halves=target.swap_halves
            )
            waiting.append((name, encoding))
            if len(waiting) > 1:
                write_first()
        while waiting:
            write_first()


class Encoding:
    """A tensor's rows, which the threads of a pool turn into bytes [rows, row_bytes]."""

    def __init__(
        self,
        name: str,
        view: TensorView | Folded,
        row_format: RowFormat,
        pool: ThreadPoolExecutor,
        importance: Any = None,
        *,
        swap_halves: bool = False,
    ) -> None:
        """Begin; the thread that encodes a row reads it, too."""
        self._name, columns = name, view.shape[-1]
        rows = view.size // columns
        self._out = np.empty((rows, row_format.row_bytes(columns)), np.uint8)
        step = max(1, TASK_WEIGHTS // columns)
        if swap_halves and isinstance(importance, np.ndarray):
            importance = np.roll(importance, columns // 2)

        def task(start: int) -> None:
            if len(view.shape) == 1:
                values = view.float32()[None]
            else:
                values = view.float32(start, start + step)
            if swap_halves:
                values = np.roll(values, columns // 2, axis=1)
            row_format.encode(values, self._out[start : start + step], importance)

        self._tasks = [pool.submit(task, start) for start in range(0, rows, step)]

    def result(self) -> NDArray[np.uint8]:
        """The bytes, when all are there.

        Raises:
            QuantizationError: The format does not fit the tensor.
        """
        try:
            for task in self._tasks:
                task.result()
        except QuantizationError as error:
            raise QuantizationError(f"tensor {self._name}: {error}") from error
        finally:
            for task in self._tasks:
                task.cancel()
        return self._out


def _stored_bytes(view: TensorView | Folded, row_format: RowFormat) -> int:
    return view.size // view.shape[-1] * row_format.row_bytes(view.shape[-1])


def _add_tensor_info(
    gguf: Any, writer: GGUFWriter, view: TensorView | Folded, target: Mapped, row_format: RowFormat
) -> None:
    size = _stored_bytes(view, row_format)
    kind = gguf.GGMLQuantizationType[row_format.name]
    writer.add_tensor_info(target.name, view.shape, np.dtype(np.float32), size, raw_dtype=kind)


def _file_type(gguf: Any, name: str) -> int:
    return int(gguf.LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"])


def _add_origin(writer: GGUFWriter, metadata: Mapping[str, str], layout: Layout) -> None:
    name = metadata["name"]
    writer.add_name(name)
    if "synthetic" in metadata:
        writer.add_bool(SYNTHETIC, True)
        writer.add_description("Random weights in MiMo-7B's shapes, for measurements only")
    elif layout == "mtp":
        writer.add_description(f"MTP layer of {name}, which drafts for its trunk; not a model that can be used alone")
    if "license" in metadata:
        writer.add_license(metadata["license"])
    if "repository" in metadata:
        url = f"https://huggingface.co/{metadata['repository']}"
        writer.add_source_url(f"{url}/tree/{metadata['revision']}")
        writer.add_source_repo_url(url)


def _add_hyperparameters(writer: GGUFWriter, config: MimoConfig, eps: float) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_sampling_temp(SAMPLING_TEMPERATURE)
    writer.add_sampling_top_p(SAMPLING_TOP_P)


def _add_layers(writer: GGUFWriter, config: MimoConfig, layout: Layout) -> None:
    """Add the trunk's layers, and with MTP layers what Step-3.5 has beyond Qwen2."""
    trunk, mtp = config.num_hidden_layers, config.num_nextn_predict_layers
    if layout == "trunk":
        writer.add_block_count(trunk)
        writer.add_rope_dimension_count(config.head_dim)
        return
    writer.add_block_count(trunk + mtp)
    writer.add_nextn_predict_layers(mtp)
    writer.add_rope_dimension_count(2 * config.head_dim)  # of which layers with full attention use half
    # llama.cpp wants at least one layer with a sliding window; one of the whole context is full attention.
    writer.add_sliding_window(config.max_position_embeddings)
    writer.add_sliding_window_pattern([layer == 0 or layer >= trunk for layer in range(trunk + mtp)])
    writer.add_rope_dimension_count_swa(config.head_dim)
    writer.add_rope_freq_base_swa(config.rope_theta)
    writer.add_expert_feed_forward_length(0)


def _add_pair(writer: GGUFWriter, pair: str, checkpoint: Checkpoint, layout: Layout) -> None:
    """Let llama.cpp read the MTP file as a model's first part, and the trunk's as its second.

    So both can be one model. A trunk says only which part it is, and not of how many: alone, it is a whole model to
    llama.cpp, which asks for the count first.

    Source: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/src/llama-model-loader.cpp#L595
    """
    writer.add_string(PAIR_ID, pair)
    writer.add_uint16(SPLIT_NO, 0 if layout == "mtp" else 1)
    if layout == "mtp":
        whole = map_tensors(checkpoint.tensors, checkpoint.config.num_hidden_layers, "whole")
        writer.add_uint16(SPLIT_COUNT, 2)
        writer.add_int32(SPLIT_TENSORS, len(whole))


def _add_vocabulary(gguf: Any, writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    kinds = {kind: gguf.TokenType[kind.upper()] for kind in ("normal", "control", "user_defined", "unused")}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([kinds[kind] for kind in vocabulary.kinds])
    writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_bos_token_id(vocabulary.text_end_id)
    writer.add_pad_token_id(vocabulary.pad_id)
    writer.add_add_bos_token(False)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
