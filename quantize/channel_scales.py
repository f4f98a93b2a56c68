"""Channel scales: what the inputs of matrices are divided by, and their columns multiplied with, so that less is lost.

Weights that share a block share a step, which the largest of them sets. A column that reads large numbers should have
a fine step for its size, and one that reads small ones may have a coarse one. What gives the numbers takes each scale
in: a norm for queries, keys and values, for gate and up, for input_proj, and for the head of a model without MTP
layers; values for o_proj; up for down. The function stays the same. docs/design/quantization.md tells how the scales
are found, and what they gain.
This module knows which tensors belong together; it knows no formats beyond bits and block sizes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mimo_mobile.convert.calibrated import Factors
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize.calibrate import Statistics
from mimo_mobile.quantize.forward import Array, Tensors
from mimo_mobile.quantize.kernels import Blocks

ROWS, ROWS_AT_A_TIME = 512, 8
"""So many rows of a matrix are looked at, in pieces from all over it; more change the result by less than 1 %."""

ROUNDS, PACE = 8, 0.25
"""After so many rounds of so large steps nothing moves any more, from the scales that we begin with."""

LEAST_SQUARE = 1e-3
"""A column that reads next to nothing in the calibration text is taken to read this part of the median square: other
texts may need it."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Matrices that read the same channels, and the tensors that give these.

    Attributes:
        readers: The names of the matrices.
        givers: The names of the tensors with one row for each channel, and for which of the channels.
        heads: How many key/value heads the channels are of, if all the query heads of each read them; else 0.
    """

    readers: tuple[str, ...]
    givers: Mapping[str, slice]
    heads: int = 0


def channel_factors(
    config: MimoConfig,
    tensors: Tensors,
    mean_squares: Mapping[str, Array],
    blocks_of: Callable[[str], Blocks | None],
    progress: ProgressCallback = ignore,
) -> dict[str, Factors]:
    """What rows and columns of tensors are multiplied with, by the checkpoint's names.

    Nothing that a norm, a value or an MLP's product holds becomes larger by it: ranges stay upper bounds.

    Args:
        config: The model's configuration.
        tensors: Its tensors, of which some rows are read.
        mean_squares: For every matrix by its name, the mean of the squares of each input `[K]`.
        blocks_of: How a matrix is going to be rounded; None when it is not.
        progress: Called after every group of matrices.
    """
    groups = [each for each in _groups(config) if any(blocks_of(name) for name in each.readers)]
    made: dict[str, Factors] = {}
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        found = pool.map(lambda group: _scales(group, config, tensors, mean_squares, blocks_of), groups)
        for done, (group, scales) in enumerate(zip(groups, found, strict=True), 1):
            for name in group.readers:
                columns = _columns(scales, group, config)
                made[name] = dataclasses.replace(made.get(name, Factors()), columns=columns)
            for name, part in group.givers.items():
                made[name] = dataclasses.replace(made.get(name, Factors()), rows=np.float32(1) / scales[part])
            progress(Progress("balance channels", done, len(groups), group.readers[0], "groups"))
    return made


def after(found: Statistics, factors: Mapping[str, Factors]) -> Statistics:
    """The statistics of the checkpoint times ``factors``; ranges are those of before, which are larger."""
    squares = {
        name: (values / np.square(factors.get(name, Factors()).columns)).astype(np.float32)
        for name, values in found.mean_squares.items()
    }
    scales = []
    for index, (key, value) in enumerate(found.kv_scales):
        rows = factors.get(f"model.layers.{index}.self_attn.v_proj.weight", Factors()).rows
        scales.append((key, np.asarray(value * rows, np.float32)))
    return dataclasses.replace(found, mean_squares=squares, kv_scales=scales)


def _groups(config: MimoConfig) -> Iterator[_Group]:
    """All groups of a model."""
    trunk = [f"model.layers.{index}." for index in range(config.num_hidden_layers)]
    mtp = [f"model.mtp_layers.{index}." for index in range(config.num_nextn_predict_layers)]
    hidden, everything = config.hidden_size, slice(None)
    for prefix in trunk + mtp:
        if prefix in mtp:
            halves = {"hidden_layernorm": slice(None, hidden), "token_layernorm": slice(hidden, None)}
            norms = {f"{prefix}{name}.weight": part for name, part in halves.items()}
            yield _Group((f"{prefix}input_proj.weight",), norms)
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        readers = tuple(f"{attention}{which}_proj.weight" for which in "qkv")
        yield _Group(readers, {f"{prefix}input_layernorm.weight": everything})
        values = {f"{attention}v_proj.{kind}": everything for kind in ("weight", "bias")}
        yield _Group((f"{attention}o_proj.weight",), values, config.num_key_value_heads)
        readers = tuple(f"{mlp}{which}_proj.weight" for which in ("gate", "up"))
        yield _Group(readers, {f"{prefix}post_attention_layernorm.weight": everything})
        yield _Group((f"{mlp}down_proj.weight",), {f"{mlp}up_proj.weight": everything})
    # An MTP layer reads its own normed state for a second draft, and would see its channels in other proportions.
    if not mtp:
        yield _Group(("lm_head.weight",), {"model.norm.weight": everything})


def _columns(channels: Array, group: _Group, config: MimoConfig) -> Array:
    """A number for each column of the readers from one for each channel."""
    if not group.heads:
        return channels
    queries = config.num_attention_heads // group.heads
    return channels.reshape(group.heads, 1, -1).repeat(queries, axis=1).reshape(-1)


def _channels(columns: Array, group: _Group, config: MimoConfig) -> Array:
    """The sum over all columns that read a channel, for each channel."""
    if not group.heads:
        return columns
    made: Array = columns.reshape(group.heads, -1, config.head_dim).sum(axis=1).reshape(-1)
    return made


@dataclass(frozen=True, slots=True)
class _Reader:
    """A matrix that reads a group's channels.

    Attributes:
        squares: The squares of some rows `[N, K]`.
        inputs: The mean squares of what each column reads `[K]`.
        blocks: How it is rounded.
        weight: What an error counts: relative to what the matrix gives, and less with more bits.
    """

    squares: Array
    inputs: Array
    blocks: Blocks
    weight: np.float32 = field(init=False)

    def __post_init__(self) -> None:
        given = float(self.squares.mean(axis=0) @ self.inputs)
        object.__setattr__(self, "weight", np.float32(4.0**-self.blocks.bits / given if given > 0 else 0))

    def pulls(self, scales: Array) -> tuple[Array, Array]:
        """How fast the error falls when a column's squared scale grows, and how fast it rises, both `[K]`.

        A block's error is the sum of its rows' squared steps times the sum of what its columns read, divided by the
        squared scales. Steps are soft maxima, so that all large weights of a block have a say.
        """
        count = len(self.squares)
        scaled = (self.squares * scales).reshape(count, -1, self.blocks.size)
        top = np.maximum(scaled.max(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
        powers = np.square(np.square(scaled / top))
        total = np.maximum(powers.sum(axis=-1, keepdims=True), 1)  # it is less in a block of zeros only
        steps = (powers * (top * total**-0.75)).sum(axis=0)
        read = (self.inputs / scales).reshape(steps.shape)
        rises = steps * read.sum(axis=-1, keepdims=True)
        falls = steps.sum(axis=-1, keepdims=True) * read
        return self.weight * falls.reshape(-1), self.weight * rises.reshape(-1)


def _scales(
    group: _Group,
    config: MimoConfig,
    tensors: Tensors,
    mean_squares: Mapping[str, Array],
    blocks_of: Callable[[str], Blocks | None],
) -> Array:
    """The scales of a group's channels, of which the least is 1."""
    readers = []
    for name in group.readers:
        blocks = blocks_of(name)
        if blocks is not None:
            readers.append(_Reader(np.square(_some_rows(tensors, name)), _floored(mean_squares[name]), blocks))
    columns: Array = np.sum([each.weight * each.squares.mean(axis=0) for each in readers], axis=0)
    weights, read = (_channels(each, group, config) for each in (_floored(columns), readers[0].inputs))
    squared = np.sqrt(read / weights)  # right if every weight of a block had its say
    for _ in range(ROUNDS):
        pulls = [each.pulls(_columns(squared, group, config)) for each in readers]
        falls, rises = (_floored(_channels(sum(parts), group, config)) for parts in zip(*pulls, strict=True))
        squared = squared * (falls / rises) ** PACE
    scales: Array = np.sqrt(squared / squared.min()).astype(np.float32)
    return scales


def _some_rows(tensors: Tensors, name: str) -> Array:
    """Rows from all over a matrix, at most ``ROWS``."""
    tensor = tensors[name]
    count = tensor.shape[0]
    if count <= ROWS:
        return tensor.float32()
    starts = np.linspace(0, count - ROWS_AT_A_TIME, ROWS // ROWS_AT_A_TIME).astype(int).tolist()
    return np.concatenate([tensor.float32(start, start + ROWS_AT_A_TIME) for start in starts])


def _floored(values: Array) -> Array:
    """The same with no number far below the median; ones if all are zero."""
    positive = values[values > 0]
    if not positive.size:
        return np.ones_like(values)
    made: Array = np.maximum(values, LEAST_SQUARE * np.median(positive)).astype(np.float32)
    return made
