"""What runs of 1, 2, … rows cost on this machine: measured once, then followed from run to run. Proposes nothing."""

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

from mimo_mobile import files
from mimo_mobile.cache import cache_folder, cpu
from mimo_mobile.documents import FileFormat, Value
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.runtime.backend import Backend

logger = logging.getLogger(__name__)

COSTS_FORMAT = FileFormat("costs", 1)

MOST_ROWS = 8
"""In one run: the last token and its drafts."""

WORTH_KEEPING_S = 0.005
"""Of smaller models, whose steps take less, costs are measured in no time."""

PACE_LEARNT, PACE_FORGOTTEN, MOST_CHANGE = 0.1, 0.02, 4.0
"""How much one run changes what is expected of its kind and of others, and a run that was held up."""

PACE_TOGETHER = 8
"""Runs that are reckoned at once."""

WORTH_SAYING_S = 1.0
"""Measuring that takes longer is announced, since somebody waits for it."""

REPEATS, REPEATS_S = 3, 0.02
"""So often a cost is measured at least, and so long."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What runs take on this machine.

    Attributes:
        rows_s: Seconds of a run of 1, 2, … rows.
        draft_s: Seconds of a draft by the MTP layer; 0 without one.
    """

    rows_s: tuple[float, ...]
    draft_s: float


class Pace:
    """What runs take now, beside what was measured: heat, other programs and a longer context change it."""

    def __init__(self, rows_s: Sequence[float]) -> None:
        """Begin with seconds of a run of 1, 2, … rows."""
        self._measured, self._factors = rows_s, [1.0] * len(rows_s)
        self._seen: list[tuple[int, float]] = []
        self._cheapest = self._chosen()

    def learn(self, rows: int, seconds: float) -> bool:
        """A run of so many rows took so long; what is not run by and by counts as changed likewise.

        Returns whether costs were reckoned anew, which is done for some runs together: a small model's take no time.
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
        """(rows of padding, seconds): more rows can be cheaper, as kernels take some numbers better than others."""
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
    """The costs of a backend, whose KV cache is lost by it; said in the log when it takes a second or more."""
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


def costs_file(model: Path, *options: object) -> Path:
    """Where the costs of a model file, loaded with ``options`` on this machine, are remembered."""
    state = model.stat()
    parts = str(model.resolve()), state.st_size, state.st_mtime_ns, cpu(), options
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return cache_folder() / "costs" / f"{model.stem}-{key}.json"


def read_costs(file: Path) -> Costs:
    """The costs in a file.

    Raises:
        ModelLoadError: It is damaged, or a newer MiMo Mobile's.
    """

    def build(found: Value) -> Costs:
        rows_s = [each.number(above=0) for each in found["rows_s"].items(least=1)]
        return Costs(tuple(rows_s[:MOST_ROWS]), found["draft_s"].number(least=0))

    return COSTS_FORMAT.read(file, build, ModelLoadError, "they are measured anew")


def remembered(backend: Backend, file: Path | None) -> Costs:
    """The costs in a file; when it has none they are measured, which takes the KV cache, and kept if that took long."""
    if file is not None and file.is_file():
        try:
            return read_costs(file)
        except ModelLoadError as error:
            logger.warning("%s", error)
    costs = measure(backend)
    if file is not None and costs.rows_s[0] >= WORTH_KEEPING_S:
        try:
            files.write_text(file, COSTS_FORMAT.to_text(asdict(costs)))
        except OSError as error:
            logger.warning("%s: cannot be kept: %s", file, error)
    return costs
