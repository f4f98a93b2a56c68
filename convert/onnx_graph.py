"""MiMo as ONNX graphs, one function per block: the trunk, and the MTP layer as a graph of its own.

The nodes are those for which ONNX Runtime has the best fused kernels: GroupQueryAttention with rotary embedding inside,
SimplifiedLayerNormalization and its Skip form, MatMulNBits. Inputs and outputs have onnxruntime-genai's names. This
module knows operators and shapes; ``OnnxWeights`` knows where the weights come from.

Shapes: B batch, T new tokens, P past, S = P + T, H query heads, K key/value heads, D head_dim, E hidden, F ffn.
Operators: https://github.com/microsoft/onnxruntime/blob/v1.22.0/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from mimo_mobile.mimo7b import MimoConfig

MICROSOFT = "com.microsoft"
OPSETS = {"": 21, MICROSOFT: 1}
IR_VERSION = 10

ACCURACY_LEVEL = 4
"""MatMulNBits computes with int8 activations; lower levels are many times slower."""

SINKS = {ir.DataType.FLOAT16: -6e4, ir.DataType.FLOAT: -1e30}
"""The logit of a sink beside a row's tokens in softmax, by the type of attention. Its exponential is 0, so that nothing
changes but the kernel: with a sink, WebGPU leaves out FlashAttention. On Vulkan, onnxruntime-ep-webgpu 0.4.0 compiles
that to a shader in which the sums of q·k begin at zero once, instead of for each 4 to 16 keys: the variables'
initializers run only at the function's entry. MiMo-nano's logits then differ by 15 % of the largest one."""


@dataclass(frozen=True, slots=True)
class Compute:
    """What the graph computes with.

    Attributes:
        activations: FLOAT or FLOAT16.
        kv: The type of the KV cache: FLOAT, FLOAT16, or INT8 with a scale for each channel.
        sinks: Whether softmax gets a sink for each head, which takes nothing: see ``SINKS``.
        float32: The prefixes of the layers whose attention and cache are FLOAT, as float16 is too coarse for them.
    """

    activations: ir.DataType
    kv: ir.DataType
    sinks: bool = False
    float32: frozenset[str] = frozenset()

    def attention(self, layer: str) -> ir.DataType:
        """What attention itself computes with in the layer with a prefix."""
        if layer in self.float32:
            return ir.DataType.FLOAT
        return self.activations if self.kv == ir.DataType.INT8 else self.kv

    def cache(self, layer: str) -> ir.DataType:
        """The type of keys and values that are kept of the layer with a prefix."""
        return self.kv if self.kv == ir.DataType.INT8 else self.attention(layer)

    @property
    def angles(self) -> ir.DataType:
        """The type in which cosines and sines are stored: that of the finest attention."""
        coarse = self.activations if self.kv == ir.DataType.INT8 else self.kv
        return ir.DataType.FLOAT if self.float32 else coarse


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight to multiply by, `[in, out]`, or in blocks when it has scales: `[out, blocks, bytes]`."""

    values: ir.TensorProtocol
    in_features: int
    out_features: int
    scales: ir.TensorProtocol | None = None
    bits: int = 0
    block_size: int = 0


class OnnxWeights(Protocol):
    """Gives weights by checkpoint name; several names are stacked along the outputs."""

    def vector(self, *names: str) -> ir.TensorProtocol:
        """Norm weights or biases, in the type of activations."""

    def matrix(self, name: str) -> Matrix:
        """The weights of a linear layer."""

    def matrices(self, *names: str) -> Sequence[Matrix]:
        """Weights of linear layers that read the same: neighbours that are stored in one format are one matrix."""

    def embedding(self, name: str) -> Matrix:
        """The embedding `[vocab, E]`; in blocks it is INT4."""

    def draft_head(self) -> tuple[Matrix, ir.TensorProtocol]:
        """The rows of lm_head that drafts are chosen from, and their token ids `[R]`."""

    def rope(self) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
        """Cosines and sines `[max_position_embeddings, D / 2]`."""

    def kv_scales(self, layer: int) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
        """The values of one step of an INT8 cache, for keys and for values: `[K * D]` float32."""


