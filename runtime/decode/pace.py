"""Measures once what runs of 1, 2, … rows cost on this machine, and follows the costs from run to run.

This module proposes no drafts.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

from mimo_mobile import cache_folder
from mimo_mobile.cache import COSTS, cpu
from mimo_mobile.documents import FileFormat, Value
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.runtime.backend import Backend

logger = logging.getLogger(__name__)

COSTS_FORMAT = FileFormat("costs", 1)

MOST_ROWS = 8
"""A run has at most so many rows: one for the last token and one for each of its drafts."""

WORTH_KEEPING_S = 0.005
"""Costs are kept on disk when a run of one row takes at least so long; smaller models are measured in no time."""

PACE_LEARNT, PACE_FORGOTTEN, MOST_CHANGE = 0.1, 0.02, 4.0
"""The share that one run has in what is expected of runs with as many rows, and of runs with other numbers of rows;
how many times the measured cost a run counts at most, since it may have been held up."""

PACE_TOGETHER = 8
"""Costs are reckoned anew after so many runs."""

WORTH_SAYING_S = 1.0
"""Measuring is announced when it takes longer than this, since somebody waits for it."""

REPEATS, REPEATS_S = 3, 0.02
"""Each cost is measured at least so often, and for at least so many seconds."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What runs take on this machine.

    Attributes:
        rows_s: How many seconds a run of 1, 2, … rows takes.
        draft_s: How many seconds the MTP layer takes for a draft; 0 when there is no MTP layer.
    """

    rows_s: tuple[float, ...]
    draft_s: float


class Pace:
    """How long runs take now: heat, other programs and a longer context change what was measured."""

    def __init__(self, rows_s: Sequence[float]) -> None:
        """Begin with the measured seconds of runs of 1, 2, … rows."""
        self._measured, self._factors = rows_s, [1.0] * len(rows_s)
        self._seen: list[tuple[int, float]] = []
        self._cheapest = self._chosen()

    def learn(self, rows: int, seconds: float) -> bool:
        """Learn that a run of ``rows`` rows took ``seconds``; what other numbers of rows take slowly follows it.

        Returns whether costs were reckoned anew. That is done once for several runs, as a small model's runs are too
        short to do it for each.
        """
        self._seen.append((rows, min(seconds / self._measured[rows - 1], MOST_CHANGE)))
        if len(self._seen) < PACE_TOGETHER:
            return False
        for kind in {rows for rows, _ in self._seen}:
            found = [factor for rows, factor in self._seen if rows == kind]
            mean = sum(found) / len(found)
            learnt, forgotten = (1 - (1 - share) ** len(found) for share in (PACE_LEARNT, PACE_FORGOTTEN))
            for index, old in enumerate(self._factors):
                self._factors[index] += (learnt if index == kind - 1 else forgotten) * (mean - old)
        self._seen.clear()
        self._cheapest = self._chosen()
        return True

    def cheapest(self, rows: int) -> tuple[int, float]:
        """How many rows of padding make a run cheapest, and its seconds.

        A run of more rows can be cheaper, as kernels compute some numbers of rows faster than others.
        """
        return self._cheapest[rows - 1]

    def _chosen(self) -> list[tuple[int, float]]:
        chosen: list[tuple[int, float]] = []
        for index in reversed(range(len(self._measured))):
            seconds = self._measured[index] * self._factors[index]
            if chosen and chosen[-1][1] < seconds:
                chosen.append((chosen[-1][0] + 1, chosen[-1][1]))
            else:
                chosen.append((0, seconds))
        return chosen[::-1]


def measure(backend: Backend) -> Costs:
    """The measured costs of a backend, which loses its KV cache; the log announces what may take over a second."""
    never = threading.Event()

    def seconds(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
        times: list[float] = []
        while len(times) < REPEATS or sum(times) < REPEATS_S:
            before()
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return median(times)

    def step(rows: int = 1) -> object:
        return backend.decode([0] * rows, 0, never, rows)

    step()  # warms up
    most = min(MOST_ROWS, backend.context_length)
    started = time.perf_counter()
    step()
    if (time.perf_counter() - started) * most * REPEATS > WORTH_SAYING_S:
        logger.info(
            "measuring what runs of 1 to %d tokens cost on this machine, for drafting; some seconds, once", most
        )
    rows_s, draft_s, head = tuple(seconds(partial(step, rows)) for rows in range(1, most + 1)), 0.0, backend.mtp
    if head is not None:
        draft_s = seconds(lambda: head.draft(1, 0), before=step)
        head.resume(0)
    return Costs(rows_s, draft_s)


def costs_file(model: Path, *options: object) -> Path | None:
    """The file that keeps the costs of a model file as it is loaded with ``options`` on this machine, if one can."""
    state = model.stat()
    parts = str(model.resolve()), state.st_size, state.st_mtime_ns, cpu(), options
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return cache_folder.place(COSTS, f"{cache_folder.short(model.stem)}-{key}.json")


def read_costs(file: Path) -> Costs:
    """The costs in a file.

    Raises:
        ModelLoadError: The file is damaged, or a newer MiMo Mobile wrote it.
    """

    def build(found: Value) -> Costs:
        rows_s = [each.number(above=0) for each in found["rows_s"].items(least=1)]
        return Costs(tuple(rows_s[:MOST_ROWS]), found["draft_s"].number(least=0))

    return COSTS_FORMAT.read(file, build, ModelLoadError, "they are measured anew")


def remembered(backend: Backend, file: Path | None) -> Costs:
    """The costs in a file of the cache; they are measured when it has none, and then the backend loses its KV cache.

    Measured costs are written to the file when a run of one row takes at least ``WORTH_KEEPING_S``.
    """
    if file is not None and cache_folder.is_ours(file):
        try:
            return read_costs(file)
        except ModelLoadError as error:
            logger.warning("%s", error)
    costs = measure(backend)
    if file is not None and costs.rows_s[0] >= WORTH_KEEPING_S:
        cache_folder.keep(file, COSTS_FORMAT.to_text(asdict(costs)))
    return costs
