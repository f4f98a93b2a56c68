"""MiMo in float32 numpy, with the weights of one layer in memory at a time: for calibration and as the reference.

All texts pass through a layer before the next one is read, so that a checkpoint larger than the memory is read once. Of
a single text's layer a few rows of each matrix are in memory at a time.
This module knows the architecture and where tensors are asked for; it knows no files and no formats.
Shapes: T tokens, H query heads, K key/value heads, D head_dim, E hidden, F ffn, V vocabulary.

Source of the MTP layer: https://huggingface.co/XiaomiMiMo/MiMo-7B-RL (modeling_mimo.py, MiMoMTPLayers)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.mimo7b import POST_NORM, MimoConfig
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize import kernels

Array = NDArray[np.float32]

HEAD_WEIGHTS = 1 << 24
"""So many weights of the head give logits at a time."""

ROWS = 128
"""The scores of so many tokens are in memory at a time."""

TASK_WEIGHTS = 1 << 20
"""So many weights a thread takes at a time: they stay in the processor's cache."""


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
class Some:
    """Some neighbouring rows of a tensor, as a tensor."""

    of: Rows
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return (self.last - self.first, *self.of.shape[1:])

    def float32(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows ``start`` to ``stop`` as a float32 copy."""
        start, stop, _ = slice(start, stop).indices(self.last - self.first)
        return self.of.float32(self.first + start, self.first + stop)


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that is in memory."""

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.values.shape

    def float32(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows ``start`` to ``stop``, of which nobody makes others."""
        return self.values[start:stop]


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
        weights = of_layer(config, tensors, name)
        if len(texts) > 1:
            weights = {end: Held(each.float32()) for end, each in weights.items()}
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


def of_layer(config: MimoConfig, tensors: Tensors, name: str) -> dict[str, Rows]:
    """The tensors of a layer, e.g. ``layers.3``, by the ends of their names."""
    prefix = f"model.{name}."
    return {each.removeprefix(prefix): tensors[each] for each in config.tensor_shapes() if each.startswith(prefix)}


def products(inputs: Array, *matrices: Rows) -> list[Array]:
    """What matrices `[N, K]` give for the same inputs `[T, K]`: `[T, N]` for each. All threads take rows in turn."""
    taken, tiles = kernels.side_by_side(inputs), TASK_WEIGHTS // inputs.shape[1] // kernels.TILE
    step = kernels.TILE * max(1, tiles)
    made = [np.empty((len(inputs), each.shape[0]), np.float32) for each in matrices]

    def compute(task: tuple[Rows, Array, int]) -> None:
        matrix, out, start = task
        kernels.multiply(matrix.float32(start, start + step), taken, out[:, start : start + step])

    pairs = zip(matrices, made, strict=True)
    tasks = [(matrix, out, start) for matrix, out in pairs for start in range(0, matrix.shape[0], step)]
    with ThreadPoolExecutor(min(len(tasks), os.cpu_count() or 2)) as pool:
        for _ in pool.map(compute, tasks):
            pass
    return made


@np.errstate(over="ignore", invalid="ignore")  # whoever observes sees whether numbers are finite
def layer(config: MimoConfig, weights: Tensors, x: Array, joined: Array | None = None) -> Trace:
    """What a layer makes of a text's residual stream ``x`` `[T, E]`, whose first token stands at position 0."""
    eps = config.rms_norm_eps
    normed = rms_norm(x, weights["input_layernorm.weight"].float32(), eps)
    projected = products(normed, *(weights[f"self_attn.{which}_proj.weight"] for which in "qkv"))
    for which, each in zip("qkv", projected, strict=True):
        each += weights[f"self_attn.{which}_proj.bias"].float32()
    query, key, value = (each.reshape(len(x), -1, config.head_dim) for each in projected)
    turned_key = rotate(key, config.rope_theta)
    mixed, query_key = _attend(rotate(query, config.rope_theta), turned_key, value)
    (attended,) = products(mixed, weights["self_attn.o_proj.weight"])
    middle = x + attended
    normed_again = rms_norm(middle, weights["post_attention_layernorm.weight"].float32(), eps)
    gate, up = products(normed_again, *(weights[f"mlp.{which}_proj.weight"] for which in ("gate", "up")))
    product = silu(gate) * up
    (added,) = products(product, weights["mlp.down_proj.weight"])
    return Trace(
        x, joined, normed, query, key, value, turned_key, query_key, mixed, attended, middle, normed_again, gate, up,
        product, added, middle + added,
    )  # fmt: skip


def mtp_layer(config: MimoConfig, weights: Tensors, hidden: Array, following: Array, norm: Array) -> Trace:
    """What an MTP layer makes of the trunk's states and the embedding of the tokens after, both `[T, E]`.

    ``norm`` `[E]` is the trunk's last norm, which a layer on states after it wants.
    """
    eps = config.rms_norm_eps
    if config.mtp_hidden_state == POST_NORM:
        hidden = rms_norm(hidden, norm, eps)
    first = rms_norm(hidden, weights["hidden_layernorm.weight"].float32(), eps)
    second = rms_norm(following, weights["token_layernorm.weight"].float32(), eps)
    joined = np.concatenate([first, second], axis=-1)
    (x,) = products(joined, weights["input_proj.weight"])
    return layer(config, weights, x, joined)


def logits(tensors: Tensors, normed: Array) -> Iterator[tuple[int, Array]]:
    """The logits of normed states `[T, E]`, some rows of the head at a time: the first token's id and `[T, rows]`."""
    head = tensors["lm_head.weight"]
    step = max(1, HEAD_WEIGHTS // head.shape[1])
    for start in range(0, head.shape[0], step):
        yield start, products(normed, Some(head, start, min(start + step, head.shape[0])))[0]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """``x / rms(x) * weight`` over the last axis."""
    mean = np.mean(np.square(x, dtype=np.float32), axis=-1, keepdims=True)
    made: Array = x / np.sqrt(mean + np.float32(eps)) * weight
    return made


def silu(x: Array) -> Array:
    """``x / (1 + exp(-x))``."""
    made: Array = np.negative(x)
    np.exp(made, out=made)
    made += 1
    return np.divide(x, made, out=made)


def rotate(x: Array, theta: float) -> Array:
    """Rotary embedding in rotate-half order of `[T, heads, D]`, at the positions 0 to T − 1."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))
    cosines, sines = (function(angles).astype(np.float32)[:, None] for function in (np.cos, np.sin))
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def _attend(query: Array, key: Array, value: Array) -> tuple[Array, float]:
    """Causal attention `[T, H * D]`, and the largest |q·k| before scaling; all threads take heads in turn."""
    count, heads, size = query.shape
    groups = heads // key.shape[1]
    made = np.empty((count, heads, size), np.float32)
    later = np.where(np.tri(ROWS, dtype=bool), np.float32(0), np.float32(-np.inf))

    @np.errstate(over="ignore", invalid="ignore")  # which threads do not take over from ``layer``
    def attend(head: int) -> float:
        keys, values, largest = np.ascontiguousarray(key[:, head // groups]), value[:, head // groups].T, 0.0
        for start in range(0, count, ROWS):
            scores = _product(query[start : start + ROWS, head], keys)
            largest = max(largest, float(scores.max()), -float(scores.min()))
            stop = start + len(scores)
            scores = scores[:, :stop] * np.float32(size**-0.5)
            scores[:, start:] += later[: len(scores), : len(scores)]
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            made[start:stop, head] = _product(scores, np.ascontiguousarray(values[:, :stop]))
        return largest

    with ThreadPoolExecutor(min(heads, os.cpu_count() or 2)) as pool:
        largest = max(pool.map(attend, range(heads)))
    return made.reshape(count, -1), largest


def _product(inputs: Array, matrix: Array) -> Array:
    """What a matrix `[N, K]` gives for inputs `[T, K]`, in this thread."""
    made = np.empty((len(inputs), len(matrix)), np.float32)
    kernels.multiply(matrix, kernels.side_by_side(inputs), made)
    return made
