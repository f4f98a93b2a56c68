"""ONNX Runtime as a backend: the trunk's graph and the MTP layer's, each with one preallocated KV cache."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import Cancelled
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.onnx.cached_graph import BATCH_TOKENS, CachedGraph
from mimo_mobile.runtime.onnx.kv_cache import KvCache, copied, put_back
from mimo_mobile.runtime.shared import Use

MOST_ROWS = 16
"""The most rows of logits in a decoding run: a token, its drafts and padding."""


class OrtBackend:
    """The trunk, and the MTP layer beside it when drafts are wanted."""

    def __init__(self, graph: CachedGraph, mtp: MtpHead | None = None, uses: Sequence[Use[Any]] = ()) -> None:
        """Drive ``graph``; ``mtp`` is shown all hidden states. ``uses`` are of what is shared with other models."""
        self._uses = uses
        self._graph, self.mtp = graph, mtp
        self.context_length, self.kv_bytes_per_token = graph.context_length, graph.kv_bytes_per_token
        self._rows = graph.empty_logits(MOST_ROWS)
        self._hidden = np.empty((BATCH_TOKENS, graph.hidden_size), graph.hidden_dtype)

    def uses(self, cache: KvCache) -> bool:
        """Whether the trunk's keys and values are kept in ``cache``."""
        return self._graph.cache is cache

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [rows, V] of the last, a view that the next call overwrites."""
        done = 0
        try:
            while done < len(ids):
                self._graph.renew()  # first, so that a cancel from here on ends this run
                if cancel.is_set():
                    raise Cancelled
                chunk = ids[done : done + BATCH_TOKENS]
                last = done + len(chunk) == len(ids)
                self._run(chunk, position + done, rows if last else 0, padding if last else 0)
                done += len(chunk)
            if cancel.is_set():
                raise Cancelled
        except Cancelled:
            raise Cancelled(computed=done) from None
        return self._rows[:rows].astype(np.float32, copy=False)

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0.

        Raises:
            Cancelled: ``cancel`` was called meanwhile.
            SessionError: ONNX Runtime failed.
        """
        rows = self._graph.empty_logits(len(ids))
        self._graph.renew()
        for start in range(0, len(ids), BATCH_TOKENS):
            chunk = ids[start : start + BATCH_TOKENS]
            if self.mtp is not None:  # it was bound for another number of rows
                self._graph.bind_output("hidden_states", self._hidden[None, : len(chunk)])
            self._graph.run(chunk, start, rows[start : start + BATCH_TOKENS])
        return rows.astype(np.float32, copy=False)

    def state(self, tokens: int) -> BackendState:
        """A copy of the first ``tokens`` positions, the MTP layer's included."""
        return copied(self._graph.cache, self.mtp, tokens)

    def restore(self, state: BackendState) -> None:
        """Put a state back.

        Raises:
            SessionError: It is another model's.
        """
        put_back(self._graph.cache, self.mtp, state)

    def cancel(self) -> None:
        """End the run that is under way."""
        self._graph.run_options.terminate = True

    def close(self) -> None:
        """Free the caches, and the model unless another one uses its sessions."""
        self._graph.close()
        if self.mtp is not None:
            self.mtp.close()
        for use in self._uses:
            use.end()

    def _run(self, ids: Sequence[int], position: int, rows: int, padding: int) -> None:
        padded = [*ids, *[ids[-1]] * padding] if padding else ids
        if self.mtp is not None:
            self._graph.bind_output("hidden_states", self._hidden[None, : len(padded)])
        self._graph.run(padded, position, self._rows[: rows + padding])
        if self.mtp is not None:
            self.mtp.observe(position, ids, self._hidden[: len(ids)])


class OrtMtp:
    """The MTP layer's graph."""

    def __init__(self, graph: CachedGraph) -> None:
        """Drive ``graph``, whose first run tells which tokens it scores."""
        self._graph, self.hidden_size = graph, graph.hidden_size
        self._logits = graph.empty_logits(1)
        self._hidden = np.zeros((BATCH_TOKENS, graph.hidden_size), graph.hidden_dtype)
        self._out = np.empty_like(self._hidden)
        self.draft_ids: NDArray[np.int64] = np.empty(graph.logits_size, np.int64)
        graph.bind_output("draft_ids", self.draft_ids)
        self.read(self._hidden[:1], [0], 0)

    def begin(self) -> None:
        """Do nothing: a row attends to all positions before it, and those are read anew."""

    def read(
        self, hidden: NDArray[np.float32], ids: Sequence[int], position: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Put rows from hidden states [n, E] and their next tokens at ``position``; (last logits [R], state [E])."""
        count = 0
        for start in range(0, len(ids), BATCH_TOKENS):
            count = len(ids[start : start + BATCH_TOKENS])
            self._hidden[:count] = hidden[start : start + count]
            self._graph.bind_input("hidden_states", self._hidden[None, :count])
            self._graph.bind_output("hidden_states_out", self._out[None, :count])
            self._graph.run(ids[start : start + count], position + start, self._logits)
        return self._logits[0].astype(np.float32, copy=False), self._out[count - 1].astype(np.float32)

    def state(self, tokens: int) -> dict[str, NDArray[Any]]:
        """A copy of the first ``tokens`` rows."""
        return self._graph.cache.copy(tokens, "mtp.")

    def restore(self, arrays: Mapping[str, NDArray[Any]], tokens: int) -> None:
        """Put a state back."""
        self._graph.cache.fill(arrays, "mtp.", tokens)

    def close(self) -> None:
        """Free the layer and its cache."""
        self._graph.close()
