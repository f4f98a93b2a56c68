"""What a checkpoint computes for texts, before it is written: one pass in float32 for all recipes.

It gives the ranges by which a model is folded, the scales for an int8 KV cache, and how large the inputs of every
matrix are, which says where rounding costs most. What was written is run once more, for the logits that engines are
tested with.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mimo_mobile.convert.calibrated import Calibrated, Factors, KvScales
from mimo_mobile.convert.folding import largest, prefix_of
from mimo_mobile.convert.formats import Importance
from mimo_mobile.convert.shards import TensorView
from mimo_mobile.errors import QuantizationError
from mimo_mobile.layout import REFERENCE_LOGITS, Reference
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.forward import Trace
from mimo_mobile.quantize.kept_work import Array, KeptLayers, Layout
from mimo_mobile.quantize.written import read_written
from mimo_mobile.ranges import MEASURED, LayerRange, ModelRanges

logger = logging.getLogger(__name__)

LARGEST = 127
"""The integer that the largest key or value seen becomes; beyond it the kernel saturates."""

LEAST_SCALE = 1e-6
"""The scale of a channel that was always 0."""

REFERENCE_TOKENS = 48
"""The reference's prompt is so many tokens of the text."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a checkpoint gave.

    Attributes:
        texts: The token ids that it was run over.
        ranges: How large its numbers get in each layer.
        head: The largest magnitude of what the head reads, and of its logits after each text.
        kv_scales: Scales for an int8 KV cache.
        mean_squares: For every matrix by its name, the mean of the squares of each input `[K]`.
    """

    texts: tuple[tuple[int, ...], ...]
    ranges: ModelRanges
    head: float
    kv_scales: KvScales
    mean_squares: Mapping[str, NDArray[np.float32]]

    @property
    def reference_ids(self) -> tuple[int, ...]:
        """The prompt of ``reference``."""
        return self.texts[0][:REFERENCE_TOKENS]

    def calibrated(
        self,
        factors: Mapping[str, Factors] | None = None,
        importance: Importance | None = None,
        cache_margin: float = 1.0,
    ) -> Calibrated:
        """What writers need to know; the scales of an int8 cache are so many times what the texts show."""
        margin = np.float32(cache_margin)
        scales = [(key * margin, value * margin) for key, value in self.kv_scales]
        return Calibrated(
            self.ranges, self.head, scales, self.reference, self.reference_ids, factors or {}, importance or {}
        )

    def reference(self, path: Path, config: MimoConfig) -> Reference:
        """The logits of a written file after the first tokens.

        Raises:
            ModelLoadError: It is no file of this model.
        """
        config, tensors = read_written(path, config)
        ids = self.reference_ids
        (states,) = forward.run(config, tensors, [ids])
        normed = forward.rms_norm(states[-1:], tensors["model.norm.weight"].float32(), config.rms_norm_eps)
        logits = np.concatenate([part[0] for _, part in forward.logits(tensors, normed)])
        top = np.argsort(-logits, kind="stable")[:REFERENCE_LOGITS]
        return Reference(ids, tuple(top.tolist()), tuple(logits[top].tolist()))


def calibrate(
    config: MimoConfig,
    tensors: Mapping[str, TensorView],
    texts: Sequence[Sequence[int]],
    progress: ProgressCallback = ignore,
    kept: KeptLayers | None = None,
) -> Statistics:
    """Run a checkpoint over texts, MTP layers included.

    Args:
        config: The checkpoint's configuration.
        tensors: Its tensors.
        texts: Token ids; no text sees another.
        progress: Called after every layer.
        kept: What a killed run of the same has left, and where this one leaves what it has; None does neither.

    Raises:
        QuantizationError: A layer makes NaN or infinity.
        DiskFullError: There is no room for what is to be kept of every layer.
    """
    seen, begun, reached = _Seen(config), None, None
    if kept is not None:
        lengths = tuple(map(len, texts))
        if found := kept.newest(lambda done: layout_of(config, done, lengths)):
            begun = found[0], seen.take(*found, lengths)

        def reached(done: int, states: Sequence[Array]) -> None:
            kept.keep(done, lambda: [*seen.arrays(), np.concatenate(states)])

    states = forward.run(
        config, tensors, texts, seen, mtp=True, stage="calibrate", begun=begun, reached=reached, progress=progress
    )
    norm = tensors["model.norm.weight"].float32()
    normed = [forward.rms_norm(x, norm, config.rms_norm_eps) for x in states]
    for each in normed:
        seen.add("lm_head.weight", each)
    ends = np.stack([each[-1] for each in normed])
    logits = max(float(np.abs(part).max()) for _, part in forward.logits(tensors, ends))
    count = sum(map(len, texts))
    first, *others = seen.ranges.values()
    # The first layer reads rows of the embedding that are not in the texts, too.
    first = dataclasses.replace(first, residual=max(first.residual, largest(tensors["model.embed_tokens.weight"])))
    return Statistics(
        tuple(map(tuple, texts)),
        ModelRanges((first, *others)),
        max(logits, *(float(np.abs(each).max()) for each in normed)),
        [seen.kv_scales(f"layers.{index}") for index in range(config.num_hidden_layers)],
        {name: (total / count).astype(np.float32) for name, total in seen.squares.items()},
    )


class _Seen:
    """What all texts gave so far.

    Attributes:
        ranges: By layer.
        squares: The sum of the squares of each input of a matrix, by name.
    """

    def __init__(self, config: MimoConfig) -> None:
        self._config = config
        self.ranges: dict[str, LayerRange] = {}
        self.squares: dict[str, NDArray[np.float64]] = {}
        self._largest: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def __call__(self, layer: str, trace: Trace) -> None:
        found = _range(layer, trace)
        if not all(np.isfinite(value) for value in (found.residual, found.product, found.query_key)):
            raise QuantizationError(f"calibration: {layer} makes NaN or infinity; a damaged checkpoint")
        old = self.ranges.get(layer)
        self.ranges[layer] = found if old is None else _joined(old, found)
        for end, values in trace.inputs().items():
            self.add(prefix_of(layer) + end, values)
        magnitudes = _turned(trace.key).max(axis=0), np.abs(trace.value).max(axis=0)
        known = self._largest.get(layer, magnitudes)
        self._largest[layer] = np.maximum(known[0], magnitudes[0]), np.maximum(known[1], magnitudes[1])

    def add(self, name: str, values: NDArray[np.float32]) -> None:
        """Count the inputs `[T, K]` of a matrix."""
        total = np.square(values, dtype=np.float64).sum(axis=0)
        self.squares[name] = self.squares[name] + total if name in self.squares else total

    def arrays(self) -> list[Array]:
        """All that is known after some layers, as ``layout_of`` says."""
        ranges = [[getattr(each, name) for name in MEASURED] for each in self.ranges.values()]
        made: list[Array] = [np.array(ranges, np.float64).reshape(-1, len(MEASURED))]
        for layer in self.ranges:
            made += [*(self.squares[name] for name in _matrices(self._config, layer)), *self._largest[layer]]
        return made

    def take(self, done: int, arrays: Sequence[Array], lengths: Sequence[int]) -> list[Array]:
        """Know what ``arrays`` say of the layers that are done; what the next layer reads is returned for each text."""
        ranges, *others, states = arrays
        values = iter(others)
        for layer, row in zip(_layers(self._config)[:done], ranges.tolist(), strict=True):
            self.ranges[layer] = LayerRange(layer, **dict(zip(MEASURED, row, strict=True)))
            self.squares |= {name: next(values) for name in _matrices(self._config, layer)}
            self._largest[layer] = next(values), next(values)
        return np.split(states, np.cumsum(lengths)[:-1])

    def kv_scales(self, layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The scales `[K * D]` for keys and for values."""
        key, value = self._largest[layer]
        return _steps(key), _steps(value)


