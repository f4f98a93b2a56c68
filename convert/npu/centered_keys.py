"""Keys less what they have in common, for layers whose scores are too large or too coarse in float16, as NPUs have it.

Softmax does not see what is added to all scores of a query alike. So any vector c, the same at all positions, can be
taken from all keys of a head after rotary embedding: q·(k − c) is q·k less the same q·c for every key. Large biases of
keys, in channels that rotary embedding hardly turns, are such a c, and are most of what makes scores large.
SageAttention takes the mean of the keys away for the same reason: https://arxiv.org/abs/2410.02367.

Rotary embedding R is a part of the attention that NPUs have, so that c is taken before it, turned back by the
position: R(Wx + b) − c = R(Wx + (b − c) + (c − R⁻¹c)). No term is large there, and none loses digits to another.
Shapes: T tokens of a window, C of the context, K key/value heads, D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from mimo_mobile.convert.onnx_graph import Block
from mimo_mobile.mimo7b import MimoConfig

Centers = Mapping[str, NDArray[np.float32]]
"""What is taken from all keys of a layer `[K, D]`, by the layer's prefix."""

NOTHING: Centers = MappingProxyType({})

MOST_TURN = math.pi / 3
"""Where rotary embedding turns a pair of channels by no more than 60 degrees over the whole context, what is left of a
constant is at no position longer than the constant itself."""


def center(keys: NDArray[np.float32], config: MimoConfig, context: int) -> NDArray[np.float32]:
    """What keys `[T, K, D]`, not yet turned, have in common where rotary embedding turns little: `[K, D]`."""
    slow = _angles(config, context) <= MOST_TURN
    made: NDArray[np.float32] = keys.mean(axis=0) * np.concatenate([slow, slow])
    return made


def turned_back(center: NDArray[np.float32], config: MimoConfig, position: int) -> NDArray[np.float32]:
    """R⁻¹c for the vectors `[K, D]` at a position: what a key has lost before rotary embedding."""
    cosines, sines = (np.tile(function(_angles(config, position)), 2) for function in (np.cos, np.sin))
    made: NDArray[np.float32] = (center * cosines - _crossed(center) * sines).astype(np.float32)
    return made


class CenteredKeys:
    """Makes the queries, keys and values of a graph's layers, with keys that have lost their center."""

    def __init__(self, block: Block, centers: Centers, last: ir.Value, tokens: int, context: int) -> None:
        """Work in a graph.

        Args:
            block: The graph.
            centers: What the keys of its layers lose.
            last: The position of the window's last token `[1]`, as int32.
            tokens: T.
            context: C.
        """
        self._block, self._centers, self._last = block, centers, last
        self._tokens, self._context = tokens, context
        self._rows: list[ir.Value] = []

    def __contains__(self, layer: str) -> bool:
        """Whether the keys of the layer with a prefix lose something."""
        return layer in self._centers

    def heads(self, layer: str, projected: ir.Value) -> list[ir.Value]:
        """Queries, keys and values for attention, of what a layer's projections give before biases.

        ``projected`` has them side by side, `[1, T, (H + 2 * K) * D]`.
        """
        block, config, prefix = self._block, self._block.config, f"{layer}self_attn."
        size, kept = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        center, found = self._centers[layer], block.weights.vector(*(f"{prefix}{name}_proj.bias" for name in "qkv"))
        bias = found.numpy().astype(np.float32)
        bias[size : size + kept] -= center.reshape(-1)
        less, across = self._turns()
        qkv = _exact(block, "Add", projected, self._constant(f"{prefix}centered_bias", bias))
        sizes = block.integers("heads", [size, kept, kept])
        query, key, value = Tape.op_multi_out(block.tape, "Split", [qkv, sizes], {"axis": -1}, num_outputs=3)
        kept_back = _exact(
            block,
            "Add",
            _exact(block, "Mul", less, self._constant(f"{prefix}center", center)),
            _exact(block, "Mul", across, self._constant(f"{prefix}center_crossed", _crossed(center))),
        )
        flat = _exact(block, "Reshape", kept_back, block.integers("flat_keys", [1, self._tokens, kept]))
        return [query, _exact(block, "Add", key, flat), value]

    def _turns(self) -> list[ir.Value]:
        """1 − cosine and sine of the positions of the window `[T, 1, D]`, by which c − R⁻¹c is made of c."""
        if not self._rows:
            block = self._block
            offsets = block.integers("offsets", list(range(1 - self._tokens, 1)), np.int32)
            places = _exact(block, "Add", self._last, offsets)
            angles = _angles(block.config, np.arange(self._context)[:, None, None])
            angles = np.concatenate([angles, angles], axis=-1)
            # 2 sin² has all digits where the cosine is nearly 1.
            tables = {"turn.less": 2 * np.sin(angles / 2) ** 2, "turn.across": np.sin(angles)}
            self._rows = [
                _exact(block, "Gather", self._constant(name, table), places) for name, table in tables.items()
            ]
        return self._rows

    def _constant(self, name: str, values: NDArray[Any]) -> ir.Value:
        return self._block.initializer(ir.tensor(values.astype(self._block.compute.activations.numpy()), name=name))


def _angles(config: MimoConfig, position: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """By how much rotary embedding turns each pair of channels at positions."""
    half = config.head_dim // 2
    made: NDArray[np.float64] = position * config.rope_theta ** (-np.arange(half) / half)
    return made


def _crossed(center: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors turned by a right angle: channels d and d + D / 2 are a pair."""
    first, second = np.split(center, 2, axis=-1)
    return np.concatenate([-second, first], axis=-1)


def _exact(block: Block, op_type: str, *inputs: ir.Value) -> ir.Value:
    """A node in floating point, even where a graph's other activations are quantized."""
    made: ir.Value = Tape.op(block.tape, op_type, list(inputs))
    return made
