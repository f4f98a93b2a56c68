"""KV caches that ONNX graphs extend in place: values that graphs are bound to and that states are copied of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import SessionError
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.decode.mtp_head import MtpHead

_TRUNK = "trunk."


class KvCache:
    """Caches ``[1, K, C, D]`` by the names of the graph's inputs, such as ``past_key_values.0.key``.

    Each lies where the execution provider reads it, so that a run copies none of it: on the CPU or on a device.

    Attributes:
        values: The OrtValues to bind.
    """

    def __init__(
        self,
        ort: Any,
        shapes: Mapping[str, tuple[tuple[int, ...], Any]],
        devices: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Make room for caches of these shapes and dtypes.

        ``devices`` has the ``OrtMemoryInfo`` of those that are not on the CPU.
        """
        self._ort, self._shapes = ort, shapes
        # An OrtValue on the CPU is a view of its array: it copies nothing.
        self._arrays: dict[str, NDArray[Any]] = {}
        self.values: dict[str, Any] = {}
        for name, (shape, dtype) in shapes.items():
            if name in devices:
                self.values[name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, memory_info=devices[name])
                continue
            self._arrays[name] = np.zeros(shape, dtype)
            self.values[name] = ort.OrtValue.ortvalue_from_numpy(self._arrays[name])

    @property
    def nbytes(self) -> int:
        """Memory of all caches."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self._shapes.values())

    def holds(self, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> bool:
        """Whether the caches are of these shapes and dtypes."""
        return self._shapes == shapes

    def is_finite(self, start: int, stop: int) -> bool:
        """Whether caches on the CPU hold numbers at positions ``start`` to ``stop``."""
        return all(np.isfinite(array[:, :, start:stop]).all() for array in self._arrays.values())

    def clear(self, start: int) -> None:
        """Write zeros to caches on the CPU from position ``start`` on."""
        for array in self._arrays.values():
            array[:, :, start:] = 0

    def copy(self, tokens: int, prefix: str) -> dict[str, NDArray[Any]]:
        """Copies of the first ``tokens`` positions, named with ``prefix``."""
        return {prefix + name: self._array(name)[:, :, :tokens].copy() for name in self._shapes}

    def fill(self, arrays: Mapping[str, NDArray[Any]], prefix: str, tokens: int) -> None:
        """Put such copies of ``tokens`` positions back; positions behind them keep what they hold.

        Raises:
            SessionError: They are another model's.
        """
        kept = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        expected = {
            name: (np.dtype(dtype), (*shape[:2], tokens, shape[3])) for name, (shape, dtype) in self._shapes.items()
        }
        if {name: (each.dtype, each.shape) for name, each in kept.items()} != expected:
            raise SessionError("the state of another model or KV cache: its arrays are not those of this one")
        for name, (shape, _) in self._shapes.items():
            if tokens > shape[2]:
                raise SessionError(
                    f"the state covers {tokens} tokens, the context holds {shape[2]}; load with a larger context_length"
                )
            array = self._array(name)
            array[:, :, :tokens] = kept[name]
            if name not in self._arrays:
                self._ort.copy_tensors([self._ort.OrtValue.ortvalue_from_numpy(array)], [self.values[name]])

    def _array(self, name: str) -> NDArray[Any]:
        """A cache's array; one on a device is copied whole."""
        found: NDArray[Any] = self._arrays[name] if name in self._arrays else self.values[name].numpy()
        return found


def copied(cache: KvCache, mtp: MtpHead | None, tokens: int) -> BackendState:
    """A copy of a trunk's cache over ``tokens`` positions, with what its MTP layer knows of them."""
    arrays = cache.copy(tokens, _TRUNK)
    return BackendState(tokens, arrays if mtp is None else arrays | mtp.state(tokens))


def put_back(cache: KvCache, mtp: MtpHead | None, state: BackendState) -> None:
    """Put such a copy back.

    Raises:
        SessionError: It is another model's.
    """
    cache.fill(state.arrays, _TRUNK, state.tokens)
    if mtp is not None:
        mtp.restore(state.arrays, state.tokens)
