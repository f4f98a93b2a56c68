"""What a conversation is made of: turns, and what happens to them when the context is full."""

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