class Block:
    """One graph being made: its tape, its weights and what every layer needs."""

    def __init__(self, config: MimoConfig, weights: OnnxWeights, compute: Compute, tape: Tape | None = None) -> None:
        """Begin a graph, recorded on ``tape`` or a new one."""
        self.config, self.weights, self.compute = config, weights, compute
        self.tape = Tape() if tape is None else tape
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._rope: dict[ir.DataType, list[ir.Value]] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """A graph input."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.inputs.append(value)
        return value

    def output(self, name: str, value: ir.Value, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        """Make a value a graph output."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.outputs.append(value)

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """A weight, made once for all that use it."""
        name = str(tensor.name)
        if name not in self._initializers:
            self._initializers[name] = self.tape.initializer(tensor)
        return self._initializers[name]

    def integers(self, name: str, values: Sequence[int] | int, dtype: type[np.signedinteger] = np.int64) -> ir.Value:
        """A constant, made once for all that use it."""
        return self.initializer(ir.tensor(np.array(values, dtype), name=name))

    def default(self, name: str, values: Sequence[int]) -> ir.Value:
        """An input that may be left out: an initializer that callers can override."""
        value = self.integers(name, values)
        self.inputs.append(value)
        return value

    def cast(self, x: ir.Value, source: ir.DataType, target: ir.DataType) -> ir.Value:
        """The value in another dtype."""
        return x if source == target else self.tape.op("Cast", [x], {"to": target.value})

    def rope(self, dtype: ir.DataType) -> list[ir.Value]:
        """Cosines and sines in a type of attention, made once for all layers."""
        if dtype not in self._rope:
            tables = self.weights.rope()
            self._rope[dtype] = [self.cast(self.initializer(each), each.dtype, dtype) for each in tables]
        return self._rope[dtype]

    def sinks(self, dtype: ir.DataType) -> ir.Value | None:
        """The heads' sinks in a type of attention, made once for all layers; None without ``Compute.sinks``."""
        if not self.compute.sinks:
            return None
        name = "sinks" if dtype == self.compute.activations else f"sinks.{dtype.name}"
        values = np.full(self.config.num_attention_heads, SINKS[dtype], dtype.numpy())
        return self.initializer(ir.tensor(values, name=name))

    def model(self, name: str) -> ir.Model:
        """The finished graph."""
        graph = ir.Graph(
            self.inputs, self.outputs, nodes=self.tape.nodes, initializers=self.tape.initializers,
            opset_imports=OPSETS, name=name,
        )  # fmt: skip
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="mimo-mobile")


def trunk(config: MimoConfig, weights: OnnxWeights, compute: Compute) -> ir.Model:
    """The trunk: input_ids → logits `[B, T, V]`, hidden_states `[B, T, E]` as its MTP layer wants them, present KV."""
    block = Block(config, weights, compute)
    ids = block.input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
    lengths = _lengths(block)
    x, skip = embed(block, ids), None
    for layer in range(config.num_hidden_layers):
        x, skip = decoder_layer(block, f"model.layers.{layer}.", layer, x, skip, lengths)
    normed, hidden = norm(block, "model.norm.weight", x, skip)
    logits(block, normed, weights.matrix("lm_head.weight"))
    _hidden_output(block, "hidden_states", hidden if config.mtp_hidden_state == "pre_norm" else normed)
    block.outputs.sort(key=lambda value: str(value.name).startswith("present"))
    return block.model("mimo_trunk")


def mtp(config: MimoConfig, weights: OnnxWeights, compute: Compute, layer: int = 0) -> ir.Model:
    """An MTP layer: hidden_states of t and input_ids of t + 1 → logits of t + 2 `[B, T, R]`, present KV.

    The logits are those of the R tokens that the output draft_ids names. hidden_states_out `[B, T, E]` can take the
    hidden state's place for one more draft. A row stands at the position of its hidden state, which is the first half
    of what input_proj reads. Source: modeling_mimo.py, MiMoMTPLayers.
    """
    block, prefix = Block(config, weights, compute), f"model.mtp_layers.{layer}."
    ids = block.input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
    shape: list[int | str] = ["batch_size", "sequence_length", config.hidden_size]
    hidden = block.input("hidden_states", compute.activations, shape)
    lengths = _lengths(block)
    first, _ = norm(block, prefix + "hidden_layernorm.weight", hidden)
    second, _ = norm(block, prefix + "token_layernorm.weight", embed(block, ids))
    joined = block.tape.op("Concat", [first, second], {"axis": -1})
    x = linear(block, joined, weights.matrix(prefix + "input_proj.weight"))
    x, skip = decoder_layer(block, prefix, 0, x, None, lengths)
    normed, _ = norm(block, prefix + "final_layernorm.weight", x, skip)
    head, tokens = weights.draft_head()
    logits(block, normed, head)
    _hidden_output(block, "hidden_states_out", normed)
    named = block.tape.op("Identity", [block.initializer(tokens)])
    block.output("draft_ids", named, ir.DataType.INT64, [head.out_features])
    block.outputs.sort(key=lambda value: str(value.name).startswith("present"))
    return block.model(f"mimo_mtp_{layer}")


