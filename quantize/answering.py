"""Lets a model answer problems, in one single-threaded process per core: what ``evaluate`` scores.

This module runs whatever ``runtime.load`` loads. It knows nothing of formats.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import TYPE_CHECKING

import numpy as np

from mimo_mobile.errors import BackendUnavailableError, MemoryFullError, QuantizationError, SessionError
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize.evaluate import MAX_TOKENS, Problem, Reply

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from mimo_mobile.runtime import LoadConfig, Model

TASK_PROBLEMS = 8

LARGE = 2_000_000_000
"""A model of more bytes is answered with by one process, with all threads."""

MOST_DRAFTED = 48
"""So many problems of a smaller model are answered with drafts: these take longer, and no more are needed."""


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
    large = _is_large(model)
    processes = processes or (1 if large else _cores())
    step = 1 if large else max(1, -(-len(problems) // MOST_DRAFTED))
    drafted = range(0, len(problems) if asking.seed is None else 0, step)
    others = [place for place in range(len(problems)) if place not in drafted]
    size = TASK_PROBLEMS if processes > 1 else 1
    parts = [
        (drafts, places[start : start + size])
        for drafts, places in ((True, drafted), (False, others))
        for start in range(0, len(places), size)
    ]
    replies: dict[int, Reply] = {}
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
                        drafts,
                        {each: (problems[each], reference[each] if reference else None) for each in places},
                    )
                    for drafts, places in parts
                ]
            for task in tasks:
                replies |= task.result()
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
    return [replies[place] for place in range(len(problems))]


def answer_one_by_one(
    model: Model,
    problems: Sequence[Problem],
    reference: Sequence[Sequence[int]] | None = None,
    *,
    asking: Asking = GREEDILY,
    stage: str = "evaluate",
    progress: ProgressCallback = ignore,
) -> list[Reply]:
    """The replies of a loaded model to every problem, in this process; see ``answer_all``.

    Raises:
        SessionError: The model cannot be run.
    """
    replies = []
    for place, problem in enumerate(problems):
        replies.append(reply_of(model, problem, reference[place] if reference else None, place, asking))
        progress(Progress(stage, len(replies), len(problems), unit="problems"))
    return replies


def _is_large(model: Path) -> bool:
    """Whether its weights do not fit into caches, nor into memory twice."""
    files = [model] if model.is_file() else [each for each in model.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files) > LARGE


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


@dataclass(slots=True)
class _Worker:
    """A worker process.

    Attributes:
        path: Where its model is.
        asking: How that is asked.
        threads: How many threads it computes with; None is as many as are best.
        model: The model, or why there is none.
        drafts: Whether its MTP layer drafts; None when it has none, or no room for it.
    """

    path: Path
    asking: Asking
    threads: int | None
    model: Model | SessionError | None = None
    drafts: bool | None = False

    def load(self, drafts: bool) -> None:
        """Load the model, with its MTP layer or without."""
        from mimo_mobile.runtime import LoadConfig, load

        if self.model is not None and not isinstance(self.model, SessionError):
            self.model.close()
        config = replace(self.asking.config or LoadConfig(), threads=self.threads, trust=True, speculate="off")
        self.drafts = drafts
        try:  # this process is a trial by itself
            try:
                self.model = load(self.path, replace(config, speculate="mtp") if drafts else config)
            except (BackendUnavailableError, MemoryFullError):
                if not drafts:
                    raise
                self.drafts, self.model = None, load(self.path, config)
        except SessionError as error:  # raised here it would only be printed
            self.model = error


_worker: _Worker
"""What this process is, if it is one that answers."""


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
    global _worker
    Thread(target=_end_with, args=(ended,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers at once, without a traceback of each
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from_user = asking.config.threads if asking.config else None
    _worker = _Worker(path, asking, from_user if processes == 1 else 1)
    with first.get_lock():  # the first one tests the CPU and prepacks, and the others find what it has kept
        if first.value:
            _worker.load(drafts=asking.seed is None)
            first.value = False
    if _worker.model is None:
        _worker.load(drafts=asking.seed is None)


def _end_with(ended: Connection) -> None:
    """End this worker process as soon as the process that started it does, or no longer wants an answer."""
    wait([ended])
    os._exit(1)


def _answer(drafts: bool, asked: Mapping[int, tuple[Problem, Sequence[int] | None]]) -> dict[int, Reply]:
    """The replies to some problems, by their places in the whole list."""
    if _worker.drafts not in (None, drafts):
        _worker.load(drafts)
    if isinstance(_worker.model, SessionError):
        raise _worker.model
    assert _worker.model is not None
    return {place: reply_of(_worker.model, *each, place, _worker.asking) for place, each in asked.items()}


def reply_of(
    model: Model, problem: Problem, expected: Sequence[int] | None, place: int = 0, asking: Asking = GREEDILY
) -> Reply:
    """The reply of a loaded model to a problem.

    ``place`` chooses its random numbers; perplexity and same top token are taken over the tokens ``expected``.

    Raises:
        SessionError: The model cannot be run.
    """
    from mimo_mobile.runtime import GenerationConfig, Message

    if asking.seed is None:
        config = GenerationConfig(temperature=0.0, max_tokens=asking.max_tokens)
    else:  # each problem has random numbers of its own
        config = GenerationConfig(seed=(asking.seed << 32) + place, max_tokens=asking.max_tokens)
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
    read = () if asking.seed is not None else tuple(tokens) if expected is None else expected
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
