"""The tensors of a quantized file as what they stand for: float32 rows by the checkpoint's names.

``quantize.forward`` runs such files without an engine, and they can be compared with the checkpoint weight by weight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import untrusted
from mimo_mobile.convert.tensors import Layout, map_tensors
from mimo_mobile.errors import ModelLoadError, require
from mimo_mobile.gguf_header import GgufHeader, GgufTensor
from mimo_mobile.layout import mtp_file
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.quantize.forward import Rows

if TYPE_CHECKING:
    from mimo_mobile.convert.onnx_graph import Matrix

EPS = ".attention.layer_norm_rms_epsilon"


def read_written(path: Path, config: MimoConfig) -> tuple[MimoConfig, dict[str, Rows]]:
    """The tensors of a .gguf file or an ONNX folder, and the configuration that belongs to them.

    A GGUF trunk comes with the MTP layers of the file beside it, if it is there.

    Args:
        path: What was written.
        config: The checkpoint's configuration. The file's eps may be another one, since the residual stream may have
            been scaled.

    Raises:
        ModelLoadError: The file cannot be read, or is of another model.
        MissingDependencyError: The package that reads the format is not installed.
    """
    return _onnx(path, config) if path.is_dir() else _gguf(path, config)


@dataclass(frozen=True, slots=True)
class _GgufRows:
    """A tensor of a GGUF file."""

    path: Path
    tensor: GgufTensor
    swap_halves: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        gguf, found = require("gguf", "gguf"), self.tensor
        rows = found.shape[0] if len(found.shape) > 1 else 1
        row_bytes = found.bytes // rows
        first, last, _ = slice(start, stop).indices(rows) if len(found.shape) > 1 else (0, 1, 1)
        with untrusted.opened(self.path) as file:
            file.seek(found.offset + first * row_bytes)
            data = np.frombuffer(file.read((last - first) * row_bytes), np.uint8)
        if data.size != (last - first) * row_bytes:
            raise ModelLoadError(f"{self.path}: it ends before its weights do; download it again")
        kind = gguf.GGMLQuantizationType[found.type]
        values: NDArray[np.float32] = gguf.dequantize(data.reshape(last - first, row_bytes), kind).astype(np.float32)
        if len(found.shape) == 1:
            return values[0, start:stop].copy()
        return np.roll(values, values.shape[1] // 2, axis=1) if self.swap_halves else values


def _gguf(path: Path, config: MimoConfig) -> tuple[MimoConfig, dict[str, Rows]]:
    header = GgufHeader(path)
    layers, shapes = config.num_hidden_layers, config.tensor_shapes()
    made = _gguf_tensors(header, "trunk", shapes, layers)
    beside = mtp_file(path)
    if config.num_nextn_predict_layers:
        if f"blk.{layers}.attn_q.weight" in header.tensors:
            made = _gguf_tensors(header, "whole", shapes, layers)
        elif beside.is_file():
            made = _gguf_tensors(GgufHeader(beside), "mtp", shapes, layers) | made
    eps = next((header.value(key) for key in header.keys() if key.endswith(EPS)), None)
    if not isinstance(eps, float):
        raise ModelLoadError(f"{path}: a key that ends with {EPS} expected; convert the checkpoint again")
    return dataclasses.replace(config, rms_norm_eps=eps), made


def _gguf_tensors(
    header: GgufHeader, layout: Layout, shapes: Mapping[str, tuple[int, ...]], layers: int
) -> dict[str, Rows]:
    made: dict[str, Rows] = {}
    for name, target in map_tensors(shapes, layers, layout).items():
        found = header.tensors.get(target.name)
        if found is None or found.shape != shapes[name]:
            there = "nothing" if found is None else str(found.shape)
            raise ModelLoadError(f"{header.path}: {target.name}: {there} found, {shapes[name]} expected: another model")
        made[name] = _GgufRows(header.path, found, target.swap_halves)
    return made


@dataclass(frozen=True, slots=True)
class _OnnxRows:
    """Some rows of a matrix in an ONNX folder, or a vector."""

    values: NDArray[Any]
    scales: NDArray[Any] | None
    bits: int
    first: int
    shape: tuple[int, ...]
    flip: int = 0

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        begin, end, _ = slice(start, stop).indices(self.shape[0])
        part = slice(self.first + begin, self.first + end)
        if self.scales is None:
            return np.array(self.values[part], np.float32)
        packed, scales = self.values[part] ^ np.uint8(self.flip), self.scales[part].astype(np.float32)
        levels = packed if self.bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1)
        blocks = levels.reshape(*scales.shape, -1).astype(np.float32) - (1 << (self.bits - 1))
        made: NDArray[np.float32] = (blocks * scales[..., None]).reshape(end - begin, -1)
        return made


def _onnx(folder: Path, config: MimoConfig) -> tuple[MimoConfig, dict[str, Rows]]:
    require("onnx_ir", "onnx")
    from mimo_mobile.convert.onnx_weights import EMBEDDING
    from mimo_mobile.convert.written_weights import WrittenWeights

    weights = WrittenWeights(folder)
    made: dict[str, Rows] = {}
    for names in weights.stacked():
        first = 0
        for name in names:
            shape = config.tensor_shapes()[name]
            if len(shape) == 1:
                made[name] = _OnnxRows(weights.vector(*names).numpy(), None, 32, first, shape)
            elif name == EMBEDDING:
                made[name] = _embedding(weights.embedding(name), shape)
            else:
                made[name] = _matrix(weights.matrix(*names), first, shape)
            first += shape[0]
    return weights.config, made


def _matrix(matrix: Matrix, first: int, shape: tuple[int, ...]) -> _OnnxRows:
    values = matrix.values.numpy()
    if matrix.scales is None:
        return _OnnxRows(values.T, None, 32, first, shape)
    return _OnnxRows(values, matrix.scales.numpy(), matrix.bits, first, shape)


def _embedding(matrix: Matrix, shape: tuple[int, ...]) -> _OnnxRows:
    """The embedding, whose blocks hold integers around 0 where matrices have them around 8."""
    if matrix.scales is None:
        return _OnnxRows(matrix.values.numpy(), None, 32, 0, shape)
    packed = np.frombuffer(matrix.values.tobytes(), np.uint8).reshape(shape[0], -1)
    return _OnnxRows(packed, matrix.scales.numpy(), matrix.bits, 0, shape, flip=0x88)
