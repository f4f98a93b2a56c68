"""A checkpoint's weights as onnx-ir tensors that are read, and quantized, when their bytes are asked for.

This module knows checkpoints and formats; ``onnx_graph`` makes the graphs that take these weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mimo_mobile.convert.calibrated import KvScales
from mimo_mobile.convert.formats import NO_IMPORTANCE, Importance, MatMulFormat, PlainFormat
from mimo_mobile.convert.onnx_graph import Compute, Matrix
from mimo_mobile.errors import QuantizationError
from mimo_mobile.mimo7b import MimoConfig

DRAFT_HEAD = "lm_head.draft.weight"
"""The rows of lm_head.weight that the MTP layer's drafts are chosen from."""

TASK_WEIGHTS = 1 << 22
"""Weights that one thread quantizes at a time."""

POSITIONS = 4096
"""So many positions' angles are computed at a time: in float64 all of them would take much memory."""

FormatOf = Callable[[str], PlainFormat | MatMulFormat]


class Tensor(Protocol):
    """A tensor of a checkpoint, or what was made of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""

    @property
    def size(self) -> int:
        """Number of weights."""

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` as a float32 copy."""


@dataclass(frozen=True, slots=True)
class PickedRows:
    """Some rows of a tensor, as a tensor.

    Attributes:
        view: The tensor.
        rows: Numbers of the rows `[R]`.
    """

    view: Tensor
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """`(R, columns)`."""
        return (len(self.rows), *self.view.shape[1:])

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` as a float32 copy."""
        rows = self.rows[start:stop]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        return np.concatenate([self.view.float32(int(run[0]), int(run[-1]) + 1) for run in runs])


class LazyWeights:
    """A checkpoint's weights as onnx-ir tensors that are read, and quantized, when their bytes are asked for."""

    def __init__(
        self,
        config: MimoConfig,
        tensors: Mapping[str, Tensor],
        format_of: FormatOf,
        compute: Compute,
        draft_ids: NDArray[np.int64],
        pool: ThreadPoolExecutor,
        importance: Importance = NO_IMPORTANCE,
    ) -> None:
        """Give ``tensors`` in the formats that ``format_of`` says, made by the threads of ``pool``.

        ``draft_ids`` [R] are the tokens that the MTP layer may draft. ``importance`` says how much columns matter.
        """
        self._config, self._format_of, self._compute, self._pool = config, format_of, compute, pool
        self._draft_ids, self._importance = draft_ids, importance
        self._tensors: dict[str, Tensor] = dict(tensors)
        self._tensors[DRAFT_HEAD] = PickedRows(tensors["lm_head.weight"], draft_ids)
        self._kv_scales: KvScales = []
        # Integers and scales of a weight are asked for one after the other.
        self._quantized = lru_cache(maxsize=1)(self._quantize)

    def vector(self, *names: str) -> ir.TensorProtocol:
        """Norm weights or biases one after the other, in the dtype of activations."""
        activations = PlainFormat(self._compute.activations.name, self._compute.activations.numpy())

        def read() -> NDArray[Any]:
            return activations.cast(np.concatenate([self._tensors[name].float32() for name in names]))

        size = sum(self._tensors[name].size for name in names)
        return _lazy(joint(names), self._compute.activations, (size,), read)

    def matrix(self, name: str) -> Matrix:
        """The weights of a linear layer."""
        return self._stacked((name,))

    def matrices(self, *names: str) -> list[Matrix]:
        """Weights of linear layers that read the same: neighbours of one format are stacked along the outputs."""
        return [self._stacked(tuple(group)) for _, group in itertools.groupby(names, self._format_of)]

    def _stacked(self, names: tuple[str, ...]) -> Matrix:
        views = [self._tensors[name] for name in names]
        rows, columns = sum(view.shape[0] for view in views), views[0].shape[1]
        row_format = self._format_of(names[0])
        if isinstance(row_format, PlainFormat):
            dtype = _dtype(row_format)

            def read() -> NDArray[Any]:
                stacked = np.concatenate([view.float32() for view in views])
                return np.ascontiguousarray(row_format.cast(stacked).T)

            return Matrix(_lazy(joint(names), dtype, (columns, rows), read), columns, rows)
        block_size, bits = row_format.block_size, row_format.bits
        blocks = columns // block_size
        scale_type = self._compute.activations
        shape = (rows, blocks, block_size * bits // 8)
        values = _lazy(joint(names), ir.DataType.UINT8, shape, lambda: self._quantized(names)[0])
        scales = _lazy(
            joint(names) + ".scales", scale_type, (rows, blocks),
            lambda: self._quantized(names)[1].astype(scale_type.numpy()),
        )  # fmt: skip
        return Matrix(values, columns, rows, scales, bits, block_size)

    def embedding(self, name: str) -> Matrix:
        """The embedding, plain, or INT4 in blocks with scales."""
        view, row_format = self._tensors[name], self._format_of(name)
        rows, columns = view.shape
        if isinstance(row_format, PlainFormat):
            tensor = _lazy(name, _dtype(row_format), view.shape, lambda: row_format.cast(view.float32()))
            return Matrix(tensor, columns, rows)
        block_size, scale_type = row_format.block_size, self._compute.activations

        def signed() -> NDArray[np.uint8]:
            packed = self._quantized((name,))[0].reshape(rows, -1)
            return packed ^ np.uint8(0x88)  # from 0…15 around 8 to two's complement, both integers of a byte

        values = ir.LazyTensor(
            lambda: ir.PackedTensor(signed(), ir.DataType.INT4, shape=ir.Shape(view.shape), name=name),
            ir.DataType.INT4, ir.Shape(view.shape), name=name,
        )  # fmt: skip
        scales = _lazy(
            name + ".scales", scale_type, (rows, columns // block_size),
            lambda: self._quantized((name,))[1].astype(scale_type.numpy()),
        )  # fmt: skip
        return Matrix(values, columns, rows, scales, row_format.bits, block_size)

    def draft_head(self) -> tuple[Matrix, ir.TensorProtocol]:
        """The rows of lm_head that drafts are chosen from, and their token ids `[R]`."""
        return self.matrix(DRAFT_HEAD), ir.tensor(self._draft_ids, name="draft_tokens")

    def rope(self) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
        """Cosines and sines `[max_position_embeddings, D / 2]`."""
        config, dtype = self._config, self._compute.angles
        shape = (config.max_position_embeddings, config.head_dim // 2)
        cos = _lazy("rope.cos", dtype, shape, lambda: _rotations(config, np.cos, dtype.numpy()))
        return cos, _lazy("rope.sin", dtype, shape, lambda: _rotations(config, np.sin, dtype.numpy()))

    def set_kv_scales(self, scales: KvScales) -> None:
        """Keep what a calibration found, for a trunk with an INT8 cache."""
        self._kv_scales = scales

    def kv_scales(self, layer: int) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
        """The values of one step of an INT8 cache, for keys and for values: `[K * D]` float32."""
        key, value = self._kv_scales[layer]
        prefix = f"model.layers.{layer}.self_attn"
        return ir.tensor(key, name=f"{prefix}.k_scale"), ir.tensor(value, name=f"{prefix}.v_scale")

    def _quantize(self, names: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Integers and scales of stacked weights, which all threads compute."""
        row_format = self._format_of(names[0])
        assert not isinstance(row_format, PlainFormat)
        views = [self._tensors[name] for name in names]
        rows, blocks = sum(view.shape[0] for view in views), views[0].shape[1] // row_format.block_size
        values = np.empty((rows, blocks, row_format.block_size * row_format.bits // 8), np.uint8)
        scales = np.empty((rows, blocks), np.float32)
        # Stacked matrices read the same.
        importance = self._importance.get("lm_head.weight" if names[0] == DRAFT_HEAD else names[0])

        def task(view: Tensor, start: int, stop: int, place: int) -> None:
            part = slice(place + start, place + stop)
            values[part], scales[part] = row_format.quantize(view.float32(start, stop), importance)

        waiting, place = [], 0
        for view in views:
            step = max(1, TASK_WEIGHTS // view.shape[1])
            for start in range(0, view.shape[0], step):
                stop = min(start + step, view.shape[0])
                waiting.append(self._pool.submit(task, view, start, stop, place))
            place += view.shape[0]
        for each in waiting:
            each.result()
        return values, scales


def _lazy(name: str, dtype: ir.DataType, shape: tuple[int, ...], read: Callable[[], NDArray[Any]]) -> ir.LazyTensor:
    def tensor() -> ir.TensorProtocol:
        try:
            return ir.tensor(read(), dtype=dtype, name=name)
        except QuantizationError as error:
            raise QuantizationError(f"tensor {name}: {error}") from error

    return ir.LazyTensor(tensor, dtype, ir.Shape(shape), name=name)


def _dtype(row_format: PlainFormat) -> ir.DataType:
    return ir.DataType.from_numpy(row_format.dtype)


def joint(names: tuple[str, ...]) -> str:
    """One name for stacked tensors: ``….q_proj+k_proj+v_proj.weight``."""
    if len(names) == 1:
        return names[0]
    start, last = names[0].rsplit(".", 2)[0], names[0].rsplit(".", 1)[1]
    return f"{start}.{'+'.join(name.rsplit('.', 2)[1] for name in names)}.{last}"


def apart(name: str) -> tuple[str, ...]:
    """The names that ``joint`` made one of.

    >>> apart("model.layers.0.mlp.gate_proj+up_proj.weight")
    ('model.layers.0.mlp.gate_proj.weight', 'model.layers.0.mlp.up_proj.weight')
    """
    if "+" not in name:
        return (name,)
    start, middle, last = name.rsplit(".", 2)
    return tuple(f"{start}.{each}.{last}" for each in middle.split("+"))


def _rotations(config: MimoConfig, function: np.ufunc, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cosines or sines of every position's angles, computed in float64."""
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-np.arange(half) / half)
    made = np.empty((config.max_position_embeddings, half), dtype)
    for start in range(0, len(made), POSITIONS):
        part = made[start : start + POSITIONS]
        part[...] = function(np.outer(np.arange(start, start + len(part)), frequencies))
    return made
