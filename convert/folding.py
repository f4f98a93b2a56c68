"""Moves the numbers inside a model by powers of two to where float16 has room for them; the function stays the same.

RMS norms take out what the residual stream is multiplied by, and the MLP's down what its up is multiplied by. Powers of
two are exact in every format: integers of blocks stay as they are, and scales change their exponents.
This module knows tensor names and ranges, and neither graphs nor files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.calibrated import Factors
from mimo_mobile.convert.formats import LARGEST
from mimo_mobile.convert.shards import BLOCK_WEIGHTS, TensorView
from mimo_mobile.errors import QuantizationError
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.ranges import LayerRange, ModelRanges, too_coarse

HEADROOM = 16
"""How many times larger than what was measured numbers may get before they leave float16."""

MOST = LARGEST / HEADROOM

LEAST = 2.0**-14
"""The least float16 that has all its digits."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A tensor times its factors, as a tensor."""

    view: TensorView
    factors: tuple[Factors, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.view.shape

    @property
    def size(self) -> int:
        """How many weights the tensor has."""
        return self.view.size

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` as a float32 copy."""
        values = self.view.float32(start, stop)
        for each in self.factors:
            if values.ndim > 1:
                values *= np.asarray(each.columns, np.float32)
            values *= _part(each.rows, start, stop, values.ndim)
        return values

    def undone(self, values: NDArray[np.float32], start: int) -> NDArray[np.float32]:
        """Rows from ``start`` on of what this tensor became in a file, as they would be without factors."""
        made = values.copy()
        for each in self.factors:
            made /= np.asarray(each.columns, np.float32)
            made /= _part(each.rows, start, start + len(values), values.ndim)
        return made


def _part(rows: NDArray[np.float32] | float, start: int, stop: int | None, dimensions: int) -> NDArray[np.float32]:
    """The factors of rows ``start`` to ``stop`` as they multiply an array of so many dimensions."""
    factors = np.asarray(rows, np.float32)
    return factors if factors.ndim == 0 else factors[start:stop].reshape(-1, *[1] * (dimensions - 1))


def fold(ranges: ModelRanges, head_dim: int, *, float16: bool, float16_attention: bool) -> ModelRanges:
    """The same ranges with the scales by which the model is to be written.

    Args:
        ranges: What was measured.
        head_dim: Channels of a head.
        float16: Whether all activations are float16.
        float16_attention: Whether attention computes in float16 where that is fine enough.

    Raises:
        QuantizationError: Activations are float16, and no scale brings a range into it.
    """
    residual = _scale(max((each.residual for each in ranges.layers), default=0))
    layers = []
    for each in ranges.layers:
        coarse = too_coarse(each.query_key, head_dim) or max(each.query, each.key, each.value) > MOST
        layers.append(
            dataclasses.replace(
                each, product_scale=_scale(each.product), float32_attention=float16_attention and coarse
            )
        )
        if float16:
            _check(each, residual)
    return ModelRanges(tuple(layers), residual)


def _check(found: LayerRange, residual: float) -> None:
    """See that float16 has what cannot be scaled in a layer."""
    for name, text in (
        ("normed", "what a norm gives"), ("gate", "the MLP's gate"), ("query", "a query"), ("key", "a key"),
        ("value", "a value"),
    ):  # fmt: skip
        if (largest := getattr(found, name)) > MOST:
            raise QuantizationError(
                f"{found.layer}: {text} of {largest:.4g} found, at most {MOST:g} expected for float16 with"
                f" {HEADROOM}-fold headroom; take a recipe with float32 activations, e.g. int4_b32"
            )
    if 0 < found.quietest * residual < LEAST:
        raise QuantizationError(
            f"{found.layer}: the residual stream is {found.quietest:.3g} at one token and the model's largest needs a"
            f" scale of {residual:g}, together less than {LEAST:.2g}, where float16 loses digits; take a recipe with"
            " float32 activations, e.g. int4_b32"
        )


def check_head(largest: float) -> None:
    """See that float16 has what the head reads, and its logits, for which there is no scale.

    Raises:
        QuantizationError: It has not.
    """
    if largest > MOST:
        raise QuantizationError(
            f"the head: a number of {largest:.4g} found, at most {MOST:g} expected for float16 with {HEADROOM}-fold"
            " headroom; take a recipe with float32 activations, e.g. int4_b32"
        )


def _scale(largest: float) -> float:
    """The power of two, at most 1, that brings a range into float16 with headroom."""
    return 1.0 if largest <= MOST else 2.0 ** math.floor(math.log2(MOST / largest))


def prefix_of(layer: str) -> str:
    """What the names of a layer's tensors begin with."""
    return f"model.{layer}."


def folded(
    tensors: Mapping[str, TensorView], ranges: ModelRanges, more: Mapping[str, Factors]
) -> dict[str, TensorView | Folded]:
    """A checkpoint's tensors times the powers of two that ``fold`` chose, and times ``more`` factors."""
    powers = {"model.embed_tokens.weight": ranges.residual_scale}
    for each in ranges.layers:
        prefix = prefix_of(each.layer)
        powers[f"{prefix}input_proj.weight"] = powers[f"{prefix}self_attn.o_proj.weight"] = ranges.residual_scale
        powers[f"{prefix}mlp.up_proj.weight"] = each.product_scale
        powers[f"{prefix}mlp.down_proj.weight"] = ranges.residual_scale / each.product_scale
    made: dict[str, TensorView | Folded] = {}
    for name, view in tensors.items():
        factors = [Factors(powers[name])] if powers.get(name, 1) != 1 else []
        factors += [more[name]] if name in more else []
        made[name] = Folded(view, tuple(factors)) if factors else view
    return made


def folded_config(config: MimoConfig, ranges: ModelRanges) -> MimoConfig:
    """A checkpoint's configuration, in which eps is as much smaller as the squares that it is added to."""
    return dataclasses.replace(config, rms_norm_eps=config.rms_norm_eps * ranges.residual_scale**2)


def largest(view: TensorView) -> float:
    """The largest magnitude in a tensor."""
    rows = max(1, BLOCK_WEIGHTS * view.shape[0] // view.size)
    starts = range(0, view.shape[0], rows)
    return max(float(np.abs(view.float32(start, start + rows)).max()) for start in starts)
