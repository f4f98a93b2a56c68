"""What a model gets on a checkpoint's held-out problems: exact match, perplexity, same top token, right drafts.

It reads problems and scores replies; ``answering`` gets these from models.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimo_mobile import files
from mimo_mobile.convert.json_files import present, read_text
from mimo_mobile.documents import DocumentError, FileFormat, Value, parse
from mimo_mobile.errors import (
    CheckpointError,
    QuantizationError,
)
from mimo_mobile.layout import MOST_TOKENS
from mimo_mobile.scores import Drafts, Score

logger = logging.getLogger(__name__)

REPLIES = "bf16-replies.json"
REPLIES_FORMAT = FileFormat("replies", 1)

HELDOUT = "heldout.jsonl"
"""The file beside config.json that holds one ``{"kind": …, "question": …, "answer": …}`` a line."""

MAX_TOKENS = 512
"""Longer answers count as wrong; MiMo-nano's longest right one has fewer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with the one answer that counts."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model made of a problem.

    Attributes:
        kind: The problem's kind.
        right: Whether the answer after the thinking is the expected one, to the character.
        tokens: Token ids of thinking and answer.
        log_likelihood: How likely this model finds the reference's reply (its own one when there is no reference), as
            a natural logarithm.
        same_top: How many tokens of that reply are this model's first choice.
        tokens_read: How many tokens that reply has.
        thinking_tokens: How many of ``tokens`` are thinking.
        unclosed: Whether the limit of tokens was reached before the thinking was closed.
        drafted: How many tokens the MTP layer drafted meanwhile; 0 without one.
        accepted: How many of these the model chose, too.
    """

    kind: str
    right: bool
    tokens: tuple[int, ...]
    log_likelihood: float
    same_top: int
    tokens_read: int
    thinking_tokens: int = 0
    unclosed: bool = False
    drafted: int = 0
    accepted: int = 0


def read_problems(checkpoint: Path) -> list[Problem]:
    """The checkpoint's held-out problems; empty when it brings none.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = checkpoint / HELDOUT
    if not present(path):
        return []
    problems = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            found = parse(line)
            problems.append(Problem(found["kind"].text(), found["question"].text(), found["answer"].text()))
        except ValueError as error:
            raise CheckpointError(
                f'{path}, line {number}: {{"kind": …, "question": …, "answer": …}} expected ({error})'
            ) from error
    return problems


def problem_set(problems: Sequence[Problem]) -> str:
    """What tells these problems from others, in hexadecimal."""
    texts = [(problem.kind, problem.question, problem.answer) for problem in problems]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def keep_replies(folder: Path, key: Mapping[str, str], replies: Sequence[Reply]) -> None:
    """Keep the bf16 model's replies in a folder of quantized files: models that come later are scored on them.

    ``key`` says which checkpoint's replies to which problems they are.
    """
    values = {**key, "tokens": [reply.tokens for reply in replies]}
    files.write_text(folder / REPLIES, REPLIES_FORMAT.to_text(values))


def kept_replies(folder: Path, key: Mapping[str, str], count: int) -> list[tuple[int, ...]] | None:
    """The tokens of ``count`` replies of the bf16 model that a folder keeps; None when it keeps none with this key.

    A damaged file counts as none: a warning says so, and the caller writes it anew.
    """
    place = folder / REPLIES
    if not place.exists():
        return None
    try:
        return read_replies(place, key, count)
    except QuantizationError as error:
        logger.warning("%s", error)
        return None


def read_replies(path: Path, key: Mapping[str, str], count: int) -> list[tuple[int, ...]] | None:
    """The same from one file.

    Raises:
        QuantizationError: The file is damaged, or a newer MiMo Mobile wrote it.
    """

    def build(found: Value) -> list[tuple[int, ...]] | None:
        replies = found["tokens"].items()
        tokens = [tuple(each.integer(0, MOST_TOKENS) for each in reply.items()) for reply in replies]
        names = {name: found[name].text() for name in ("fingerprint", "problem_set")}
        if names != key:
            return None
        if len(tokens) != count:
            raise DocumentError(f"tokens: {count} replies expected, {len(tokens)} found")
        return tokens

    return REPLIES_FORMAT.read(path, build, QuantizationError, "the bf16 model answers anew")


def score(replies: Sequence[Reply]) -> Score:
    """The figures of a model's replies.

    Raises:
        QuantizationError: There are none.
    """
    if not replies:
        raise QuantizationError("no replies to score: the list of problems was empty")
    kinds: dict[str, list[bool]] = {}
    for reply in replies:
        kinds.setdefault(reply.kind, []).append(reply.right)
    tokens = sum(reply.tokens_read for reply in replies)
    return Score(
        problems=len(replies),
        exact_match=sum(reply.right for reply in replies) / len(replies),
        by_kind={kind: sum(right) / len(right) for kind, right in sorted(kinds.items())},
        perplexity=float(np.exp(-sum(reply.log_likelihood for reply in replies) / tokens)) if tokens else float("nan"),
        same_top=sum(reply.same_top for reply in replies) / tokens if tokens else float("nan"),
        answer_tokens=sum(len(reply.tokens) for reply in replies) / len(replies),
        drafts=drafts(replies),
    )


def drafts(replies: Sequence[Reply]) -> Drafts | None:
    """How often the MTP layer drafted right in a model's replies; None when it drafted nothing."""
    drafted = sum(reply.drafted for reply in replies)
    return Drafts(drafted, sum(reply.accepted for reply in replies) / drafted) if drafted else None


def problems_of_kinds(problems: Sequence[Problem], limit: int) -> Iterator[Problem]:
    """At most ``limit`` problems, spread evenly over the list, hence over its kinds."""
    step = max(1, -(-len(problems) // limit)) if limit else 1
    yield from problems[::step]
