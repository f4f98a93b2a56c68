"""A checkpoint's weights as onnx-ir tensors that are read, and quantized, when their bytes are asked for.

This module knows checkpoints and formats; ``onnx_graph`` makes the graphs that take these weights.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Protocol, TypeVar

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

AHEAD = 2 * (os.cpu_count() or 2)
"""So many parts of a tensor are made at most while the one before them is written."""

T = TypeVar("T")

Parts = Callable[[], Iterator[NDArray[Any]]]
"""Makes a tensor's bytes in their order, part after part."""

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
        # Scales are made with the integers, and written after them.
        self._scales: dict[str, NDArray[np.float32]] = {}

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
        shape = (rows, columns // row_format.block_size, row_format.block_size * row_format.bits // 8)
        values = _streamed(joint(names), ir.DataType.UINT8, shape, lambda: self._integers(names, row_format))
        return self._matrix(values, names, rows, columns, row_format)

    def embedding(self, name: str) -> Matrix:
        """The embedding, plain, or INT4 in blocks with scales."""
        view, row_format = self._tensors[name], self._format_of(name)
        rows, columns = view.shape
        if isinstance(row_format, PlainFormat):

            def cast(start: int, stop: int) -> NDArray[Any]:
                return row_format.cast(view.float32(start, stop))

            def plain() -> Iterator[NDArray[Any]]:
                return self._in_turn(partial(cast, *part) for part in _parts(view))

            return Matrix(_streamed(name, _dtype(row_format), view.shape, plain), columns, rows)

        def signed() -> Iterator[NDArray[np.uint8]]:
            # From 0…15 around 8 to two's complement, both integers of a byte.
            return (packed ^ np.uint8(0x88) for packed in self._integers((name,), row_format))

        values = _streamed(name, ir.DataType.INT4, view.shape, signed)
        return self._matrix(values, (name,), rows, columns, row_format)

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

    def _matrix(
        self, values: ir.TensorProtocol, names: tuple[str, ...], rows: int, columns: int, row_format: MatMulFormat
    ) -> Matrix:
        """Integers together with their scales."""
        dtype, name = self._compute.activations, joint(names)
        shape = (rows, columns // row_format.block_size)
        scales = _lazy(name + ".scales", dtype, shape, lambda: self._scales.pop(name).astype(dtype.numpy(), copy=False))
        return Matrix(values, columns, rows, scales, row_format.bits, row_format.block_size)

    def _integers(self, names: tuple[str, ...], row_format: MatMulFormat) -> Iterator[NDArray[np.uint8]]:
        """Parts of the integers of stacked weights, which all threads compute; their scales are kept."""
        scales = []
        # Stacked matrices read the same.
        importance = self._importance.get("lm_head.weight" if names[0] == DRAFT_HEAD else names[0])

        def task(view: Tensor, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            return row_format.quantize(view.float32(start, stop), importance)

        views = [self._tensors[name] for name in names]
        for integers, each in self._in_turn(partial(task, view, *part) for view in views for part in _parts(view)):
            scales.append(each)
            yield integers
        self._scales[joint(names)] = np.concatenate(scales)

    def _in_turn(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What tasks give, in their order; the threads are at most ``AHEAD`` of them ahead."""
        waiting: deque[Future[T]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(task))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


@dataclass(frozen=True, slots=True)
class Streamed:
    """A tensor's bytes, which are made while they are written, so that most of them are never in memory.

    Attributes:
        name: The tensor's name.
        parts: Makes them.
    """

    name: str
    parts: Parts

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes.

        Raises:
            QuantizationError: A format does not fit the tensor.
        """
        try:
            for part in self.parts():
                file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        except QuantizationError as error:
            raise QuantizationError(f"tensor {self.name}: {error}") from error


def _streamed(name: str, dtype: ir.DataType, shape: tuple[int, ...], parts: Parts) -> ir.LazyTensor:
    return ir.LazyTensor(lambda: Streamed(name, parts), dtype, ir.Shape(shape), name=name)


def _parts(view: Tensor) -> Iterator[tuple[int, int]]:
    """First row and row after the last of what a thread takes at a time."""
    step = max(1, TASK_WEIGHTS // view.shape[1])
    return ((start, min(start + step, view.shape[0])) for start in range(0, view.shape[0], step))


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
