"""How large a recipe's files get, from a configuration's shapes alone: to the byte, before anything is read or written.

The writers decide what lies where; this module asks them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mimo_mobile.convert.draft_vocabulary import LEARNT_TOKENS
from mimo_mobile.convert.formats import PlainFormat
from mimo_mobile.convert.tensors import MTP_TENSOR, Layout, map_tensors
from mimo_mobile.errors import require
from mimo_mobile.mimo7b import PRE_NORM, MimoConfig
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat
from mimo_mobile.quantize.recipes import FORMATS, Recipe, fitting

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADDED_TOKENS = 22
"""Special tokens of MiMo-7B, which are drafted beside the learnt ones."""

GGUF_ALIGNMENT = 32

GGUF_TOKEN_BYTES, ONNX_TOKEN_BYTES, ONNX_LAYER_BYTES = 40, 100, 20_000
"""What a token takes in a GGUF header, and in the JSON files of an ONNX folder, and a layer in its graphs: 35, 85 and
13,000 in MiMo-nano's files."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What the weights of a recipe's files take.

    Attributes:
        bits_per_weight: Bits of a weight of the trunk, scales included.
        model_bytes: Weights of what is loaded: the trunk's GGUF file, or an ONNX folder, which has the MTP layer in it.
        mtp_bytes: Weights of the GGUF file with the MTP layer, which may be left away; 0 for ONNX.
        embedding_bytes: What the embedding takes of ``model_bytes``.
        other_bytes: The most that vocabulary and graphs take beside the weights; this is an estimate.
    """

    bits_per_weight: float
    model_bytes: int
    mtp_bytes: int
    embedding_bytes: int
    other_bytes: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tensor of which only the shape is known."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        raise AssertionError("a weight was read")


def model_size(
    recipe: Recipe, config: MimoConfig, *, single_file: bool = False, drafts: int = LEARNT_TOKENS + ADDED_TOKENS
) -> ModelSize:
    """How large the files of a recipe get.

    Args:
        recipe: The recipe.
        config: The model's configuration.
        single_file: Whether a GGUF file holds both the trunk and the MTP layer.
        drafts: How many tokens the MTP layer may draft, which ONNX has a head for.

    Raises:
        QuantizationError: A format does not fit a tensor.
        MissingDependencyError: The package that writes the format is not installed.
    """
    shapes = config.tensor_shapes()
    trunk = {name: shape for name, shape in shapes.items() if not MTP_TENSOR.match(name)}
    stored = sum(stored_bytes(recipe, name, shape, config.num_hidden_layers) for name, shape in trunk.items())
    bits = 8 * stored / sum(math.prod(shape) for shape in trunk.values())
    name = "model.embed_tokens.weight"
    embedding = stored_bytes(recipe, name, shapes[name], config.num_hidden_layers)
    if recipe.target == "onnx":
        other = ONNX_TOKEN_BYTES * config.vocab_size + ONNX_LAYER_BYTES * (config.num_hidden_layers + 1)
        return ModelSize(bits, _onnx_bytes(recipe, config, drafts), 0, embedding, other)
    mtp_layers = config.num_nextn_predict_layers
    whole = _gguf_bytes(recipe, config, shapes, "whole" if single_file and mtp_layers else "trunk")
    beside = mtp_layers and not single_file and config.mtp_hidden_state == PRE_NORM
    mtp = _gguf_bytes(recipe, config, shapes, "mtp") if beside else 0
    return ModelSize(bits, whole, mtp, embedding, GGUF_TOKEN_BYTES * config.vocab_size)


def stored_bytes(recipe: Recipe, name: str, shape: tuple[int, ...], layers: int) -> int:
    """What a tensor of a shape takes in a recipe's files, without padding; a model has so many ``layers``.

    Raises:
        MissingDependencyError: gguf is not installed, which knows ggml's formats.
    """
    columns = shape[-1]
    chosen = FORMATS[fitting(recipe.format_of(name, layers), columns)]
    rows = math.prod(shape) // columns
    if isinstance(chosen, PlainFormat | GgmlFormat):
        plain = recipe.activations if recipe.target == "onnx" and len(shape) == 1 else chosen
        return rows * plain.row_bytes(columns)
    assert isinstance(chosen, NBitsFormat)
    scales = columns // chosen.block_size * recipe.activations.dtype.itemsize
    return rows * (columns * chosen.bits // 8 + scales)


def _gguf_bytes(recipe: Recipe, config: MimoConfig, shapes: Mapping[str, tuple[int, ...]], layout: Layout) -> int:
    layers = config.num_hidden_layers
    sizes = [stored_bytes(recipe, name, shapes[name], layers) for name in map_tensors(shapes, layers, layout)]
    return sum(size + -size % GGUF_ALIGNMENT for size in sizes)


def _onnx_bytes(recipe: Recipe, config: MimoConfig, drafts: int) -> int:
    ir = require("onnx_ir", "onnx")
    from mimo_mobile.convert import onnx_graph
    from mimo_mobile.convert.onnx_file import data_bytes
    from mimo_mobile.convert.onnx_weights import LazyWeights

    def format_of(name: str) -> PlainFormat | NBitsFormat:
        chosen = FORMATS[recipe.format_of(name, config.num_hidden_layers)]
        assert isinstance(chosen, PlainFormat | NBitsFormat)
        return chosen

    compute = onnx_graph.Compute(ir.DataType.from_numpy(recipe.activations.dtype), ir.DataType.FLOAT16)
    tensors = {name: _Shape(shape) for name, shape in config.tensor_shapes().items()}
    with ThreadPoolExecutor(1) as pool:
        weights = LazyWeights(config, tensors, format_of, compute, np.arange(drafts), pool)
        graphs = [onnx_graph.trunk(config, weights, compute)]
        graphs += [onnx_graph.mtp(config, weights, compute, each) for each in range(config.num_nextn_predict_layers)]
        return data_bytes(graphs)
