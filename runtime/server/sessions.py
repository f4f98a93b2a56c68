"""Which session of the model answers a prompt: the one that has computed most of it already."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_mobile.runtime.decode.decoder import common
from mimo_mobile.runtime.decode.session import Session
from mimo_mobile.runtime.model import Model


class Sessions:
    """A few sessions, each with the keys and values of one conversation; used from one thread.

    Clients send whole conversations, so the one that goes on is found by its beginning.
    """

    def __init__(self, model: Model, *, most: int, most_tokens: int) -> None:
        """Keep at most ``most`` sessions, of ``most_tokens`` tokens together, beside the one that computes."""
        self._model, self._most, self._most_tokens = model, most, most_tokens
        self._sessions: list[tuple[Session, Sequence[int]]] = []  # with its last prompt; the one used last comes last

    def session_for(self, ids: Sequence[int]) -> Session:
        """The session to answer a prompt with.

        That is the one whose last prompt has the longest beginning in common with this one, unless that is less than
        half of it, since most of what it holds would be lost; then it is a new one, and when there are enough, the one
        that was not used for longest.
        """
        shared = [common(prompt, ids) for _, prompt in self._sessions]
        best = max(range(len(shared)), key=shared.__getitem__, default=None)
        if best is not None and 2 * shared[best] >= len(self._sessions[best][1]):
            chosen, _ = self._sessions.pop(best)
        elif len(self._sessions) < self._most:
            chosen = self._model.session()
        else:
            chosen, _ = self._sessions.pop(0)
        while self._sessions and sum(len(each.tokens) for each, _ in self._sessions) > self._most_tokens:
            del self._sessions[0]
        self._sessions.append((chosen, ids))
        return chosen