def embed(block: Block, ids: ir.Value) -> ir.Value:
    """Rows of the embedding, `[B, T, E]`."""
    table = block.weights.embedding("model.embed_tokens.weight")
    values = block.initializer(table.values)
    if table.scales is None:
        rows = block.tape.op("Gather", [values, ids])
        return block.cast(rows, table.values.dtype, block.compute.activations)
    attributes = {"block_size": table.block_size, "gather_axis": 0, "quantize_axis": 1}
    inputs = [values, ids, block.initializer(table.scales)]
    return block.tape.op("GatherBlockQuantized", inputs, attributes, domain=MICROSOFT)


def norm(block: Block, name: str, x: ir.Value, skip: ir.Value | None = None) -> tuple[ir.Value, ir.Value]:
    """(RMS norm of x + skip, x + skip)."""
    weight = block.initializer(block.weights.vector(name))
    epsilon = {"epsilon": block.config.rms_norm_eps}
    if skip is None:
        attributes = epsilon | {"axis": -1, "stash_type": 1}
        return block.tape.op("SimplifiedLayerNormalization", [x, weight], attributes), x
    outputs = [ir.Value(), ir.Value(name=""), ir.Value(name=""), ir.Value()]
    inputs = [x, skip, weight]
    block.tape.op_multi_out("SkipSimplifiedLayerNormalization", inputs, epsilon, outputs=outputs, domain=MICROSOFT)
    return outputs[0], outputs[3]


def linear(block: Block, x: ir.Value, weight: Matrix) -> ir.Value:
    """Input `[B, T, in]` times a weight: `[B, T, out]`."""
    values = block.initializer(weight.values)
    if weight.scales is None:
        return block.tape.op("MatMul", [x, values])
    attributes = {
        "K": weight.in_features,
        "N": weight.out_features,
        "bits": weight.bits,
        "block_size": weight.block_size,
        "accuracy_level": ACCURACY_LEVEL,
    }
    return block.tape.op("MatMulNBits", [x, values, block.initializer(weight.scales)], attributes, domain=MICROSOFT)


def linears(block: Block, x: ir.Value, *names: str) -> ir.Value:
    """What several linear layers make of the same input, one after the other: `[B, T, sum of out]`."""
    made = [linear(block, x, each) for each in block.weights.matrices(*names)]
    return made[0] if len(made) == 1 else block.tape.op("Concat", made, {"axis": -1})


def decoder_layer(
    block: Block, prefix: str, index: int, x: ir.Value, skip: ir.Value | None, lengths: tuple[ir.Value, ir.Value]
) -> tuple[ir.Value, ir.Value]:
    """A layer; the residual stream is kept as two summands, which the next norm adds."""
    normed, residual = norm(block, prefix + "input_layernorm.weight", x, skip)
    attended = attention(block, prefix, index, normed, lengths)
    normed, residual = norm(block, prefix + "post_attention_layernorm.weight", attended, residual)
    return mlp(block, prefix + "mlp.", normed), residual


def attention(block: Block, layer: str, index: int, x: ir.Value, lengths: tuple[ir.Value, ir.Value]) -> ir.Value:
    """Grouped-query attention with rotary embedding over past and new tokens, `[B, T, E]`; ``layer`` is its prefix."""
    product = projected(block, layer, x)
    bias = block.initializer(block.weights.vector(*(f"{layer}self_attn.{name}_proj.bias" for name in "qkv")))
    return attend(block, layer, index, [block.tape.op("Add", [product, bias])], lengths)


def projected(block: Block, layer: str, x: ir.Value) -> ir.Value:
    """Queries, keys and values of a layer side by side, before biases: `[B, T, (H + 2 * K) * D]`."""
    return linears(block, x, *(f"{layer}self_attn.{name}_proj.weight" for name in "qkv"))


