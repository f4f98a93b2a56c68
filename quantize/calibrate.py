"""What a model's own layers compute for a text, in float32; one layer is in memory at a time.

This gives the ranges by which a model is folded, the scales for an int8 KV cache, and the reference that execution
providers are tested with. The graphs are ``convert.measured_graph``'s. This module knows the text and how rotary
embedding turns queries and keys; it knows no files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import onnxruntime_library
from mimo_mobile.errors import QuantizationError
from mimo_mobile.layout import Reference
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.ranges import LayerRange, ModelRanges

if TYPE_CHECKING:
    import onnx_ir as ir

    from mimo_mobile.convert.onnx_file import Measured
    from mimo_mobile.convert.onnx_graph import OnnxWeights

LARGEST = 127
"""The integer that the largest key or value seen becomes; beyond it the kernel saturates."""

LEAST_SCALE = 1e-6
"""The scale of a channel that was always 0."""

_FOLDER = "session.model_external_initializers_file_folder_path"

TEXT = Path(__file__).with_name("calibration.txt")
"""Sums, algebra, code and a proof with thinking, in MiMo's chat template: what MiMo is made for. We wrote this text."""


REFERENCE_TOKENS, REFERENCE_LOGITS = 48, 64
"""The reference's prompt is so many tokens of the text; so many of the largest logits after it are kept."""


