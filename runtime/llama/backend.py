"""llama.cpp as a backend: the trunk in one context, the MTP layer in another."""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import Cancelled, SessionError
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.llama.context import ABORTED, NOT_TAKEN, Flag, LlamaContext, llama_log
from mimo_mobile.runtime.llama.state_check import arranged, parts_of_layers
from mimo_mobile.runtime.shared import Use

BATCH_TOKENS = 512
MTP_BATCH_TOKENS = 128
OUTPUT_ROWS = 64
"""A run gives at most so many rows of logits: room for 512 rows would take 311 MB."""

_ORDER = "trunk.layers"
"""The array that says in which order a copy of the trunk has its layers, where that is not their own."""


class LlamaBackend:
    """A backend that computes the trunk, and the MTP layer beside it when drafts are wanted."""

    def __init__(self, path: Path, weights: Use[Any], context: LlamaContext, flag: Flag, context_length: int) -> None:
        """Drive ``context`` of the ``weights`` in ``path``; ``flag`` ends its runs."""
        self._context, self._flag = context, flag
        self.path, self.weights, self.context_length = path, weights, context_length
        self.hidden_size = context.hidden_size
        self.kv_bytes_per_token = 0
        self.windows: Sequence[bool] = ()
        """Of each layer of the trunk, whether llama.cpp keeps it in a cache of its own, as if it had a window."""
        self.mtp: MtpHead | None = None
        self._norm: NDArray[np.float32] = np.ones(context.hidden_size, np.float32)

    def draft_with(self, mtp: MtpHead, norm: NDArray[np.float32]) -> None:
        """Show ``mtp`` what the trunk computes; ``norm`` [E] is the weight of the trunk's last norm."""
        self.mtp, self._norm = mtp, norm

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Compute ``ids`` at ``position``.

        Returns the logits [rows, V] of the last rows, a view that the next call overwrites.
        """
        self._flag.set(False)
        if cancel.is_set():  # asked after it was lowered, so that none is lost
            self._flag.set(True)
        self._context.forget(position)
        # llama.cpp gives hidden states only with logits, which cost more: of a prompt's end, as far as they fit.
        shown = min(len(ids), OUTPUT_ROWS - padding) if self.mtp is not None else 0
        done = 0
        try:
            while done < len(ids):
                stop = len(ids) - shown if done < len(ids) - shown else len(ids)
                chunk = ids[done : min(stop, done + self._batch_tokens)]
                last = done + len(chunk) == len(ids)
                showing = shown > 0 and done >= len(ids) - shown
                self._context.give_hidden(showing)
                extra = padding if last else 0
                status = self._context.run(chunk, position + done, rows if last else 0, extra)
                if status and cancel.is_set():
                    raise Cancelled
                _check_status(status)
                if showing and self.mtp is not None:
                    # Before the norm, but for a factor that the MTP layer's own norm takes out again.
                    self.mtp.observe(position + done, chunk, self._context.hidden(len(chunk)) / self._norm)
                done += len(chunk)
                if cancel.is_set():
                    raise Cancelled
        except Cancelled:
            self._context.forget(position + done)
            raise Cancelled(computed=done) from None
        return self._context.logits(rows, shown - rows if shown else 0)

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0.

        Raises:
            Cancelled: ``cancel`` was called meanwhile.
            SessionError: llama.cpp failed.
        """
        self._flag.set(False)
        self._context.forget(0)
        self._context.give_hidden(False)
        made = np.empty((len(ids), self._context.vocab_size), np.float32)
        for start in range(0, len(ids), self._output_rows):
            chunk = ids[start : start + self._output_rows]
            _check_status(self._context.run(chunk, start, len(chunk)))
            made[start : start + len(chunk)] = self._context.logits(len(chunk))
        return made

    @property
    def _batch_tokens(self) -> int:
        return min(BATCH_TOKENS, self.context_length)

    @property
    def _output_rows(self) -> int:
        return min(OUTPUT_ROWS, self.context_length)

    def state(self, tokens: int) -> BackendState:
        """A copy of the KV cache's first ``tokens`` positions, the MTP layer's included."""
        self._context.forget(tokens)
        arrays: dict[str, NDArray[Any]] = {"trunk": self._context.state()}
        if any(self.windows):
            order = [layer for part in parts_of_layers(self.windows) for layer in part]
            arrays[_ORDER] = np.array(order, np.int32)
        return BackendState(tokens, arrays if self.mtp is None else arrays | self.mtp.state(tokens))

    def restore(self, state: BackendState) -> None:
        """Put a state back.

        Raises:
            SessionError: The state belongs to another model, or to a KV cache that is unlike this one.
        """
        if "trunk" not in state.arrays:
            raise SessionError("the state is not llama.cpp's; it belongs to an ONNX model")
        self._context.restore(self._trunk_of(state.arrays), state.tokens)
        if self.mtp is not None:
            self.mtp.restore(state.arrays, state.tokens)

    def _trunk_of(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """The trunk's copy, with its layers in the parts that this context has."""
        order = arrays.get(_ORDER, np.arange(len(self.windows), dtype=np.int32))
        try:
            if order.dtype != np.int32 or order.ndim != 1:
                raise ValueError("an order of layers that is none")
            return arranged(arrays["trunk"], order.tolist(), parts_of_layers(self.windows))
        except (struct.error, ValueError) as error:
            raise SessionError(f"{NOT_TAKEN} ({error})") from error

    def cancel(self) -> None:
        """Let llama.cpp stop before its next operation."""
        self._flag.set(True)

    def close(self) -> None:
        """Free the contexts, and the weights unless another model uses them."""
        if self.mtp is not None:
            self.mtp.close()
        self._context.close()
        self.weights.end()


class LlamaMtp:
    """The MTP layer in a context of its own, with weights from the trunk's model."""

    def __init__(self, context: LlamaContext, tokens: int) -> None:
        """Drive ``context``, in whose model the first ``tokens`` ids of the vocabulary are in use."""
        self._context, self.hidden_size = context, context.hidden_size
        self.draft_ids: NDArray[np.int64] = np.arange(tokens)
        self._begin = False

    def begin(self) -> None:
        """Let the next rows be the first, whatever their position."""
        self._begin = True

    def read(self, hidden: NDArray[np.float32], ids: Sequence[int], position: int) -> tuple[NDArray[np.float32], None]:
        """Compute rows at ``position`` from hidden states [n, E] and the tokens that follow them.

        Returns the last row's logits [R], and None in place of a state [E], which this backend does not give.
        """
        self._context.forget(0 if self._begin else position)
        self._begin = False
        for start in range(0, len(ids), MTP_BATCH_TOKENS):
            chunk = ids[start : start + MTP_BATCH_TOKENS]
            part = hidden[start : start + len(chunk)]
            _check_status(self._context.run(chunk, position + start, 1, hidden=part))
        return self._context.logits(1)[0, : len(self.draft_ids)], None

    def state(self, tokens: int) -> dict[str, NDArray[Any]]:
        """A copy of the KV cache; rows after the first ``tokens`` positions are forgotten."""
        self._context.forget(0 if self._begin else tokens)
        self._begin = False
        return {"mtp": self._context.state()}

    def restore(self, arrays: Mapping[str, NDArray[Any]], tokens: int) -> None:
        """Put a state back.

        Raises:
            SessionError: It is of another model or KV cache.
        """
        if "mtp" not in arrays:
            raise SessionError("the state of another model or KV cache: its MTP layer's part is missing")
        self._context.restore(arrays["mtp"], tokens, gaps=True)
        self._begin = False

    def close(self) -> None:
        """Free the context."""
        self._context.close()


def _check_status(status: int) -> None:
    if status == ABORTED:
        raise Cancelled
    if status != 0:
        raise SessionError(f"llama_decode failed with status {status}: {llama_log().text()}")
