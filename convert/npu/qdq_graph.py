"""Tapes that make a piece for NPUs with quantized activations: int4 weights in LPBQ form, uint16 between all nodes.

The blocks are ``onnx_graph``'s, recorded on another tape: first on an ``ActivationTape``, whose graph gives every
activation, so that their ranges can be found; then on a ``QdqTape``, which rounds each to uint16. QNN reads weights in
blocks in one form only, low-power block quantization (LPBQ): an int4 matrix whose block scales are 4-bit integers, with
one float scale for each column. The folder's blocks are made so that they are that, too, and nothing is rounded again.
Attention stays in floating point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from mimo_mobile.errors import QuantizationError

STEPS, LEVELS, SMALLEST, NEARLY = 65535, 15, 1e-12, 1e-3
"""The steps of uint16 activations, the levels of block scales (4 bits of an uint8), the smallest scale, and how far a
whole number may be off that two float32 numbers were divided for."""


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and largest value of a tensor; 0 is always between them, so that it is exact."""

    low: float = 0.0
    high: float = 0.0

    def joined(self, values: NDArray[Any]) -> Range:
        """The range that holds the values of an array, too."""
        return Range(min(self.low, float(values.min())), max(self.high, float(values.max())))

    @property
    def scale(self) -> float:
        """The value of one step."""
        return max(self.high - self.low, 1e-6) / STEPS

    @property
    def zero_point(self) -> int:
        """The step that stands for 0."""
        return round(-self.low / self.scale)


class ActivationTape(Tape):  # type: ignore[misc]  # mypy skips onnx_ir, see pyproject.toml
    """Records a graph as it is.

    Attributes:
        activations: What gets quantized: float32 inputs and results, in the order in which they are first used.
    """

    def __init__(self) -> None:
        """Begin a graph."""
        super().__init__()
        self.activations: list[ir.Value] = []

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], *arguments: Any, **options: Any) -> ir.Value:
        """One node with one output."""
        value: ir.Value = super().op(op_type, [self._read(each) for each in inputs], *arguments, **options)
        value.dtype = value.dtype or _result(op_type, arguments)
        return value

    def op_multi_out(
        self, op_type: str, inputs: Sequence[ir.Value | None], *arguments: Any, **options: Any
    ) -> Sequence[ir.Value]:
        """One node with several outputs."""
        read = list(inputs) if op_type == "GroupQueryAttention" else [self._read(each) for each in inputs]
        values: Sequence[ir.Value] = super().op_multi_out(op_type, read, *arguments, **options)
        if op_type != "GroupQueryAttention":
            for value in values:
                value.dtype = ir.DataType.FLOAT
        return values

    def settled(self, value: ir.Value) -> ir.Value:
        """The value that the graph gives as an output."""
        return self._read(value) or value

    def _read(self, value: ir.Value | None) -> ir.Value | None:
        """What a node reads in place of a value."""
        if value is None or value.dtype != ir.DataType.FLOAT or value.const_value is not None:
            return value
        if not any(value is each for each in self.activations):
            self.activations.append(value)
        return value


