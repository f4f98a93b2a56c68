"""The MTP layer beside a trunk: which rows it has read, which hidden states wait for it, what it drafts.

Row p of the layer reads the trunk's hidden state at position p and the token at p + 1, and gives logits of the token
at p + 2. Rows are read when their token is certain, so the layer's KV cache never has to forget one. Knows no backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import SessionError

WAITING_ROWS = 128
"""So many rows are read in one run while nothing is drafted: by the row this costs a fraction of a draft."""


class MtpLayer(Protocol):
    """The layer on one backend, with a KV cache of its own."""

    @property
    def draft_ids(self) -> NDArray[np.int64]:
        """The tokens [R] that it scores."""

    @property
    def hidden_size(self) -> int:
        """The length E of the hidden states that it reads."""

    def begin(self) -> None:
        """Forget all rows; the next ones may stand at any position."""

    def read(
        self, hidden: NDArray[np.float32], ids: Sequence[int], position: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Put rows from hidden states [n, E] and their next tokens at ``position``, forgetting later ones.

        Returns the last row's logits [R], and the state [E] that can take a hidden state's place for one more draft,
        where the backend gives it.

        Raises:
            SessionError: The backend failed.
        """

    def state(self, tokens: int) -> dict[str, NDArray[Any]]:
        """A copy of the KV cache's first ``tokens`` rows, under names that begin with ``mtp.``."""

    def restore(self, arrays: Mapping[str, NDArray[Any]], tokens: int) -> None:
        """Put such a copy of ``tokens`` rows back.

        Raises:
            SessionError: It is another model's, or of another number of rows.
        """

    def close(self) -> None:
        """Free the memory."""


class MtpHead:
    """What a session drafts with.

    Attributes:
        layer: The layer on its backend.
    """

    def __init__(self, layer: MtpLayer) -> None:
        """Begin with an empty cache."""
        self.layer = layer
        self._first = 0  # position of the first row that waits; those before it are in the layer's cache
        self._hidden: list[NDArray[np.float32]] = []
        self._ids: list[int] = []
        self._state: NDArray[np.float32] | None = None

    @property
    def draft_ids(self) -> NDArray[np.int64]:
        """The tokens [R] that are scored."""
        return self.layer.draft_ids

    def resume(self, count: int) -> int:
        """Keep the first ``count`` tokens; returns how many the trunk may keep so that no hidden state is missed."""
        if count > self._first:
            self._cut(count)
            return count
        if count == 0:
            self.layer.begin()
            self._first, self._hidden, self._ids = 0, [], []
            return 0
        # The last kept token's row was read with a token that may not follow now; it must be made again.
        self._first, self._hidden, self._ids = count - 1, [], []
        return count - 1

    def observe(self, position: int, ids: Sequence[int], hidden: NDArray[np.float32]) -> None:
        """Keep a copy of what the trunk computed for ``ids`` at ``position``: hidden states [T, E].

        All before ``position`` is certain by now.
        """
        self._cut(position)
        if not self._first <= position <= self._first + len(self._ids):
            # Begun anew, or rows before are missing: attention does without them.
            self.layer.begin()
            self._first, self._hidden, self._ids = position, [], []
        if len(self._ids) >= WAITING_ROWS:
            self._read(ids[0])
        self._hidden.append(hidden.astype(np.float32))
        self._ids.extend(ids)

    def draft(self, position: int, token: int) -> NDArray[np.float32]:
        """Logits [R] of the token after ``token``, which is the one at ``position``."""
        self._cut(position)
        return self._read(token)

    def draft_more(self, position: int, token: int) -> NDArray[np.float32]:
        """One more draft after ``token`` at ``position``, itself a draft: the layer reads its own state again."""
        assert self._state is not None
        logits, self._state = self.layer.read(self._state[None], [token], position - 1)
        return logits

    def state(self, tokens: int) -> dict[str, NDArray[Any]]:
        """What it knows of the first ``tokens`` tokens: the layer's cache, and the rows that wait."""
        self._cut(tokens)
        self._first = min(self._first, tokens)
        waiting = {"head.ids": np.array([self._first, *self._ids], np.int64)}
        if self._hidden:
            waiting["head.hidden"] = np.concatenate(self._hidden)
        return self.layer.state(self._first) | waiting

    def restore(self, arrays: Mapping[str, NDArray[Any]], tokens: int) -> None:
        """Go on from such a state of ``tokens`` tokens; after one without an MTP layer, drafts begin anew.

        Raises:
            SessionError: It is another model's, or its parts do not go together.
        """
        if "head.ids" not in arrays:
            self.resume(0)
            return
        first, ids, hidden = self._waiting(arrays, tokens)
        self.layer.restore(arrays, first)
        self._first, self._ids, self._hidden = first, ids, hidden

    def close(self) -> None:
        """Free the memory."""
        self.layer.close()

    def _waiting(
        self, arrays: Mapping[str, NDArray[Any]], tokens: int
    ) -> tuple[int, list[int], list[NDArray[np.float32]]]:
        """The first row that waits, the tokens of those that do, and their hidden states."""
        kept = arrays["head.ids"]
        if kept.dtype == np.int64 and kept.ndim == 1 and len(kept):
            first, *ids = kept.tolist()
            hidden = [arrays["head.hidden"]] if ids and "head.hidden" in arrays else []
            shapes = [(each.dtype.name, each.shape) for each in hidden]
            expected = [("float32", (len(ids), self.layer.hidden_size))] if ids else []
            if 0 <= first <= first + len(ids) <= tokens and min(ids, default=0) >= 0 and shapes == expected:
                return first, ids, hidden
        raise SessionError("the state of another model: what waits for its MTP layer does not go with this one")

    def _read(self, token: int) -> NDArray[np.float32]:
        hidden = np.concatenate(self._hidden)
        logits, self._state = self.layer.read(hidden, [*self._ids[1:], token], self._first)
        self._first += len(self._ids)
        self._hidden, self._ids = [], []
        return logits

    def _cut(self, position: int) -> None:
        """Drop rows that wait at ``position`` and later."""
        keep = max(0, position - self._first)
        if keep < len(self._ids):
            self._ids = self._ids[:keep]
            self._hidden = [np.concatenate(self._hidden)[:keep]] if keep else []
