"""An answer that a structure restricts, behind thinking that is free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.mimo7b import THINK_CLOSE, THINK_OPEN
from mimo_mobile.runtime.decode.grammars import Grammars, Matcher
from mimo_mobile.runtime.structure import Structure
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

OPEN_THINKING = f"{THINK_OPEN}\n"

BEFORE_ANSWER = "\n\n"
"""What stands between the end of the thinking and the answer."""

_CLOSE = THINK_CLOSE.encode()

Crossing = Mapping[int, NDArray[np.int64]]
"""The tokens that close the thinking and bring something of the answer, by how much of ``</think>`` was there."""


class StructuredAnswer:
    """Where a generation is on its way to an answer, and which tokens may come next there.

    The thinking is opened by tokens that are forced, and is free. The token that closes it brings nothing of the answer
    yet: what the structure restricts begins with a token of its own, after an empty line that is forced, too.

    Attributes:
        thinking: Whether the thinking is not over yet.
    """

    def __init__(self, matcher: Matcher, tokenizer: TextTokenizer, crossing: Crossing | None) -> None:
        """Begin before the first token of a generation; without ``crossing`` it answers at once."""
        self._matcher, self._tokenizer, self._crossing = matcher, tokenizer, crossing or {}
        self.thinking = crossing is not None
        self._opened, self._between = not self.thinking, False
        self._text = b""  # the last bytes of the thinking, or what came after it

    @property
    def over(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return not self.thinking and not self._between and self._matcher.over

    def certain(self) -> list[int]:
        """Tokens of the answer's text that comes next in any case; the model may choose others for the same text."""
        return [] if self.thinking or self._between else self._matcher.certain()

    def forced(self) -> list[int]:
        """The tokens that come next in any case."""
        text = ""
        if not self._opened:
            self._opened, text = True, OPEN_THINKING
        elif self._between:
            came = self._text.decode()
            text = BEFORE_ANSWER[len(came) :] if BEFORE_ANSWER.startswith(came) else ""
            self._between = bool(text)
        return self._tokenizer.encode(text) if text else []

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits [V] with −inf for every token that may not come next.

        Raises:
            BadArgumentError: The structure takes more time or memory than it may.
        """
        if not self.thinking:
            return logits if self._between else np.where(self._matcher.allowed(), logits, np.float32(-np.inf))
        begun = next((size for size in range(len(_CLOSE) - 1, 0, -1) if self._text.endswith(_CLOSE[:size])), 0)
        ids = self._crossing.get(begun)
        if ids is not None:
            logits = logits.copy()
            logits[ids] = -np.inf
        return logits

    def accept(self, token: int) -> None:
        """Go on by ``token``, which is part of the text now.

        Raises:
            BadArgumentError: The structure takes more time or memory than it may.
        """
        if not self.thinking and not self._between:
            self._matcher.accept(token)
            return
        self._text += self._tokenizer.token_bytes(token)
        if self.thinking:
            _, closed, rest = self._text.partition(_CLOSE)
            self.thinking, self._between = not closed, bool(closed)
            self._text = rest if closed else self._text[1 - len(_CLOSE) :]


class Structures:
    """What structures come to with one tokenizer."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Compile nothing yet."""
        self._tokenizer, self._grammars = tokenizer, Grammars(tokenizer)
        self._crossing: Crossing | None = None

    def answer(self, structure: Structure, *, thinks: bool) -> StructuredAnswer:
        """What restricts the answer of one generation, which ``thinks`` before it.

        Raises:
            BadArgumentError: The structure is wrong, or too complicated.
        """
        if thinks and self._crossing is None:
            self._crossing = _crossing(self._tokenizer)
        matcher = self._grammars.matcher(structure)
        return StructuredAnswer(matcher, self._tokenizer, self._crossing if thinks else None)


def _crossing(tokenizer: TextTokenizer) -> Crossing:
    found: dict[int, list[int]] = defaultdict(list)
    for number in range(tokenizer.size):
        text = tokenizer.token_bytes(number)
        if b">" not in text:
            continue
        for begun in range(len(_CLOSE)):
            rest = _CLOSE[begun:]
            if (text.startswith(rest) and text[len(rest) :].strip()) or text.partition(_CLOSE)[2].strip():
                found[begun].append(number)
    return {begun: np.array(ids) for begun, ids in found.items()}