def attend(
    block: Block, layer: str, index: int, heads: Sequence[ir.Value], lengths: tuple[ir.Value, ir.Value]
) -> ir.Value:
    """Attention, `[B, T, E]`, on queries, keys and values: three values, or one in which they stand side by side."""
    config, compute = block.config, block.compute
    kept, dtype = compute.cache(layer), compute.attention(layer)
    cache: list[int | str] = ["batch_size", config.num_key_value_heads, "past_sequence_length", config.head_dim]
    past = [block.input(f"past_key_values.{index}.{kind}", kept, cache) for kind in ("key", "value")]
    read = [block.cast(each, compute.activations, dtype) for each in heads]
    attributes: dict[str, int | float | str] = {
        "num_heads": config.num_attention_heads,
        "kv_num_heads": config.num_key_value_heads,
        "scale": config.head_dim**-0.5,
        "do_rotary": 1,
        "rotary_interleaved": 0,
    }
    inputs = [*read, *[None] * (3 - len(read)), *past, *lengths, *block.rope(dtype)]
    sinks = block.sinks(dtype)
    if kept == ir.DataType.INT8:
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        inputs += [None, None, sinks, *(block.initializer(each) for each in block.weights.kv_scales(index))]
    elif sinks is not None:
        inputs += [None, None, sinks]
    if sinks is not None:
        attributes["smooth_softmax"] = 1
    mixed, key, value = block.tape.op_multi_out(
        "GroupQueryAttention", inputs, attributes, num_outputs=3, domain=MICROSOFT
    )
    cache = ["batch_size", config.num_key_value_heads, "total_sequence_length", config.head_dim]
    block.output(f"present.{index}.key", key, kept, cache)
    block.output(f"present.{index}.value", value, kept, cache)
    mixed = block.cast(mixed, dtype, compute.activations)
    return linear(block, mixed, block.weights.matrix(layer + "self_attn.o_proj.weight"))


def mlp(block: Block, prefix: str, x: ir.Value) -> ir.Value:
    """SwiGLU, `[B, T, E]`; gate and up are one product."""
    both = linears(block, x, prefix + "gate_proj.weight", prefix + "up_proj.weight")
    gate, up = block.tape.op_multi_out("Split", [both], {"axis": -1, "num_outputs": 2}, num_outputs=2)
    silu = block.tape.op("Mul", [gate, block.tape.op("Sigmoid", [gate])])
    return linear(block, block.tape.op("Mul", [silu, up]), block.weights.matrix(prefix + "down_proj.weight"))


def logits(block: Block, x: ir.Value, head: Matrix) -> None:
    """The output ``logits`` `[B, T, V]`, or only its rows from ``logits_start`` on when that is given.

    The head is 9 % of MiMo-7B's work, and a prompt needs the logits of its last row only.
    """
    shape: list[int | str] = ["batch_size", "logits_length", head.out_features]
    start = block.default("logits_start", [0])
    end, axis = block.integers("last_row", [np.iinfo(np.int64).max]), block.integers("rows_axis", [1])
    x = block.tape.op("Slice", [x, start, end, axis])
    value = linear(block, x, head)
    block.output("logits", value, block.compute.activations, shape)


def _hidden_output(block: Block, name: str, value: ir.Value) -> None:
    shape: list[int | str] = ["batch_size", "sequence_length", block.config.hidden_size]
    block.output(name, value, block.compute.activations, shape)


def _lengths(block: Block) -> tuple[ir.Value, ir.Value]:
    """(seqlens_k `[B]`: all tokens less one; total_sequence_length) as int32, from attention_mask."""
    mask = block.input("attention_mask", ir.DataType.INT64, ["batch_size", "total_sequence_length"])
    summed = block.tape.op("ReduceSum", [mask, block.integers("axis_1", [1])], {"keepdims": 0})
    seqlens = block.tape.op("Sub", [summed, block.integers("one", 1)])
    shape = block.tape.op("Shape", [mask])
    total = block.tape.op("Gather", [shape, block.integers("index_1", 1)])
    int32 = {"to": ir.DataType.INT32.value}
    return block.tape.op("Cast", [seqlens], int32), block.tape.op("Cast", [total], int32)
