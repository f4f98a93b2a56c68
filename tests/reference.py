"""MiMo's forward pass in plain numpy: the oracle that shares no code with the package.

Trunk: Qwen2 (transformers' modeling_qwen2.py). MTP layer: modeling_mimo.py, MiMoMTPLayers. Slow and float64 on
purpose. Shapes: T tokens, H query heads, K key/value heads, D head_dim, E hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.mimo7b import PRE_NORM, MimoConfig

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TrunkOutput:
    """What the trunk gives for T tokens.

    Attributes:
        hidden: [T, E], the residual stream before model.norm.
        normed: [T, E], after model.norm.
        logits: [T, V].
    """

    hidden: Array
    normed: Array
    logits: Array


def load_weights(checkpoint: Checkpoint) -> dict[str, Array]:
    """Every weight of a checkpoint as float64."""
    return {name: view.float32().astype(np.float64) for name, view in checkpoint.tensors.items()}


def trunk(weights: Weights, config: MimoConfig, ids: Sequence[int]) -> TrunkOutput:
    """The trunk over all of ``ids`` at once, positions 0 to T − 1."""
    hidden = np.asarray(weights["model.embed_tokens.weight"], np.float64)[np.asarray(ids)]
    positions = np.arange(len(ids))
    for layer in range(config.num_hidden_layers):
        hidden = _block(weights, config, f"model.layers.{layer}.", hidden, positions)
    normed = rms_norm(hidden, weights["model.norm.weight"], config.rms_norm_eps)
    return TrunkOutput(hidden, normed, normed @ weights["lm_head.weight"].T)


def mtp(
    weights: Weights,
    config: MimoConfig,
    ids: Sequence[int],
    next_id: int,
    *,
    layer: int = 0,
    hidden_state: str = PRE_NORM,
) -> Array:
    """The MTP logits [T, V]: row t reads ids[: t + 1] and the token after it, and predicts the one after that.

    Args:
        weights: By name.
        config: The configuration.
        ids: The T tokens that the trunk has read.
        next_id: The token after them, which the last row reads.
        layer: Which MTP layer.
        hidden_state: The trunk's hidden state before or after model.norm.
    """
    output = trunk(weights, config, ids)
    hidden = output.hidden if hidden_state == "pre_norm" else output.normed
    return mtp_layer(weights, config, hidden, [*ids[1:], next_id], layer=layer)


def mtp_layer(weights: Weights, config: MimoConfig, hidden: Array, next_ids: Sequence[int], *, layer: int = 0) -> Array:
    """The MTP logits [T, V] from hidden states [T, E] and the T next tokens; row t stands at position t."""
    prefix, eps = f"model.mtp_layers.{layer}.", config.rms_norm_eps
    embedded = np.asarray(weights["model.embed_tokens.weight"], np.float64)[np.asarray(next_ids)]
    first = rms_norm(hidden, weights[prefix + "hidden_layernorm.weight"], eps)
    second = rms_norm(embedded, weights[prefix + "token_layernorm.weight"], eps)
    joined = np.concatenate([first, second], axis=-1) @ weights[prefix + "input_proj.weight"].T
    out = _block(weights, config, prefix, joined, np.arange(len(next_ids)))
    return rms_norm(out, weights[prefix + "final_layernorm.weight"], eps) @ weights["lm_head.weight"].T


def greedy(weights: Weights, config: MimoConfig, ids: Sequence[int], count: int, size: int) -> list[int]:
    """The ``count`` most likely tokens below ``size`` after ``ids``, each computed from scratch."""
    made = list(ids)
    for _ in range(count):
        made.append(int(trunk(weights, config, made).logits[-1, :size].argmax()))
    return made[len(ids) :]


def rms_norm(x: Array, weight: NDArray[Any], eps: float) -> Array:
    """``x / rms(x) * weight`` over the last axis."""
    normed: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight
    return normed


def rotate(x: Array, positions: NDArray[np.int64], theta: float) -> Array:
    """Rotary embedding in rotate-half order; ``x`` is [T, heads, D]."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def _block(weights: Weights, config: MimoConfig, prefix: str, x: Array, positions: NDArray[np.int64]) -> Array:
    eps = config.rms_norm_eps
    x = x + _attention(weights, config, prefix, rms_norm(x, weights[prefix + "input_layernorm.weight"], eps), positions)
    inner = rms_norm(x, weights[prefix + "post_attention_layernorm.weight"], eps)
    gate = inner @ weights[prefix + "mlp.gate_proj.weight"].T
    up = inner @ weights[prefix + "mlp.up_proj.weight"].T
    return x + (gate / (1 + np.exp(-gate)) * up) @ weights[prefix + "mlp.down_proj.weight"].T


def _attention(weights: Weights, config: MimoConfig, prefix: str, x: Array, positions: NDArray[np.int64]) -> Array:
    count, dim = len(x), config.head_dim

    def project(which: str, heads: int) -> Array:
        name = f"{prefix}self_attn.{which}_proj."
        out: Array = (x @ weights[name + "weight"].T + weights[name + "bias"]).reshape(count, heads, dim)
        return out

    query = rotate(project("q", config.num_attention_heads), positions, config.rope_theta)
    key = rotate(project("k", config.num_key_value_heads), positions, config.rope_theta)
    value = project("v", config.num_key_value_heads)
    group = config.num_attention_heads // config.num_key_value_heads
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
    scores = np.einsum("thd,shd->hts", query, key) / np.sqrt(dim)
    scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hts,shd->thd", scores, value).reshape(count, -1)
    out: Array = mixed @ weights[prefix + "self_attn.o_proj.weight"].T
    return out
