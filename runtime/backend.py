"""What computes: the protocol that llama.cpp, ONNX Runtime and NPUs are driven by, and that apps and tests can fill."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mimo_mobile.errors import Cancelled as Cancelled  # what a backend raises when its run was cut off

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mimo_mobile.runtime.decode.mtp_head import MtpHead

KvDtype = Literal["f32", "f16", "int8"]
"""What a KV cache is made of; int8 has scales: by channel in ONNX graphs, by 32 values in llama.cpp (its q8_0)."""


@dataclass(frozen=True, slots=True)
class BackendState:
    """A copy of what a backend's KV caches hold of one conversation.

    Attributes:
        tokens: How many positions it covers.
        arrays: The contents by name; only the backend that made them, or an equal one, can read them.
    """

    tokens: int
    arrays: Mapping[str, NDArray[Any]]

    @property
    def size_bytes(self) -> int:
        """Memory of all arrays together."""
        return sum(each.nbytes for each in self.arrays.values())


class Backend(Protocol):
    """A loaded model with one KV cache. Positions begin at 0; only ``cancel`` may be called from any thread."""

    @property
    def context_length(self) -> int:
        """How many tokens the KV cache holds."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token in the KV cache."""

    @property
    def mtp(self) -> MtpHead | None:
        """The MTP layer that drafts; it is shown all that ``decode`` computes. None when there is none."""

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``, forgetting later entries; the logits [rows, V] of the last, until the next call.

        ``padding`` more rows are computed and forgotten, where that is cheaper.

        Raises:
            Cancelled: ``cancel`` was set meanwhile; it says how many of ``ids`` the cache holds behind ``position``.
            SessionError: The backend failed.
        """

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0.

        Raises:
            Cancelled: ``cancel`` was called meanwhile.
            SessionError: The backend failed.
        """

    def state(self, tokens: int) -> BackendState:
        """A copy of the KV cache's first ``tokens`` positions, the MTP layer's included."""

    def restore(self, state: BackendState) -> None:
        """Put what ``state`` gave back into the KV cache.

        Raises:
            SessionError: The state is another model's, or of another KV cache.
        """

    def cancel(self) -> None:
        """End the run under way soon; called from any thread, after the event of ``decode`` was set."""

    def close(self) -> None:
        """Free the memory."""
