"""Progress of long work, as plain records; the caller decides how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of long work.

    Attributes:
        stage: What is being done, e.g. ``quantize q4_0``.
        done: Work done so far, in the stage's own unit (bytes for files).
        total: All the work of the stage, in the same unit.
        name: The thing at hand: a tensor, a file, a problem.
        unit: ``B`` for bytes, else a plural noun.
    """

    stage: str
    done: int
    total: int
    name: str = ""
    unit: str = "B"


ProgressCallback = Callable[[Progress], None]
"""What long work calls often; it must be cheap and must not raise."""


def ignore(progress: Progress) -> None:
    """Do nothing: the callback of those who do not watch."""
