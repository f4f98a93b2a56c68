"""Whether a text has begun to repeat itself without an end, as models do when their thinking gets stuck.

Only what says nothing new counts: the same piece again and again, the same few lines or sentences in any order, long
phrases with little between them, or a piece in which nothing but numbers change, each by the same step. A table, a list
or a program looks alike, but a column of it grows unevenly, a word differs, or it ends in time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

WINDOW = 8192
"""Characters at the end of the text that are looked at."""

EVERY = 256
"""The text is looked at each time that it has grown by so many characters, which takes a few milliseconds."""

PIECE_TIMES, PIECE_LENGTH = 4, 2000
"""A piece that is there so often, with so many characters in all, is a loop."""

COUNT_TIMES, COUNT_LENGTH = 100, 3000
"""The same for a piece whose numbers count: a list of a hundred short lines is still one."""

LINES, DISTINCT_LINES, LINES_LENGTH = 120, 6, 2000
"""So many lines or sentences, of which so few differ, with so many characters in all."""

WORDS, PHRASE, KNOWN = 900, 8, 0.92
"""Of so many words the last third says nothing new when this share of its phrases, of so many words each, was there
twice before: a draft that is written out once more is no loop."""

_ENDS = re.compile(r"[.!?]\s|\n")
_SYMBOLS = re.compile(r"[0-9]{1,15}|[^0-9]")


class LoopGuard:
    """Follows a text, and tells when its end has become a loop.

    Attributes:
        found: Whether it has.
    """

    def __init__(self) -> None:
        """Begin without text."""
        self.found = False
        self._tail, self._new = "", 0

    def feed(self, text: str) -> None:
        """Go on with some more of the text."""
        self._tail, self._new = (self._tail + text)[-WINDOW:], self._new + len(text)
        if self._new >= EVERY and not self.found:
            self._new = 0
            self.found = is_loop(self._tail)


def is_loop(tail: str) -> bool:
    """Whether the end of a text is a loop."""
    if len(tail) < PIECE_LENGTH:
        return False
    return _repeats(tail) or _counts(tail) or _same_lines(tail) or _same_phrases(tail)


def _repeats(tail: str) -> bool:
    """Whether the text ends with one piece, several times."""
    periods = _periods(tail[::-1])
    lengths = np.arange(1, len(periods) + 1)
    return bool(((lengths >= PIECE_LENGTH) & (lengths >= PIECE_TIMES * periods)).any())


def _counts(tail: str) -> bool:
    """Whether the text ends with one piece, many times, in which numbers change, each by its own step."""
    symbols: list[str] = _SYMBOLS.findall(tail.rstrip("0123456789"))[::-1]  # the last number may go on
    periods = _periods(["0" if symbol.isdecimal() else symbol for symbol in symbols])
    length = 0
    for place, symbol in enumerate(symbols):
        length += len(symbol)
        period = int(periods[place])
        if length >= COUNT_LENGTH and place + 1 >= COUNT_TIMES * period:
            return _in_steps(symbols[: (place + 1) // period * period], period)
    return False


def _in_steps(symbols: Sequence[str], period: int) -> bool:
    """Whether each number of a piece changes by the same amount from one time to the next."""
    columns = [symbols[start::period] for start in range(period) if symbols[start].isdecimal()]
    return bool(columns) and all(len(set(np.diff(np.array(each, np.int64)).tolist())) == 1 for each in columns)


def _same_lines(tail: str) -> bool:
    """Whether the last lines or sentences are the same few."""
    lines = [line for each in _ENDS.split(tail)[:-1] if (line := each.strip())][-LINES:]
    return len(lines) == LINES and len(set(lines)) <= DISTINCT_LINES and sum(map(len, lines)) >= LINES_LENGTH


def _same_phrases(tail: str) -> bool:
    """Whether the last words are phrases, of words and not of numbers alone, that were there twice before."""
    words = tail.split()[-WORDS:]
    phrases = [tuple(words[start : start + PHRASE]) for start in range(len(words) - PHRASE + 1)]
    earlier = Counter(phrases[: WORDS * 2 // 3])
    last = phrases[WORDS * 2 // 3 :]
    known = [phrase for phrase in last if earlier[phrase] >= 2 and sum(map(str.isalpha, phrase)) >= PHRASE // 2]
    return len(words) == WORDS and len(known) >= KNOWN * len(last)


def _periods(symbols: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each beginning of a sequence the shortest period it has (by Knuth, Morris and Pratt)."""
    borders, border = [0] * len(symbols), 0
    for place in range(1, len(symbols)):
        while border and symbols[place] != symbols[border]:
            border = borders[border - 1]
        border += symbols[place] == symbols[border]
        borders[place] = border
    return np.arange(1, len(symbols) + 1) - np.array(borders, np.int64)
