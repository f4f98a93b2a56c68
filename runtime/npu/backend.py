"""Binaries for an NPU as a backend, alone or beside the CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import Cancelled
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.npu.model import NpuModel
from mimo_mobile.runtime.onnx.kv_cache import copied, put_back


class NpuBackend:
    """The trunk on the NPU, and its MTP layer when drafts are wanted."""

    def __init__(self, model: NpuModel, mtp: MtpHead | None = None) -> None:
        """Drive ``model``; ``mtp`` is shown all hidden states."""
        self.model, self.mtp = model, mtp
        self.context_length, self.kv_bytes_per_token = model.context_length, model.kv_bytes_per_token

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [rows, V] of the last. Windows pad anyway: ``padding`` is unused.

        Raises:
            NumericsError: The NPU computed NaN or infinity.
        """
        start, last = 0, np.empty((0, self.model.hidden_size), self.model.dtype)
        while start < len(ids):
            if cancel.is_set():
                raise Cancelled(computed=start)
            window = self.model.window(len(ids) - start, position + start)
            part = ids[start : start + window]
            hidden = self.model.hidden(part, position + start, window)
            if self.mtp is not None:
                self.mtp.observe(position + start, part, hidden)
            last = np.concatenate([last, hidden])[-rows:] if rows else last
            start += len(part)
        if cancel.is_set():
            raise Cancelled(computed=start)
        return self.model.logits(last)

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0."""
        return self.decode(ids, 0, threading.Event(), len(ids))

    def state(self, tokens: int) -> BackendState:
        """A copy of the first ``tokens`` positions, the MTP layer's included."""
        return copied(self.model.cache, self.mtp, tokens)

    def restore(self, state: BackendState) -> None:
        """Put a state back.

        Raises:
            SessionError: It is another model's.
        """
        put_back(self.model.cache, self.mtp, state)

    def cancel(self) -> None:
        """Do nothing more: a run on the NPU ends after its window, and ``decode`` then looks at the event."""

    def close(self) -> None:
        """Free the model."""
        if self.mtp is not None:
            self.mtp.close()
        self.model.close()


class SplitBackend:
    """Computes prompts on the NPU, which is fast with many rows, and tokens on the CPU, on the same caches."""

    def __init__(self, npu: NpuBackend, cpu: Any) -> None:
        """Join two backends, of which ``cpu`` was made on the caches of ``npu``, with one MTP layer."""
        if npu.mtp is not None:
            npu.mtp.close()
        self._npu, self._cpu, self.mtp = npu, cpu, cpu.mtp
        npu.mtp = cpu.mtp
        self.context_length, self.kv_bytes_per_token = npu.context_length, npu.kv_bytes_per_token

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [rows, V] of the last.

        Raises:
            NumericsError: One of both computed NaN or infinity.
        """
        prompt = self._npu.model.reach(len(ids) - rows, position)
        if prompt < self._npu.model.windows[0] // 2:
            prompt = 0
        if prompt:
            self._npu.decode(ids[:prompt], position, cancel, rows=0)
            ids, position = ids[prompt:], position + prompt
        try:
            logits: NDArray[np.float32] = self._cpu.decode(ids, position, cancel, rows, padding)
        except Cancelled:
            raise Cancelled(computed=prompt) from None  # what the CPU computed behind it was not checked
        self._npu.model.check(self._npu.model.cache, position, len(ids), logits)
        return logits

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0."""
        logits: NDArray[np.float32] = self._cpu.all_logits(ids)
        self._npu.model.check(self._npu.model.cache, 0, len(ids))
        return logits

    def state(self, tokens: int) -> BackendState:
        """A copy of the first ``tokens`` positions, the MTP layer's included."""
        return self._npu.state(tokens)

    def restore(self, state: BackendState) -> None:
        """Put a state back.

        Raises:
            SessionError: It is another model's.
        """
        self._npu.restore(state)

    def cancel(self) -> None:
        """End the run that is under way."""
        self._cpu.cancel()

    def close(self) -> None:
        """Free both."""
        self._npu.mtp = None
        self._cpu.close()
        self._npu.close()
