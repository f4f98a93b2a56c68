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
from mimo_mobile.convert.tensors import EMBEDDING, Layout, map_tensors
from mimo_mobile.entries import REJECTED
from mimo_mobile.errors import ModelLoadError, require
from mimo_mobile.gguf_header import GgufHeader, GgufTensor
from mimo_mobile.layout import mtp_file
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.quantize import kernels
from mimo_mobile.quantize.forward import Rows

if TYPE_CHECKING:
    import onnx_ir as ir

EPS = ".attention.layer_norm_rms_epsilon"


def read_written(path: Path, config: MimoConfig) -> tuple[MimoConfig, dict[str, Rows]]:
    """The tensors of a .gguf file or an ONNX folder, and the configuration that belongs to them.

    A GGUF trunk comes with the MTP layers of the file beside it, if it is there; either may be set aside.

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
    plain = path.with_name(path.name.removesuffix(REJECTED))
    beside = path.with_name(mtp_file(plain).name + path.name.removeprefix(plain.name))
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
    """Some rows of a matrix in an ONNX folder, or a part of a vector.

    Attributes:
        values: The values as they lie in the file, or the integers of blocks.
        scales: The scales of blocks; None where there are none.
        bits: How many an integer of a block has.
        first: The number of the first row.
        shape: The tensor's shape.
        flip: What integers of 4 bits are flipped by: those of the embedding lie around 0, those of matrices around 8.
        transposed: Whether the file holds columns first.
    """

    values: ir.ExternalTensor
    scales: ir.ExternalTensor | None
    bits: int
    first: int
    shape: tuple[int, ...]
    flip: int = 0
    transposed: bool = False

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        begin, end, _ = slice(start, stop).indices(self.shape[0])
        first, last = self.first + begin, self.first + end
        if self.scales is None:
            if self.transposed:
                return _columns(self.values, first, last).T.astype(np.float32, order="C")
            return _rows(self.values, first, last).astype(np.float32)
        made = np.empty((last - first, *self.shape[1:]), np.float32)
        scales = _rows(self.scales, first, last).astype(np.float32)
        kernels.unpack(_rows(self.values, first, last).view(np.uint8), scales, self.bits, self.flip, made)
        return made


def _rows(tensor: ir.ExternalTensor, first: int = 0, last: int | None = None) -> NDArray[Any]:
    """Rows of a tensor, read from its file; 4-bit integers come two in a byte."""
    rows, *others = (int(size) for size in tensor.shape)
    packed = tensor.dtype.bitwidth < 8
    dtype, row_bytes = np.dtype(np.uint8) if packed else tensor.dtype.numpy(), tensor.nbytes // rows
    last = rows if last is None else last
    with untrusted.opened(Path(tensor.path)) as file:
        file.seek((tensor.offset or 0) + first * row_bytes)
        data = file.read((last - first) * row_bytes)
    if len(data) != (last - first) * row_bytes:
        raise ModelLoadError(f"{tensor.path}: it ends before its weights do; download it again")
    return np.frombuffer(data, dtype).reshape(last - first, *([-1] if packed else others))


def _columns(tensor: ir.ExternalTensor, first: int, last: int) -> NDArray[Any]:
    """Columns of a plain matrix, read from its file row by row: a part of it may be asked for often."""
    (rows, columns), dtype = (int(size) for size in tensor.shape), tensor.dtype.numpy()
    made = np.empty((rows, last - first), dtype)
    with untrusted.opened(Path(tensor.path)) as file:
        for place, row in enumerate(made.view(np.uint8)):
            file.seek((tensor.offset or 0) + (place * columns + first) * dtype.itemsize)
            if file.readinto(row.data) != row.nbytes:
                raise ModelLoadError(f"{tensor.path}: it ends before its weights do; download it again")
    return made


def _onnx(folder: Path, config: MimoConfig) -> tuple[MimoConfig, dict[str, Rows]]:
    require("onnx_ir", "onnx")
    from mimo_mobile.convert.onnx_weights import joint
    from mimo_mobile.convert.written_weights import WrittenWeights

    weights, shapes = WrittenWeights(folder), config.tensor_shapes()
    made: dict[str, Rows] = {}
    for names in weights.stacked():
        first = 0
        for name in names:
            shape = shapes[name]
            if len(shape) == 1:
                made[name] = _OnnxRows(weights.vector(*names), None, 32, first, shape)
            else:
                embedding = name == EMBEDDING
                found = weights.embedding(name) if embedding else weights.matrix(joint(names))
                made[name] = _OnnxRows(
                    found.values, found.scales, found.bits, first, shape,
                    flip=0x88 if embedding else 0, transposed=found.scales is None and not embedding,
                )  # fmt: skip
            first += shape[0]
    return weights.config, made
