"""Tensor names: Hugging Face's → llama.cpp's; each is mapped, dropped with a reason, or an error.

This module knows names only: no shapes, no files, no formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mimo_mobile.errors import UnknownTensorError

Part = Literal["trunk", "mtp"]
"""The trunk is Qwen2's decoder; the MTP layers draft the token after the next."""

Layout = Literal["trunk", "mtp", "whole"]
"""What one GGUF file holds. ``mtp`` is read together with the trunk, whose embedding and head its layers share."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A tensor that is written.

    Attributes:
        name: The tensor's name in GGUF.
        part: The part of the model that it belongs to.
        swap_halves: Whether the two halves of its columns change places.
    """

    name: str
    part: Part
    swap_halves: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """A tensor that is left out on purpose."""

    reason: str


_BLOCK = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}

# https://github.com/ggml-org/llama.cpp/blob/0c1e57098/gguf-py/gguf/tensor_mapping.py
TRUNK_NAMES: dict[str, str] = {
    "model.embed_tokens.weight": "token_embd.weight",
    **{f"model.layers.{{}}.{name}": f"blk.{{}}.{target}" for name, target in _BLOCK.items()},
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
"""Hugging Face's names and the GGUF names that they become; ``{}`` stands for the layer's number."""

INPUT_PROJ = "model.mtp_layers.{}.input_proj.weight"
"""MiMo multiplies it by [hidden, embedding], llama.cpp by [embedding, hidden]: its column halves are swapped."""

MTP_NAMES: dict[str, str] = {
    "model.mtp_layers.{}.token_layernorm.weight": "blk.{}.nextn.enorm.weight",
    "model.mtp_layers.{}.hidden_layernorm.weight": "blk.{}.nextn.hnorm.weight",
    INPUT_PROJ: "blk.{}.nextn.eh_proj.weight",
    **{f"model.mtp_layers.{{}}.{name}": f"blk.{{}}.{target}" for name, target in _BLOCK.items()},
    "model.mtp_layers.{}.final_layernorm.weight": "blk.{}.nextn.shared_head_norm.weight",
}
"""The same for MTP layers, which GGUF numbers on from the trunk's layers."""

DROPPED_NAMES: dict[str, str] = {
    "model.rotary_emb.inv_freq": "a buffer of old checkpoints, computed from rope_theta",
    "model.layers.{}.self_attn.rotary_emb.inv_freq": "a buffer of old checkpoints, computed from rope_theta",
    "model.mtp_layers.{}.self_attn.rotary_emb.inv_freq": "a buffer of old checkpoints, computed from rope_theta",
}
"""The tensors that are left out, each with the reason."""

MTP_TENSOR = re.compile(r"model\.mtp_layers\.(\d+)\.", re.ASCII)
"""How the names of MTP layers' tensors begin; the group is the layer's number."""

_LAYER = re.compile(r"^(model\.(?:mtp_)?layers\.)(\d+)(\..+)$", re.ASCII)


def map_tensor(name: str, num_hidden_layers: int) -> Mapped | Dropped:
    """What becomes of a checkpoint's tensor.

    >>> map_tensor("model.mtp_layers.0.token_layernorm.weight", 36).name
    'blk.36.nextn.enorm.weight'

    Raises:
        UnknownTensorError: No table has the name.
    """
    match = _LAYER.match(name)
    generic, layer = (f"{match[1]}{{}}{match[3]}", int(match[2])) if match else (name, 0)
    if match and str(layer) != match[2]:
        raise UnknownTensorError(f"tensor {name}: layer number {match[2]} found, {layer} expected")
    if generic in TRUNK_NAMES:
        return Mapped(TRUNK_NAMES[generic].format(layer), "trunk")
    if generic in MTP_NAMES:
        return Mapped(MTP_NAMES[generic].format(num_hidden_layers + layer), "mtp", generic == INPUT_PROJ)
    if generic in DROPPED_NAMES:
        return Dropped(DROPPED_NAMES[generic])
    raise UnknownTensorError(
        f"tensor {name}: MiMo-7B has none of this name; a checkpoint of another architecture or a training state?"
    )


def map_tensors(names: Iterable[str], num_hidden_layers: int, layout: Layout) -> dict[str, Mapped]:
    """The tensors of one file, by their names in the checkpoint and in its order.

    Raises:
        UnknownTensorError: No table has one of the names, or two names become the same GGUF name.
    """
    mapped: dict[str, Mapped] = {}
    sources: dict[str, str] = {}
    for name in names:
        target = map_tensor(name, num_hidden_layers)
        if isinstance(target, Dropped) or layout not in ("whole", target.part):
            continue
        if target.name in sources:
            raise UnknownTensorError(f"tensors {sources[target.name]} and {name} both become {target.name}")
        sources[target.name] = name
        mapped[name] = target
    return mapped
