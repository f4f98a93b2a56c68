"""What a model gets on a checkpoint's held-out problems: exact match, perplexity, same top token.

This module runs whatever ``runtime.load`` loads, in one single-threaded process per core. It knows nothing of formats.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import TYPE_CHECKING

import numpy as np

from mimo_mobile import files
from mimo_mobile.convert.json_files import present, read_text
from mimo_mobile.documents import DocumentError, FileFormat, Value, parse
from mimo_mobile.errors import (
    BackendUnavailableError,
    CheckpointError,
    MemoryFullError,
    QuantizationError,
    SessionError,
)
from mimo_mobile.layout import MOST_TOKENS
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.scores import Drafts, Score

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from mimo_mobile.runtime import LoadConfig, Model

logger = logging.getLogger(__name__)

REPLIES = "bf16-replies.json"
REPLIES_FORMAT = FileFormat("replies", 1)

HELDOUT = "heldout.jsonl"
"""The file beside config.json that holds one ``{"kind": …, "question": …, "answer": …}`` a line."""

MAX_TOKENS = 512
"""Longer answers count as wrong; MiMo-nano's longest right one has fewer."""

TASK_PROBLEMS = 8

LARGE = 2_000_000_000
"""A model of more bytes is answered with by one process, with all threads."""


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


@dataclass(frozen=True, slots=True)
class Asking:
    """How problems are asked.

    Attributes:
        config: How the model is loaded; by default as one process for each core is best.
        seed: What random numbers are drawn from for answers that are sampled, which are not read again; None decodes
            greedily.
        max_tokens: Longer answers are cut off.
    """

    config: LoadConfig | None = None
    seed: int | None = None
    max_tokens: int = MAX_TOKENS


GREEDILY = Asking()


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


def answer_all(
    model: Path,
    problems: Sequence[Problem],
    reference: Sequence[Sequence[int]] | None = None,
    *,
    asking: Asking = GREEDILY,
    processes: int | None = None,
    stage: str = "evaluate",
    progress: ProgressCallback = ignore,
) -> list[Reply]:
    """The replies of the model at a path to every problem.

    Args:
        model: What ``runtime.load`` takes.
        problems: The questions.
        reference: The tokens of the bf16 model's replies to the same problems, over which perplexity and same top token
            are taken.
        asking: How the problems are asked; greedily by default.
        processes: How many to run; by default one for each core, or a single one for a model that is ``LARGE``.
        stage: The stage's name in the progress records.
        progress: Called after every few problems.

    Raises:
        SessionError: The model cannot be loaded or run.
        QuantizationError: A process was killed.
    """
    processes = processes or _suited(model)
    size = TASK_PROBLEMS if processes > 1 else 1
    starts = range(0, len(problems), size)
    replies: list[Reply] = []
    # spawn: neither runtime survives a fork once it has threads.
    context = get_context("spawn")
    # Nothing is ever sent: the pipe closes when this process ends, however it ends, or when it closes it.
    ended, alive = context.Pipe(duplex=False)
    setup = (model, ended, context.Value("b", True), asking, processes)
    with ended, alive, ProcessPoolExecutor(processes, context, _open, setup) as pool:
        try:
            with _ctrl_c_waits():
                tasks = [
                    pool.submit(
                        _answer,
                        problems[start : start + size],
                        reference[start : start + size] if reference else None,
                        start,
                    )
                    for start in starts
                ]
            for task in tasks:
                replies += task.result()
                progress(Progress(stage, len(replies), len(problems), unit="problems"))
        except BaseException as error:
            alive.close()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise QuantizationError(
                    f"{model.name}: a process that answers held-out problems ended before it had; if the memory was"
                    " full, end other programs, or leave the scores out with --problems 0"
                ) from error
            raise
    return replies


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


def _suited(model: Path) -> int:
    """How many processes answer soonest: a large model's weights do not fit into caches, nor into memory twice."""
    files = [model] if model.is_file() else [each for each in model.rglob("*") if each.is_file()]
    if sum(each.stat().st_size for each in files) > LARGE:
        return 1
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


