"""What a model's own layers compute for short texts; one layer is in memory at a time.

This gives the scales for an int8 KV cache, and the reference that execution providers are tested with. The graphs are
``convert.onnx_graph``'s. This module knows the texts and how rotary embedding turns keys; it knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import onnxruntime_library
from mimo_mobile.errors import QuantizationError
from mimo_mobile.layout import Reference
from mimo_mobile.progress import Progress, ProgressCallback, ignore

if TYPE_CHECKING:
    import onnx_ir as ir

    from mimo_mobile.convert.onnx_weights import Calibrated, KvScales

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
    """Runs a trunk over token ids."""

    def __init__(self, ids: Sequence[int], progress: ProgressCallback = ignore) -> None:
        """Calibrate on ``ids``, which may be several texts one after the other."""
        self._ids, self._progress = ids, progress
        onnxruntime_library.load()

    def __call__(self, layers: Sequence[ir.Model], head: ir.Model, folder: Path) -> Calibrated:
        """Scales of keys and values, layer by layer, and logits after the first tokens.

        Args:
            layers: Graphs of ``onnx_graph.trunk_layer``.
            head: The graph of ``npu.graph.head`` for one token.
            folder: Where the graphs' data are.

        Raises:
            QuantizationError: A layer cannot be run, or makes NaN or infinity.
        """
        from mimo_mobile.convert.onnx_weights import Calibrated

        ids = np.array([self._ids], np.int64)
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids}
        scales: KvScales = []
        for index, layer in enumerate(layers):
            feeds["attention_mask"] = np.ones_like(ids)
            try:
                outputs = _run(layer, folder, feeds)
            except Exception as error:  # ONNX Runtime's exceptions share no public base
                raise QuantizationError(f"calibration: layer {index} cannot be run: {error}") from error
            if not np.isfinite(outputs["x_out"]).all():
                raise QuantizationError(f"calibration: layer {index} makes NaN or infinity; a damaged checkpoint")
            key, value = outputs[f"present.{index}.key"][0], outputs[f"present.{index}.value"][0]
            scales.append((_steps(_turned(key)), _steps(np.abs(value.astype(np.float32)))))
            feeds = {"x": outputs["x_out"], "skip": outputs["skip_out"]}
            self._progress(Progress("calibrate int8 KV cache", index + 1, len(layers), f"layer {index}", "layers"))
        count = min(REFERENCE_TOKENS, len(self._ids))
        last = {"x": (feeds["x"] + feeds["skip"])[:, count - 1 : count]}
        logits = _run(head, folder, last)["logits"][0, 0].astype(np.float32)
        if not np.isfinite(logits).all():
            raise QuantizationError("calibration: the head makes NaN or infinity; a damaged checkpoint")
        top = np.argsort(-logits, kind="stable")[:REFERENCE_LOGITS]
        known = Reference(tuple(self._ids[:count]), tuple(top.tolist()), tuple(logits[top].tolist()))
        return Calibrated(scales, known)


def _run(layer: ir.Model, folder: Path, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All outputs of a layer, with an empty past."""
    import onnx_ir as ir

    ort = onnxruntime_library.load()

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(_FOLDER, str(folder))
    model = ir.to_proto(layer).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    for each in session.get_inputs():
        if each.name.startswith("past_key_values."):
            feeds[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), kinds[each.type])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _turned(key: NDArray[Any]) -> NDArray[np.float32]:
    """The largest values of keys `[K, T, D]` at any position: rotary embedding turns channels d and d + D / 2."""
    half = key.shape[-1] // 2
    length: NDArray[np.float32] = np.hypot(key[..., :half].astype(np.float32), key[..., half:].astype(np.float32))
    return np.concatenate([length, length], axis=-1)


def _steps(magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scales `[K * D]` for keys or values `[K, T, D]`."""
    largest = magnitudes.max(axis=1).reshape(-1) / LARGEST
    scales: NDArray[np.float32] = np.maximum(largest, LEAST_SCALE).astype(np.float32)
    return scales
