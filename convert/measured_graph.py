"""The layers of MiMo one by one, in float32, each giving what is computed inside: the graphs that calibration runs.

The blocks are ``onnx_graph``'s. Shapes: B batch, T tokens, E hidden.
"""

from __future__ import annotations

import onnx_ir as ir

from mimo_mobile.convert.onnx_graph import Block, Compute, OnnxWeights, attention, embed, linear, mlp, norm
from mimo_mobile.mimo7b import POST_NORM, MimoConfig

FLOAT = ir.DataType.FLOAT
FLOAT32 = Compute(FLOAT, FLOAT)

RESIDUALS, NORMS = ("x", "attended", "middle", "added", "x_out"), ("normed", "normed_again")
"""The outputs of ``layer`` that are the residual stream or are added to it, and those that norms give. ``x`` is its
input."""


def embedding(config: MimoConfig, weights: OnnxWeights) -> ir.Model:
    """Rows of the embedding: input_ids `[B, T]` → x `[B, T, E]`."""
    block = Block(config, weights, FLOAT32)
    _give(block, x=embed(block, block.input("input_ids", ir.DataType.INT64, ["batch", "tokens"])))
    return block.model("mimo_embedding")


def layer(config: MimoConfig, weights: OnnxWeights, prefix: str) -> ir.Model:
    """The layer whose tensors begin with ``prefix``: x `[B, T, E]` → x_out, present KV and all that is measured."""
    block = Block(config, weights, FLOAT32)
    x = block.input("x", FLOAT, ["batch", "tokens", config.hidden_size])
    lengths = block.input("seqlens_k", ir.DataType.INT32, ["batch"]), block.input("total", ir.DataType.INT32, [])
    normed, _ = norm(block, prefix + "input_layernorm.weight", x)
    attended = attention(block, prefix, 0, normed, lengths)
    middle = block.tape.op("Add", [x, attended])
    normed_again, _ = norm(block, prefix + "post_attention_layernorm.weight", middle)
    added = mlp(block, prefix + "mlp.", normed_again)
    x_out = block.tape.op("Add", [middle, added])
    nodes = {node.op_type: node for node in block.tape.nodes}  # of Mul the last one, gate times up
    gate, up = nodes["Split"].outputs
    _give(
        block, qkv=nodes["GroupQueryAttention"].inputs[0], gate=gate, up=up, product=nodes["Mul"].outputs[0],
        attended=attended, middle=middle, added=added, x_out=x_out, normed=normed, normed_again=normed_again,
    )  # fmt: skip
    return block.model("mimo_layer")


def mtp_start(config: MimoConfig, weights: OnnxWeights, prefix: str) -> ir.Model:
    """What an MTP layer does first: hidden_states and x, the embedding of the next token, `[B, T, E]` → x_out."""
    block = Block(config, weights, FLOAT32)
    shape: list[int | str] = ["batch", "tokens", config.hidden_size]
    hidden, x = (block.input(name, FLOAT, shape) for name in ("hidden_states", "x"))
    if config.mtp_hidden_state == POST_NORM:
        hidden, _ = norm(block, "model.norm.weight", hidden)
    first, _ = norm(block, prefix + "hidden_layernorm.weight", hidden)
    second, _ = norm(block, prefix + "token_layernorm.weight", x)
    joined = block.tape.op("Concat", [first, second], {"axis": -1})
    _give(block, x_out=linear(block, joined, weights.matrix(prefix + "input_proj.weight")))
    return block.model("mimo_mtp_start")


def _give(block: Block, **values: ir.Value) -> None:
    for name, value in values.items():
        block.output(name, value, FLOAT, ["batch", "tokens", f"{name}_size"])