_model: Model | SessionError | None = None
_asking = GREEDILY
"""The worker process's model, or why there is none, and how it is asked."""


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C is held back: here for as long as the block takes, and in processes started in it until they are open."""
    held: list[int] = []
    main = current_thread() is main_thread()  # only there Python hears signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number)) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in held[:1]:
        signal.raise_signal(number)


def _open(path: Path, ended: Connection, first: Synchronized[int], asking: Asking, processes: int) -> None:
    global _asking
    Thread(target=_end_with, args=(ended,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers at once, without a traceback of each
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _asking = asking
    with first.get_lock():  # the first one tests the CPU and prepacks, and the others find what it has kept
        if first.value:
            _load(path, processes)
            first.value = False
    if _model is None:
        _load(path, processes)


def _load(path: Path, processes: int) -> None:
    global _model
    from mimo_mobile.runtime import LoadConfig, load

    config = _asking.config or LoadConfig()
    threads = config.threads if processes == 1 else 1
    try:  # this process is a trial by itself
        try:  # drafts tell how often the MTP layer is right, and change no answer
            _model = load(path, config, threads=threads, speculate="mtp", trust=True)
        except (BackendUnavailableError, MemoryFullError):  # there is no such layer, or no room for it
            _model = load(path, config, threads=threads, speculate="off", trust=True)
    except SessionError as error:  # raised here it would only be printed
        _model = error


def _end_with(ended: Connection) -> None:
    """End this worker process as soon as the process that started it does, or no longer wants an answer."""
    wait([ended])
    os._exit(1)


def _answer(problems: Sequence[Problem], reference: Sequence[Sequence[int]] | None, start: int) -> list[Reply]:
    if isinstance(_model, SessionError):
        raise _model
    assert _model is not None
    expected = reference or (None,) * len(problems)
    return [
        _reply(_model, problem, reply, start + place)
        for place, (problem, reply) in enumerate(zip(problems, expected, strict=True))
    ]


def _reply(model: Model, problem: Problem, expected: Sequence[int] | None, place: int) -> Reply:
    from mimo_mobile.runtime import GenerationConfig, Message

    if _asking.seed is None:
        config = GenerationConfig(temperature=0.0, max_tokens=_asking.max_tokens)
    else:  # each problem has random numbers of its own
        seed = (_asking.seed << 32) + place
        config = GenerationConfig(seed=seed, max_tokens=_asking.max_tokens, speculate=False)
    question = [Message("user", problem.question)] if model.has_chat_template else problem.question
    prompt = model.encode_prompt(question, config)
    answer, tokens, thought, last = "", [], 0, None
    for last in model.generate(prompt, config):
        if last.token_id is not None:
            tokens.append(last.token_id)
            thought += last.channel == "thinking"
        answer += last.text if last.channel == "answer" else ""
    assert last is not None and last.stats is not None
    unclosed = last.finish_reason == "length" and last.channel == "thinking"
    read = () if _asking.seed is not None else tuple(tokens) if expected is None else expected
    likelihood, same = _read(model, prompt, read) if read else (0.0, 0)
    right = answer.strip() == problem.answer
    drafted, accepted = last.stats.drafted_tokens, last.stats.accepted_tokens
    return Reply(problem.kind, right, tuple(tokens), likelihood, same, len(read), thought, unclosed, drafted, accepted)


def _read(model: Model, prompt: Sequence[int], reply: Sequence[int]) -> tuple[float, int]:
    """(log likelihood, number of tokens that are also this model's first choice) of a reply to a prompt."""
    logits = model.logits([*prompt, *reply[:-1]])[len(prompt) - 1 :].astype(np.float64)
    targets = np.array(reply)
    top = logits.max(axis=1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    chosen = logits[np.arange(len(targets)), targets]
    return float((chosen - log_sum).sum()), int((logits.argmax(axis=1) == targets).sum())


def problems_of_kinds(problems: Sequence[Problem], limit: int) -> Iterator[Problem]:
    """At most ``limit`` problems, spread evenly over the list, hence over its kinds."""
    step = max(1, -(-len(problems) // limit)) if limit else 1
    yield from problems[::step]