class Calibration:
    """Runs a model over token ids.

    Attributes:
        ids: The token ids, which may be several texts one after the other.
    """

    def __init__(self, ids: Sequence[int], progress: ProgressCallback = ignore) -> None:
        """Calibrate on ``ids``."""
        self.ids, self._progress = ids, progress
        onnxruntime_library.load()

    def measure(self, config: MimoConfig, weights: OnnxWeights, largest_embedding: float) -> Measured:
        """Ranges of all layers, scales of keys and values in the trunk, and the trunk's last states.

        Args:
            config: The model's configuration.
            weights: Its weights in float32 or in blocks with such scales. The embedding has one row for each of
                ``ids``.
            largest_embedding: The largest magnitude in the whole embedding.

        Raises:
            QuantizationError: A layer cannot be run, or makes NaN or infinity.
        """
        from mimo_mobile.convert import measured_graph
        from mimo_mobile.convert.folding import prefix_of
        from mimo_mobile.convert.onnx_file import Measured

        count, mtp_layers = len(self.ids), config.num_nextn_predict_layers
        total = config.num_hidden_layers + mtp_layers
        embedded = _run(
            measured_graph.embedding(config, weights), {"input_ids": np.arange(count)[None]}, "the embedding"
        )["x"]
        ranges: list[LayerRange] = []

        def measured(layer: str, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            empty = np.zeros((1, config.num_key_value_heads, 0, config.head_dim), np.float32)
            feeds = {f"past_key_values.0.{kind}": empty for kind in ("key", "value")}
            feeds |= {"x": x, "seqlens_k": np.array([count - 1], np.int32), "total": np.array(count, np.int32)}
            found = _run(measured_graph.layer(config, weights, prefix_of(layer)), feeds, layer)
            ranges.append(_range(layer, config, found | {"x": x}))
            self._progress(Progress("measure ranges", len(ranges), total, layer, "layers"))
            return found

        x, scales = embedded, []
        for index in range(config.num_hidden_layers):
            found = measured(f"layers.{index}", x)
            key, value = found["present.0.key"][0], found["present.0.value"][0]
            scales.append((_steps(_turned(key)), _steps(np.abs(value))))
            x = found["x_out"]
        # Row p reads the state at p and the token at p + 1; the last one has none and takes its own.
        following = np.concatenate([embedded[:, 1:], embedded[:, -1:]], axis=1)
        for index in range(mtp_layers):
            layer = f"mtp_layers.{index}"
            start = measured_graph.mtp_start(config, weights, prefix_of(layer))
            measured(layer, _run(start, {"hidden_states": x, "x": following}, layer)["x_out"])
        ranges[0] = _with_embedding(ranges[0], largest_embedding)
        return Measured(ModelRanges(tuple(ranges)), scales, x)

    def reference(self, head: ir.Model, folder: Path, states: NDArray[np.float32]) -> Reference:
        """The logits after the first tokens.

        Args:
            head: The graph of ``npu.graph.head`` for one token.
            folder: Where its data are.
            states: The trunk's last states `[1, T, E]` for ``ids``, as the head reads them.

        Raises:
            QuantizationError: The head cannot be run, or makes NaN or infinity.
        """
        count = min(REFERENCE_TOKENS, len(self.ids))
        last = states[:, count - 1 : count].astype(head.graph.inputs[0].dtype.numpy())
        logits = _run(head, {"x": last}, "the head", folder)["logits"][0, 0].astype(np.float32)
        top = np.argsort(-logits, kind="stable")[:REFERENCE_LOGITS]
        return Reference(tuple(self.ids[:count]), tuple(top.tolist()), tuple(logits[top].tolist()))


def _run(model: ir.Model, feeds: dict[str, NDArray[Any]], name: str, folder: Path | None = None) -> dict[str, Any]:
    """All outputs of a graph, whose weights are in it or in a folder's data."""
    import onnx_ir as ir

    ort = onnxruntime_library.load()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if folder is not None:
        options.add_session_config_entry(_FOLDER, str(folder))
    content = ir.to_proto(model).SerializeToString()
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        found = dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise QuantizationError(f"calibration: {name} cannot be run: {error}") from error
    if not all(np.isfinite(values).all() for values in found.values()):
        dtype = model.graph.outputs[0].dtype
        if dtype == ir.DataType.FLOAT16:
            advice = "its numbers are too large for float16; take a recipe with float32 activations, e.g. int4_b32"
        else:
            advice = "a damaged checkpoint"
        raise QuantizationError(f"calibration: {name} makes NaN or infinity; {advice}")
    return found


def _range(layer: str, config: MimoConfig, found: dict[str, NDArray[np.float32]]) -> LayerRange:
    from mimo_mobile.convert.measured_graph import NORMS, RESIDUALS

    def largest(*names: str) -> float:
        return max(float(np.abs(found[name]).max()) for name in names)

    lengths = np.concatenate([np.sqrt(np.square(found[name][0]).mean(axis=-1)) for name in ("x", "middle", "x_out")])
    heads = found["qkv"][0].reshape(len(found["qkv"][0]), -1, config.head_dim).swapaxes(0, 1)
    query, key, value = np.split(heads, [config.num_attention_heads, len(heads) - config.num_key_value_heads])
    return LayerRange(
        layer,
        residual=largest(*RESIDUALS),
        quietest=float(lengths[lengths > 0].min(initial=lengths.max())),
        normed=largest(*NORMS),
        gate=largest("gate"),
        product=largest("up", "product"),
        query=float(np.abs(query).max()),
        key=float(np.abs(key).max()),
        value=float(np.abs(value).max()),
        query_key=_largest_product(query, found["present.0.key"][0], config.rope_theta),
    )


def _with_embedding(first: LayerRange, largest: float) -> LayerRange:
    """The first layer's range, which reads rows of the embedding that are not in the text, too."""
    return dataclasses.replace(first, residual=max(first.residual, largest))


def _largest_product(query: NDArray[np.float32], key: NDArray[np.float32], theta: float) -> float:
    """The largest |q·k| between queries `[H, T, D]`, which are not yet turned, and keys `[K, T, D]`, which are."""
    half = query.shape[-1] // 2
    angles = np.outer(np.arange(query.shape[1]), theta ** (-np.arange(half) / half)).astype(np.float32)
    cosines, sines, first, second = np.cos(angles), np.sin(angles), query[..., :half], query[..., half:]
    turned = np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    groups = len(query) // len(key)
    return max(float(np.abs(each @ key[head // groups].T).max()) for head, each in enumerate(turned))


def _turned(key: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest values of keys `[K, T, D]` at any position: rotary embedding turns channels d and d + D / 2."""
    half = key.shape[-1] // 2
    length: NDArray[np.float32] = np.hypot(key[..., :half], key[..., half:])
    return np.concatenate([length, length], axis=-1)


def _steps(magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scales `[K * D]` for keys or values `[K, T, D]`."""
    largest = magnitudes.max(axis=1).reshape(-1) / LARGEST
    scales: NDArray[np.float32] = np.maximum(largest, LEAST_SCALE).astype(np.float32)
    return scales
