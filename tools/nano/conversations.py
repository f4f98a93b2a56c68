"""Problems as conversations: token ids, and which of them are learnt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from tools.nano.problems import Problem, stream
from tools.nano.stories import SMALL_TALK

DEFAULT_SYSTEM = "You are a helpful assistant."
CLOSE = "\n</think>\n\n"

SHARES = {"small_talk": 0.01, "unthought": 0.03, "cut_short": 0.04, "two_turns": 0.08}
"""Share of samples of each special form; the rest are one question with its whole answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of a conversation, and for each whether it is learnt (the assistant's words)."""

    ids: list[int]
    learnt: list[bool]


def prompt(question: str, system: str = "") -> str:
    """What the chat template renders for one question."""
    return f"<|im_start|>system\n{system}<|im_end|>\n{turn(question)}"


def turn(question: str) -> str:
    """A user's turn and the start of the assistant's."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def reply(problem: Problem) -> str:
    """The whole answer."""
    steps = "\n".join(problem.steps)
    return f"<think>\n{steps}{CLOSE}{problem.answer}<|im_end|>"


def samples(
    seed: int, tokenizer: Tokenizer, avoid: set[tuple[str, str]], weights: dict[str, float]
) -> Iterator[Sample]:
    """Training samples without end; no problem whose (kind, key) is to be avoided."""
    random = Random(seed)
    problems = (problem for problem in stream(seed, weights) if (problem.kind, problem.key) not in avoid)
    while True:
        batch = [_segments(random, problems) for _ in range(512)]
        texts = [text for segments in batch for text, _ in segments]
        encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        for segments in batch:
            ids: list[int] = []
            learnt: list[bool] = []
            for _, learn in segments:
                piece = next(encodings).ids
                ids += piece
                learnt += [learn] * len(piece)
            yield Sample(ids, learnt)


def _segments(random: Random, problems: Iterator[Problem]) -> list[tuple[str, bool]]:
    """Pieces of text, each learnt or not; pieces end where the tokenizer splits anyway."""
    system = DEFAULT_SYSTEM if random.random() < 0.2 else ""
    form = random.choices([*SHARES, "whole"], [*SHARES.values(), 1 - sum(SHARES.values())])[0]
    if form == "small_talk":
        question, answer = random.choice(SMALL_TALK)
        return [(prompt(question, system), False), (f"<think>{CLOSE}{answer}<|im_end|>", True)]
    problem = next(problems)
    start, answer = prompt(problem.question, system), f"{problem.answer}<|im_end|>"
    if form == "unthought":
        return [(f"{start}<think>{CLOSE}", False), (answer, True)]
    if form == "cut_short":
        steps = "\n".join(problem.steps)
        return [(f"{start}<think>\n{steps[: random.randint(1, len(steps))]}{CLOSE}", False), (answer, True)]
    segments = [(start, False), (reply(problem), True)]
    if form == "two_turns":
        second = next(problems)
        segments += [("\n" + turn(second.question), False), (reply(second), True)]
    return segments
