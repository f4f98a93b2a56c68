"""MiMo in float32 numpy, with the weights of one layer in memory at a time: for calibration and as the reference.

All texts pass through a layer before the next one is read, so that a checkpoint larger than the memory is read once. Of
a single text's layer one matrix at a time is in memory.
This module knows the architecture and where tensors are asked for; it knows no files and no formats.
Shapes: T tokens, H query heads, K key/value heads, D head_dim, E hidden, F ffn, V vocabulary.

Source of the MTP layer: https://huggingface.co/XiaomiMiMo/MiMo-7B-RL (modeling_mimo.py, MiMoMTPLayers)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.mimo7b import POST_NORM, MimoConfig
from mimo_mobile.progress import Progress, ProgressCallback, ignore

Array = NDArray[np.float32]

HEAD_WEIGHTS = 1 << 24
"""So many weights of the head are in memory at a time."""


class Rows(Protocol):
    """A tensor that is read a few rows at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""

    def float32(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows ``start`` to ``stop`` as a float32 copy."""


Tensors = Mapping[str, Rows]
"""Tensors by the checkpoint's names."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one layer computed for a text of T tokens.

    Attributes:
        x: What it reads `[T, E]`.
        joined: What an MTP layer's input_proj reads `[T, 2 * E]`; None in the trunk.
        normed: What query, key and value projections read `[T, E]`.
        query: Queries before rotary embedding `[T, H, D]`.
        key: Keys before rotary embedding `[T, K, D]`.
        value: Values `[T, K, D]`.
        turned_key: Keys after rotary embedding `[T, K, D]`.
        query_key: The largest |q·k| before scaling, of any two tokens.
        mixed: What o_proj reads `[T, H * D]`.
        attended: What attention adds to ``x`` `[T, E]`.
        middle: The sum of both `[T, E]`.
        normed_again: What gate and up projections read `[T, E]`.
        gate: What gate_proj gives `[T, F]`.
        up: What up_proj gives `[T, F]`.
        product: What down_proj reads `[T, F]`.
        added: What the MLP adds `[T, E]`.
        x_out: The layer's result `[T, E]`.
    """

    x: Array
    joined: Array | None
    normed: Array
    query: Array
    key: Array
    value: Array
    turned_key: Array
    query_key: float
    mixed: Array
    attended: Array
    middle: Array
    normed_again: Array
    gate: Array
    up: Array
    product: Array
    added: Array
    x_out: Array

    def inputs(self) -> dict[str, Array]:
        """What each matrix of the layer reads `[T, columns]`, by the end of the tensor's name."""
        made = {f"self_attn.{which}_proj.weight": self.normed for which in "qkv"}
        made |= {"self_attn.o_proj.weight": self.mixed, "mlp.down_proj.weight": self.product}
        made |= {f"mlp.{which}_proj.weight": self.normed_again for which in ("gate", "up")}
        return made if self.joined is None else made | {"input_proj.weight": self.joined}


Observe = Callable[[str, Trace], None]
"""Sees what a layer, e.g. ``layers.3`` or ``mtp_layers.0``, computed for one text."""

Reached = Callable[[int, Sequence[Array]], None]
"""Sees how many layers are done, and the states `[T, E]` that the next one reads, for each text."""


def run(
    config: MimoConfig,
    tensors: Tensors,
    texts: Sequence[Sequence[int]],
    observe: Observe | None = None,
    *,
    mtp: bool = False,
    stage: str = "run the layers",
    begun: tuple[int, Sequence[Array]] | None = None,
    reached: Reached | None = None,
    progress: ProgressCallback = ignore,
) -> list[Array]:
    """The trunk's residual stream `[T, E]` after the last layer, before the last norm, for each text.

    Args:
        config: The model's configuration.
        tensors: Its tensors.
        texts: Token ids. No text sees another.
        observe: Sees every layer for every text.
        mtp: Whether MTP layers are run, too, which only ``observe`` sees. Row t reads the trunk's state at t and the
            token at t + 1; the last row has none and reads its own token.
        stage: The name of this work in the progress records.
        begun: How many layers were done before, and what the next one reads; those are not run.
        reached: Told before the first layer and after each one how many are done, and what the next one reads.
        progress: Called after every layer.
    """
    embedded = [embed(tensors, ids) for ids in texts]
    first, reads = begun or (0, embedded)
    states = list(reads)
    mtp_layers = config.num_nextn_predict_layers if mtp else 0
    names = layer_names(config.num_hidden_layers, mtp_layers)
    if first:
        stage = f"{stage}, goes on at layer {first + 1} of {len(names)}"
    elif reached is not None:
        reached(0, states)
    for done, name in enumerate(names[first:], first + 1):
        weights: Mapping[str, Array] = OnDemand(tensors, name)
        if len(texts) > 1:
            weights = layer_weights(config, tensors, name)
        for number, text in enumerate(embedded):
            if name.startswith("mtp"):
                following = np.concatenate([text[1:], text[-1:]])
                trace = mtp_layer(config, weights, states[number], following, tensors["model.norm.weight"].float32())
            else:
                trace = layer(config, weights, states[number])
                states[number] = trace.x_out
            if observe is not None:
                observe(name, trace)
            del trace  # there is no room for those of two texts, nor for the weights of two layers
        del weights
        if reached is not None:
            reached(done, states)
        progress(Progress(stage, done, len(names), name, "layers"))
    return states


def layer_names(trunk: int, mtp: int) -> list[str]:
    """The names of layers in the order in which they are run, such as ``layers.3`` and ``mtp_layers.0``."""
    return [f"layers.{index}" for index in range(trunk)] + [f"mtp_layers.{index}" for index in range(mtp)]


def embed(tensors: Tensors, ids: Sequence[int]) -> Array:
    """Rows of the embedding `[T, E]`; each different one is read once."""
    chosen, places = np.unique(np.asarray(ids, np.int64), return_inverse=True)
    table = tensors["model.embed_tokens.weight"]
    rows = np.concatenate([table.float32(int(each), int(each) + 1) for each in chosen])
    made: Array = rows[places]
    return made


class OnDemand(dict[str, Array]):
    """The weights of a layer, read each time that one is asked for: a text asks for each once."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        """Read those of a layer, e.g. ``layers.3``."""
        super().__init__()
        self._tensors, self._prefix = tensors, f"model.{name}."

    def __missing__(self, end: str) -> Array:
        return self._tensors[self._prefix + end].float32()


def layer_weights(config: MimoConfig, tensors: Tensors, name: str) -> dict[str, Array]:
    """All float32 weights of a layer, e.g. ``layers.3``, by the ends of their names."""
    prefix = f"model.{name}."
    return {
        each.removeprefix(prefix): tensors[each].float32() for each in config.tensor_shapes() if each.startswith(prefix)
    }


@np.errstate(over="ignore", invalid="ignore")  # whoever observes sees whether numbers are finite
def layer(config: MimoConfig, weights: Mapping[str, Array], x: Array, joined: Array | None = None) -> Trace:
    """What a layer makes of a text's residual stream ``x`` `[T, E]`, whose first token stands at position 0."""
    eps = config.rms_norm_eps
    normed = rms_norm(x, weights["input_layernorm.weight"], eps)

    def project(which: str) -> Array:
        name = f"self_attn.{which}_proj."
        out: Array = (normed @ weights[name + "weight"].T + weights[name + "bias"]).reshape(len(x), -1, config.head_dim)
        return out

    query, key, value = (project(which) for which in "qkv")
    turned_key = rotate(key, config.rope_theta)
    mixed, query_key = _attend(rotate(query, config.rope_theta), turned_key, value)
    attended = mixed @ weights["self_attn.o_proj.weight"].T
    middle = x + attended
    normed_again = rms_norm(middle, weights["post_attention_layernorm.weight"], eps)
    gate, up = (normed_again @ weights[f"mlp.{which}_proj.weight"].T for which in ("gate", "up"))
    product = silu(gate) * up
    added = product @ weights["mlp.down_proj.weight"].T
    return Trace(
        x, joined, normed, query, key, value, turned_key, query_key, mixed, attended, middle, normed_again, gate, up,
        product, added, middle + added,
    )  # fmt: skip


def mtp_layer(config: MimoConfig, weights: Mapping[str, Array], hidden: Array, following: Array, norm: Array) -> Trace:
    """What an MTP layer makes of the trunk's states and the embedding of the tokens after, both `[T, E]`.

    ``norm`` `[E]` is the trunk's last norm, which a layer on states after it wants.
    """
    eps = config.rms_norm_eps
    if config.mtp_hidden_state == POST_NORM:
        hidden = rms_norm(hidden, norm, eps)
    first = rms_norm(hidden, weights["hidden_layernorm.weight"], eps)
    second = rms_norm(following, weights["token_layernorm.weight"], eps)
    joined = np.concatenate([first, second], axis=-1)
    return layer(config, weights, joined @ weights["input_proj.weight"].T, joined)


def logits(tensors: Tensors, normed: Array) -> Iterator[tuple[int, Array]]:
    """The logits of normed states `[T, E]`, some rows of the head at a time: the first token's id and `[T, rows]`."""
    head = tensors["lm_head.weight"]
    step = max(1, HEAD_WEIGHTS // head.shape[1])
    for start in range(0, head.shape[0], step):
        yield start, normed @ head.float32(start, min(start + step, head.shape[0])).T


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """``x / rms(x) * weight`` over the last axis."""
    mean = np.mean(np.square(x, dtype=np.float32), axis=-1, keepdims=True)
    made: Array = x / np.sqrt(mean + np.float32(eps)) * weight
    return made


def silu(x: Array) -> Array:
    """``x / (1 + exp(-x))``."""
    made: Array = x / (1 + np.exp(-x))
    return made


def rotate(x: Array, theta: float) -> Array:
    """Rotary embedding in rotate-half order of `[T, heads, D]`, at the positions 0 to T − 1."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))
    cosines, sines = (function(angles).astype(np.float32)[:, None] for function in (np.cos, np.sin))
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def _attend(query: Array, key: Array, value: Array) -> tuple[Array, float]:
    """Causal attention `[T, H * D]`, and the largest |q·k| before scaling; one key/value head at a time."""
    count, heads, size = query.shape
    groups = heads // key.shape[1]
    made, largest = np.empty((count, heads, size), np.float32), 0.0
    later = ~np.tri(count, dtype=bool)
    for head in range(heads):
        scores = query[:, head] @ key[:, head // groups].T
        largest = max(largest, float(np.abs(scores).max()))
        scores *= np.float32(size**-0.5)
        scores[later] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        made[:, head] = scores @ value[:, head // groups]
    return made.reshape(count, -1), largest
