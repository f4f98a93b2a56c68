"""What computes: the protocol that llama.cpp, ONNX Runtime and NPUs are driven by, and that tests and apps can fill."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mimo_mobile.runtime.decode.mtp_head import MtpHead

KvDtype = Literal["f32", "f16", "int8"]
"""Of the KV cache; int8 has scales: by channel in ONNX graphs, by 32 values in llama.cpp (its q8_0)."""


class Backend(Protocol):
    """A loaded model with one KV cache. Positions from 0; not thread safe, but for ``cancel``."""

    @property
    def context_length(self) -> int:
        """Tokens that the KV cache holds."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token in the KV cache."""

    @property
    def mtp(self) -> MtpHead | None:
        """What drafts; it is shown all that ``decode`` computes."""

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``, forgetting later entries; the logits [rows, V] of the last, until the next call.

        ``padding`` more rows are computed and forgotten, where that is cheaper.

        Raises:
            Cancelled: ``cancel`` was set meanwhile; the cache holds what is before ``position``.
            SessionError: The backend failed.
        """

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0.

        Raises:
            SessionError: The backend failed.
        """

    def cancel(self) -> None:
        """End a running ``decode`` soon; called from any thread, after the event was set."""

    def close(self) -> None:
        """Free the memory."""


class Cancelled(Exception):
    """A computation was cut off; control flow between a backend and the session, never seen by users."""
