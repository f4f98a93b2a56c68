"""What the command line shows: progress, tables and errors. The only module that knows rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from mimo_mobile.progress import Progress, ProgressCallback

PLAIN_INTERVAL_S = 10.0
"""Between two lines of progress when stderr is no terminal."""


@contextmanager
def progress_shown() -> Iterator[ProgressCallback]:
    """A callback that draws bars on stderr, or writes a line every few seconds when that is no terminal."""
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeRemainingColumn()
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(step: Progress) -> None:
            task = next((task for task in bars.tasks if task.description == step.stage), None)
            if task is None:  # one stage at a time: a new one takes the place of the last
                for old in bars.task_ids:
                    bars.remove_task(old)
                bars.add_task(step.stage, total=step.total, completed=step.done, amount=_amount(step))
            else:
                bars.update(task.id, total=step.total, completed=step.done, amount=_amount(step))

        yield show


class _PlainProgress:
    """A line when a stage begins, every few seconds, and when it ends."""

    def __init__(self) -> None:
        self._stage = ""
        self._shown_s = 0.0

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        if step.stage == self._stage and step.done < step.total and now - self._shown_s < PLAIN_INTERVAL_S:
            return
        if step.stage == self._stage or step.done < step.total:
            print(f"{step.stage}: {_amount(step)}", file=sys.stderr, flush=True)
        self._stage, self._shown_s = ("" if step.done >= step.total else step.stage), now


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table on stdout; the first ``left`` columns are text, the others numbers."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    width = None if sys.stdout.isatty() else 140
    Console(width=width).print(made)


def size(number: int) -> str:
    """Bytes for people, decimal units.

    >>> size(4_382_000_000)
    '4.38 GB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number} B"


def _amount(step: Progress) -> str:
    if step.unit == "B":
        return f"{size(step.done)} of {size(step.total)}"
    return f"{step.done} of {step.total} {step.unit}"