class QdqTape(ActivationTape):
    """Records the same graph with quantized weights and activations."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        """Take ``ranges``, those of an ``ActivationTape`` of the same piece, in its order."""
        super().__init__()
        self._ranges = ranges
        self._done: dict[int, ir.Value] = {}

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], *arguments: Any, **options: Any) -> ir.Value:
        """One node, and the nodes that quantize its inputs."""
        if op_type != "MatMulNBits":
            return super().op(op_type, inputs, *arguments, **options)
        x, values, scales = inputs
        assert x is not None and values is not None and scales is not None
        return super().op("MatMul", [x, self._weight(values, scales, arguments[0])])

    def _read(self, value: ir.Value | None) -> ir.Value | None:
        if value is None or value.dtype != ir.DataType.FLOAT:
            return value
        if id(value) not in self._done:
            if value.const_value is not None:
                self._done[id(value)] = self._constant(value)
            else:
                super()._read(value)
                self._done[id(value)] = self._activation(value, self._ranges[len(self.activations) - 1])
        return self._done[id(value)]

    def _activation(self, value: ir.Value, found: Range) -> ir.Value:
        name = f"activation_{len(self.activations)}"
        scale = self._initializer(f"{name}.scale", np.array(found.scale, np.float32))
        zero = self._initializer(f"{name}.zero_point", np.array(found.zero_point, np.uint16))
        steps = Tape.op(self, "QuantizeLinear", [value, scale, zero])
        return self._dequantized(steps, scale, zero)

    def _constant(self, value: ir.Value) -> ir.Value:
        """A norm's weight or a bias, in uint16."""
        assert value.const_value is not None
        values = value.const_value.numpy()
        found = Range().joined(values)
        steps = np.clip(np.rint(values / found.scale) + found.zero_point, 0, STEPS).astype(np.uint16)
        scale = self._initializer(f"{value.name}.scale", np.array(found.scale, np.float32))
        zero = self._initializer(f"{value.name}.zero_point", np.array(found.zero_point, np.uint16))
        return self._dequantized(self._initializer(f"{value.name}.steps", steps), scale, zero)

    def _weight(self, values: ir.Value, scales: ir.Value, attributes: Mapping[str, Any]) -> ir.Value:
        """A weight ``[K, N]``: int4 in LPBQ form, or int8 with a scale for each column."""
        assert values.const_value is not None and scales.const_value is not None
        name, block_size = str(values.name), attributes["block_size"]
        packed, found = values.const_value.numpy(), scales.const_value.numpy()
        if attributes["bits"] == 8:
            rows = weights(packed, found, 8, block_size).reshape(len(packed), -1)
            column = (np.maximum(np.abs(rows).max(axis=1), SMALLEST) / 127).astype(np.float32)
            integers = np.rint(rows / column[:, None]).astype(np.int8)
            return self._dequantized(
                self._initializer(f"{name}.int8", np.ascontiguousarray(integers.T)),
                self._initializer(f"{name}.column_scales", column),
                self._initializer(f"{name}.column_zeros", np.zeros(len(column), np.int8)),
                axis=1,
            )
        levels, column = units(found)
        scale = self._dequantized(
            self._initializer(f"{name}.levels", np.ascontiguousarray(levels.T)),
            self._initializer(f"{name}.column_scales", column),
            self._initializer(f"{name}.column_zeros", np.zeros(len(column), np.uint8)),
            axis=1,
        )
        integers = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int8) - 8
        weight = self._int4(f"{name}.int4", integers.reshape(len(column), -1).T)
        zeros = self._int4(f"{name}.zeros", np.zeros(levels.T.shape, np.int8))
        return self._dequantized(weight, scale, zeros, axis=0, block_size=block_size)

    def _int4(self, name: str, integers: NDArray[np.int8]) -> ir.Value:
        """Integers from −8 to 7, two in a byte."""
        flat = np.ascontiguousarray(integers).reshape(-1).view(np.uint8) & 15
        packed = flat[::2] | flat[1::2] << 4
        return self.initializer(ir.PackedTensor(packed, ir.DataType.INT4, shape=ir.Shape(integers.shape), name=name))

    def _dequantized(self, steps: ir.Value, scale: ir.Value, zero: ir.Value, **attributes: int) -> ir.Value:
        value: ir.Value = Tape.op(self, "DequantizeLinear", [steps, scale, zero], attributes)
        value.dtype = ir.DataType.FLOAT
        self._done[id(value)] = value
        return value

    def _initializer(self, name: str, values: NDArray[Any]) -> ir.Value:
        return self.initializer(ir.tensor(values, name=name))


def weights(packed: NDArray[np.uint8], scales: NDArray[Any], bits: int, block_size: int) -> NDArray[np.float32]:
    """The weights ``[N, blocks, block_size]`` of MatMulNBits' integers ``[N, blocks, block_size * bits / 8]``."""
    integers = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1)
    shape = (*scales.shape, block_size)
    found: NDArray[np.float32] = integers.reshape(shape).astype(np.float32) - (128 if bits == 8 else 8)
    return found * scales.astype(np.float32)[..., None]


def units(scales: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Scales `[N, blocks]` as how many units they have, and the unit of each row `[N]`.

    Raises:
        QuantizationError: They are not 1 to ``LEVELS`` times a unit.
    """
    counts = np.arange(1, LEVELS + 1, dtype=np.float32)
    tried = scales.astype(np.float32).max(axis=1)[:, None] / counts
    parts = scales.astype(np.float32)[:, :, None] / np.maximum(tried, np.finfo(np.float32).tiny)[:, None, :]
    whole = np.rint(parts)
    fitting = ((np.abs(parts - whole) < NEARLY) & (whole >= 1)).all(axis=1)
    if not fitting.any(axis=1).all():
        raise QuantizationError(
            "int4 blocks whose scales are no multiples of a unit found, which NPUs with quantized activations do not"
            " take; quantize with --target qdq"
        )
    chosen = fitting.argmax(axis=1)
    rows = np.arange(len(chosen))
    return whole[rows, :, chosen].astype(np.uint8), tried[rows, chosen]


def _result(op_type: str, arguments: Sequence[Any]) -> ir.DataType:
    return ir.DataType(arguments[0]["to"]) if op_type == "Cast" else ir.DataType.FLOAT
