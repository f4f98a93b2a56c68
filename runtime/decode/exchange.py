"""What a conversation is made of: turns, an answer that was cut, and what happens to turns when the context is full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

WhenFull = Literal["error", "stop", "drop"]
"""What happens when a question does not fit into the context any more."""

WHEN_FULL: tuple[WhenFull, ...] = get_args(WhenFull)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: What the user said.
        thinking: What the model thought.
        answer: What it answered.
    """

    question: str
    thinking: str
    answer: str


@dataclass(frozen=True, slots=True)
class Cut:
    """An answer that was cut.

    Attributes:
        base: The turns before its own, of which no other has it yet when it still thought.
        turn: What it was asked, and what it said.
        thinks: Whether it was asked for with thinking.
    """

    base: tuple[Turn, ...]
    turn: Turn
    thinks: bool
