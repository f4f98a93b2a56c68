"""MiMo in pieces of fixed shapes, as NPUs want them: parts of the trunk, the head, the MTP layer and its head.

The blocks are ``onnx_graph``'s, with four differences: the window of T new tokens and the cache of C tokens are fixed,
norms are not fused with additions (QNN does not know that form), the length so far is an input of its own, and rows of
the embedding come from a graph for the CPU, since no NPU gathers from int4 blocks. With a ``tape`` of ``qdq_graph`` the
pieces have quantized activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from mimo_mobile.convert.npu.centered_keys import NOTHING, CenteredKeys, Centers
from mimo_mobile.convert.npu.qdq_graph import ActivationTape
from mimo_mobile.convert.onnx_graph import (
    Block,
    Compute,
    OnnxWeights,
    attend,
    attention,
    embed,
    linear,
    mlp,
    norm,
    projected,
)
from mimo_mobile.mimo7b import POST_NORM, MimoConfig


@dataclass(frozen=True, slots=True)
class Window:
    """The fixed sizes of a graph.

    Attributes:
        tokens: How many new tokens one run takes.
        context: How many tokens the KV cache holds.
    """

    tokens: int
    context: int


def embedding(config: MimoConfig, weights: OnnxWeights, compute: Compute) -> ir.Model:
    """Rows of the embedding, for the CPU: input_ids `[1, T]` → x `[1, T, E]`, any T."""
    block = Block(config, weights, compute)
    rows = embed(block, block.input("input_ids", ir.DataType.INT64, [1, "sequence_length"]))
    block.output("x", rows, compute.activations, [1, "sequence_length", config.hidden_size])
    return block.model("mimo_embedding")


def layers(
    config: MimoConfig,
    weights: OnnxWeights,
    compute: Compute,
    which: range,
    window: Window,
    tape: Tape | None = None,
    centers: Centers = NOTHING,
) -> ir.Model:
    """Layers ``which`` of the trunk: x `[1, T, E]` and seqlens_k `[1]`, all tokens less one → x_out `[1, T, E]`, KV."""
    block = Block(config, weights, compute, tape)
    shape = [1, window.tokens, config.hidden_size]
    x = block.input("x", compute.activations, shape)
    lengths = _lengths(block, window)
    keys = CenteredKeys(block, centers, lengths[0], window.tokens, window.context)
    for layer in which:
        x = _layer(block, f"model.layers.{layer}.", layer, x, lengths, keys)
    block.output("x_out", _settled(block, x), compute.activations, shape)
    return _frozen(block, f"mimo_layers_{which.start}_{which.stop - 1}", window)


def head(config: MimoConfig, weights: OnnxWeights, compute: Compute, tokens: int, tape: Tape | None = None) -> ir.Model:
    """The last norm and lm_head: x `[1, T, E]` → logits `[1, T, V]`."""
    block = Block(config, weights, compute, tape)
    x = block.input("x", compute.activations, [1, tokens, config.hidden_size])
    normed, _ = norm(block, "model.norm.weight", x)
    matrix = weights.matrix("lm_head.weight")
    shape = [1, tokens, matrix.out_features]
    block.output("logits", _settled(block, linear(block, normed, matrix)), compute.activations, shape)
    return block.model("mimo_head")


def mtp(
    config: MimoConfig,
    weights: OnnxWeights,
    compute: Compute,
    window: Window,
    tape: Tape | None = None,
    centers: Centers = NOTHING,
) -> ir.Model:
    """The MTP layer: hidden_states of t and x, the embedding of token t + 1, `[1, T, E]` → x_out `[1, T, E]`, KV.

    hidden_states are the x_out of the trunk's last part, before its norm. For a layer that reads the state after the
    norm, this piece holds the norm.
    """
    block, prefix = Block(config, weights, compute, tape), "model.mtp_layers.0."
    shape = [1, window.tokens, config.hidden_size]
    x, hidden = (block.input(name, compute.activations, shape) for name in ("x", "hidden_states"))
    lengths = _lengths(block, window)
    if config.mtp_hidden_state == POST_NORM:
        hidden, _ = norm(block, "model.norm.weight", hidden)
    first, _ = norm(block, prefix + "hidden_layernorm.weight", hidden)
    second, _ = norm(block, prefix + "token_layernorm.weight", x)
    joined = block.tape.op("Concat", [first, second], {"axis": -1})
    x = linear(block, joined, weights.matrix(prefix + "input_proj.weight"))
    keys = CenteredKeys(block, centers, lengths[0], window.tokens, window.context)
    x = _layer(block, prefix, 0, x, lengths, keys)
    normed, _ = norm(block, prefix + "final_layernorm.weight", x)
    block.output("x_out", _settled(block, normed), compute.activations, shape)
    return _frozen(block, "mimo_mtp", window)


def draft_head(
    config: MimoConfig, weights: OnnxWeights, compute: Compute, tokens: int, tape: Tape | None = None
) -> ir.Model:
    """Logits of the tokens that may be drafted: x `[1, T, E]` → logits `[1, T, R]`."""
    block = Block(config, weights, compute, tape)
    x = block.input("x", compute.activations, [1, tokens, config.hidden_size])
    matrix, _ = weights.draft_head()
    shape = [1, tokens, matrix.out_features]
    block.output("logits", _settled(block, linear(block, x, matrix)), compute.activations, shape)
    return block.model("mimo_draft_head")


def _settled(block: Block, value: ir.Value) -> ir.Value:
    return block.tape.settled(value) if isinstance(block.tape, ActivationTape) else value


def _layer(
    block: Block, prefix: str, index: int, x: ir.Value, lengths: tuple[ir.Value, ir.Value], keys: CenteredKeys
) -> ir.Value:
    normed, _ = norm(block, prefix + "input_layernorm.weight", x)
    if prefix in keys:
        heads = keys.heads(prefix, _settled(block, projected(block, prefix, normed)))
        attended = attend(block, prefix, index, heads, lengths)
    else:
        attended = attention(block, prefix, index, normed, lengths)
    x = block.tape.op("Add", [x, attended])
    normed, _ = norm(block, prefix + "post_attention_layernorm.weight", x)
    return block.tape.op("Add", [x, mlp(block, prefix + "mlp.", normed)])


def _lengths(block: Block, window: Window) -> tuple[ir.Value, ir.Value]:
    """The input seqlens_k, and the cache's length, which GroupQueryAttention calls total_sequence_length."""
    seqlens = block.input("seqlens_k", ir.DataType.INT32, [1])
    return seqlens, block.integers("context_length", window.context, np.int32)


def _frozen(block: Block, name: str, window: Window) -> ir.Model:
    """The finished graph with numbers for what ``attention`` leaves open."""
    sizes = {"batch_size": 1, "past_sequence_length": window.context, "total_sequence_length": window.context}
    values: Sequence[ir.Value] = [*block.inputs, *block.outputs]
    for value in values:
        assert value.shape is not None
        value.shape = ir.Shape([sizes.get(str(size), size) for size in value.shape.dims])
    block.outputs.sort(key=lambda value: str(value.name).startswith("present"))
    return block.model(name)
