"""Generated text → thinking and answer; ``<think>`` is plain text that tokens may cut anywhere."""

from __future__ import annotations

from typing import Literal

from mimo_mobile.mimo7b import THINK_CLOSE, THINK_OPEN
from mimo_mobile.runtime.text.stop_strings import overlap

Channel = Literal["thinking", "answer"]

State = Literal["start", "thinking", "answer", "raw"]


class ThinkingSplitter:
    """Splits text into pieces of thinking and answer; tags and the white space around them belong to neither.

    Attributes:
        state: ``start`` until it is clear whether the text opens with ``<think>``, then ``thinking`` or ``answer``.
            From ``raw`` there is no way: all of the text is the answer, as it stands.
    """

    def __init__(self, state: State = "start") -> None:
        """Begin in ``state``: ``answer`` when the prompt has closed the block already."""
        self.state: State = state
        self._held = ""
        self._begun = False
        self._shown = 0  # so many of the characters that are held were shown before

    def resume(self, text: str) -> None:
        """Take in what an answer said before it was cut off, of which nothing comes out again."""
        self.feed(text)
        self._shown = len(self._held) if self.state == "thinking" else 0

    def feed(self, text: str) -> list[tuple[Channel, str]]:
        """The pieces that are certain now."""
        if self.state == "raw":
            return [("answer", text)] if text else []
        self._held += text
        pieces: list[tuple[Channel, str]] = []
        if self.state == "start":
            begun = self._held.lstrip()
            if begun.startswith(THINK_OPEN):
                self.state, self._held = "thinking", begun[len(THINK_OPEN) :]
            elif THINK_OPEN.startswith(begun):
                return []
            else:
                self.state = "answer"
        if self.state == "thinking":
            thought, closed, rest = self._held.partition(THINK_CLOSE)
            if closed:
                self._piece(pieces, "thinking", thought.rstrip()[self._shown :])
                self.state, self._held, self._begun, self._shown = "answer", rest, False, 0
            else:
                keep = overlap(thought, THINK_CLOSE)
                certain = thought[: len(thought) - keep].rstrip()  # white space before the tag is not thinking
                self._held = thought[len(certain) :]
                self._piece(pieces, "thinking", certain[self._shown :])
                self._shown = max(0, self._shown - len(certain))
        if self.state == "answer":
            text, self._held = self._held, ""
            self._piece(pieces, "answer", text)
        return pieces

    @property
    def channel(self) -> Channel:
        """What comes next, as far as it is clear."""
        return "answer" if self.state in ("answer", "raw") else "thinking"

    def flush(self) -> list[tuple[Channel, str]]:
        """What was held back, at the end; a text that ends within ``<think>`` has neither thinking nor answer."""
        pieces: list[tuple[Channel, str]] = []
        if self.state != "start":
            self._piece(pieces, self.channel, self._held[self._shown :])
        self._held = ""
        return pieces

    def _piece(self, pieces: list[tuple[Channel, str]], channel: Channel, text: str) -> None:
        """Add a piece; a channel does not begin with white space."""
        text = text if self._begun else text.lstrip()
        if text:
            self._begun = True
            pieces.append((channel, text))