def layout_of(config: MimoConfig, done: int, lengths: Sequence[int]) -> Layout:
    """What is kept when some layers are done: ranges, mean squares, largest keys and values, and the states `[T, E]`.

    Raises:
        ValueError: There are not so many layers.
    """
    layers = _layers(config)
    if done > len(layers):
        raise ValueError(f"layer {done} found, {len(layers)} layers expected")
    shapes, heads = config.tensor_shapes(), (config.num_key_value_heads, config.head_dim)
    made: list[tuple[DTypeLike, tuple[int, ...]]] = [(np.float64, (done, len(MEASURED)))]
    for layer in layers[:done]:
        made += [(np.float64, shapes[name][1:]) for name in _matrices(config, layer)]
        made += [(np.float32, heads)] * 2
    return [*made, (np.float32, (sum(lengths), config.hidden_size))]


def _layers(config: MimoConfig) -> list[str]:
    return forward.layer_names(config.num_hidden_layers, config.num_nextn_predict_layers)


def _matrices(config: MimoConfig, layer: str) -> list[str]:
    """The names of a layer's matrices."""
    prefix = prefix_of(layer)
    return [name for name, shape in config.tensor_shapes().items() if name.startswith(prefix) and len(shape) == 2]


def _range(layer: str, trace: Trace) -> LayerRange:
    def top(*arrays: NDArray[np.float32]) -> float:
        return max(float(np.abs(values).max()) for values in arrays)

    streams = (trace.x, trace.middle, trace.x_out)
    lengths = np.concatenate([np.sqrt(np.square(values).mean(axis=-1)) for values in streams])
    return LayerRange(
        layer,
        residual=top(*streams, trace.attended, trace.added),
        quietest=float(lengths[lengths > 0].min(initial=lengths.max())),
        normed=top(trace.normed, trace.normed_again),
        gate=top(trace.gate),
        product=top(trace.up, trace.product),
        query=top(trace.query),
        key=top(trace.key),
        value=top(trace.value),
        query_key=trace.query_key,
    )


def _joined(one: LayerRange, other: LayerRange) -> LayerRange:
    """The ranges of a layer over two texts."""
    kept = min if one.quietest and other.quietest else max
    names = ("residual", "normed", "gate", "product", "query", "key", "value", "query_key")
    largest = {name: max(getattr(one, name), getattr(other, name)) for name in names}
    return dataclasses.replace(one, quietest=kept(one.quietest, other.quietest), **largest)


def _turned(key: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest values of keys `[T, K, D]` at any position: rotary embedding turns channels d and d + D / 2."""
    half = key.shape[-1] // 2
    length: NDArray[np.float32] = np.hypot(key[..., :half], key[..., half:])
    return np.concatenate([length, length], axis=-1)


def _steps(magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scales `[K * D]` for keys or values whose channels reach `[K, D]`."""
    scales: NDArray[np.float32] = np.maximum(magnitudes.reshape(-1) / LARGEST, LEAST_SCALE).astype(np.float32)
    return scales
