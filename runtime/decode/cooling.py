"""Rests between tokens while the device is hot, or to save power; names and shares are the Kotlin library's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal, get_args

from mimo_mobile.errors import SessionError
from mimo_mobile.runtime.devices.threads import Power

Heat = Literal["none", "light", "moderate", "severe", "critical"]
"""How hot a device is, in the words of Android's thermal status, which says how much it is slowed down."""

SHARES: dict[Heat, float] = {"none": 0.0, "light": 0.0, "moderate": 0.25, "severe": 0.5, "critical": 0.75}
"""Of the time, so much is rest."""

ECO_SHARE = 0.25
"""With ``eco`` so much of the time is rest on a cool device, too."""

INTERVAL_S = 1.0
"""How hot the device is, is asked so often at most."""

MOST_S = 3.0
"""After a long prompt, too, the next token is not kept back for longer."""


class Cooling:
    """Decides how long a generation rests after each step, and rests."""

    def __init__(
        self,
        heat: Callable[[], Heat] | None = None,
        power: Power = "balanced",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask ``heat``, and rest as ``power`` allows; ``clock`` gives seconds."""
        self._heat, self._power, self._clock = heat, power, clock
        self._asked: float | None = None
        self._known: Heat = "none"

    def rest(self, worked_s: float, cancelled: threading.Event) -> float:
        """Rest after so many seconds of work, until ``cancelled`` at most; the seconds that it took.

        Raises:
            SessionError: What tells the heat gave something else.
        """
        due = self.due(worked_s)
        if not due:
            return 0.0
        started = self._clock()
        cancelled.wait(due)
        return self._clock() - started

    def due(self, worked_s: float) -> float:
        """Seconds of rest that belong to so many of work.

        Raises:
            SessionError: What tells the heat gave something else.
        """
        share = SHARES[self._now()]
        if self._power == "eco":
            share = max(share, ECO_SHARE)
        elif self._power == "burst" and share < SHARES["severe"]:
            share = 0.0
        return min(MOST_S, worked_s * share / (1 - share))

    def _now(self) -> Heat:
        now = self._clock()
        if self._heat is not None and (self._asked is None or now - self._asked >= INTERVAL_S):
            self._asked, found = now, self._heat()
            if found not in SHARES:
                raise SessionError(f"heat gave {found!r:.60}; one of {', '.join(get_args(Heat))} expected")
            self._known = found
        return self._known
