"""Text held back until it cannot begin a stop string. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Text in, text before the first stop string out; what may be its beginning is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for any of ``stops``; once one was seen ``stopped`` is true and nothing more comes."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that certainly comes before a stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [index for stop in self._stops if (index := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held, text = "", self._held[: min(found)]
            return text
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def flush(self) -> str:
        """What was held back, at the end."""
        text, self._held = self._held, ""
        return text


def overlap(text: str, word: str) -> int:
    """How many of the last characters of ``text`` begin ``word``, but are not all of it.

    >>> overlap("1 < 2 </th", "</think>")
    4
    """
    return next((size for size in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:size])), 0)
