"""KV caches that ONNX graphs extend in place: arrays that graphs are bound to and that states are copied of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import SessionError
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.decode.mtp_head import MtpHead

_TRUNK = "trunk."


class KvCache:
    """Caches ``[1, K, C, D]`` by the names of the graph's inputs, such as ``past_key_values.0.key``.

    Attributes:
        values: The OrtValues to bind; each shares its memory with an array here.
    """

    def __init__(self, ort: Any, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Make room for caches of these shapes and dtypes."""
        # An OrtValue on the CPU is a view of its array: it copies nothing.
        self._arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
        self.values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._arrays.items()}

    @property
    def nbytes(self) -> int:
        """Memory of all caches."""
        return sum(each.nbytes for each in self._arrays.values())

    def copy(self, tokens: int, prefix: str) -> dict[str, NDArray[Any]]:
        """Copies of the first ``tokens`` positions, named with ``prefix``."""
        return {prefix + name: array[:, :, :tokens].copy() for name, array in self._arrays.items()}

    def fill(self, arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
        """Put such copies back; positions behind them keep what they hold.

        Raises:
            SessionError: They are another model's.
        """
        kept = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        if {name: (each.dtype, each[:, :, :0].shape) for name, each in kept.items()} != {
            name: (each.dtype, each[:, :, :0].shape) for name, each in self._arrays.items()
        }:
            raise SessionError("the state of another model or KV cache: its arrays are not those of this one")
        for name, array in self._arrays.items():
            tokens = kept[name].shape[2]
            if tokens > array.shape[2]:
                raise SessionError(
                    f"the state covers {tokens} tokens, the context holds {array.shape[2]};"
                    " load with a larger context_length"
                )
            array[:, :, :tokens] = kept[name]


def copied(cache: KvCache, mtp: MtpHead | None, tokens: int) -> BackendState:
    """A copy of a trunk's cache over ``tokens`` positions, with what its MTP layer knows of them."""
    arrays = cache.copy(tokens, _TRUNK)
    return BackendState(tokens, arrays if mtp is None else arrays | mtp.state(tokens))


def put_back(cache: KvCache, mtp: MtpHead | None, state: BackendState) -> None:
    """Put such a copy back.

    Raises:
        SessionError: It is another model's.
    """
    cache.fill(state.arrays, _TRUNK)
    if mtp is not None:
        mtp.restore(state.arrays)
