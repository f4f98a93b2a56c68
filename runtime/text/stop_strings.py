"""Text held back until it cannot begin a stop string. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Text in, text before the first stop string out; what may be its beginning is held back.

    The first one is that which begins first. It is known when none that began earlier can be completed any more, so
    that it does not matter where the text was cut into pieces.

    Attributes:
        stopped: A stop string was seen; nothing more comes.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for any of ``stops``."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that certainly comes before a stop string."""
        if self.stopped:
            return ""
        self._held += text
        begun = len(self._held) - max((overlap(self._held, stop) for stop in self._stops), default=0)
        return self._released(begun)

    def flush(self) -> str:
        """What was held back, at the end: what was begun will not be completed."""
        return self._released(len(self._held))

    def _released(self, begun: int) -> str:
        """The text before the first whole stop string, but only up to where another one has ``begun``."""
        found = [index for stop in self._stops if (index := self._held.find(stop)) >= 0]
        self.stopped |= bool(found) and min(found) <= begun
        end = min([*found, begun])
        text, self._held = self._held[:end], "" if self.stopped else self._held[end:]
        return text


def overlap(text: str, word: str) -> int:
    """How many of the last characters of ``text`` begin ``word``, but are not all of it.

    >>> overlap("1 < 2 </th", "</think>")
    4
    """
    return next((size for size in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:size])), 0)
