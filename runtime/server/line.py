"""Requests wait in line for the model: one thread computes, the event loop hands out what it yields.

Nobody waits for a reader: what a generation yields is kept until it is read, and a context holds only so much. A client
that has gone, or whose time is up, gives its place away at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue

from mimo_mobile.runtime.decode.session import Session
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig
from mimo_mobile.runtime.model import Model
from mimo_mobile.runtime.server.errors import TIMED_OUT, TOO_MANY, RequestError
from mimo_mobile.runtime.server.sessions import Sessions

PING_SECONDS = 10.0
"""A stream says after so long that it lives, since proxies close connections that are still."""

LONGEST_RETRY = 600

Record = tuple[int, GeneratedToken]
"""The place of an answer among those of a request, and a step of it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One of the answers to a request.

    Attributes:
        ids: The tokens of its prompt.
        config: How to generate it.
        raw: Whether what follows is a text as it stands, and no answer with thinking before it.
        again: Whether the answer before it has the same prompt.
    """

    ids: list[int]
    config: GenerationConfig
    raw: bool = False
    again: bool = False


class Job:
    """A request in the line.

    Attributes:
        tasks: The answers that it asks for.
        waited_s: Seconds in the line, once the turn has come.
    """

    def __init__(self, line: Line, tasks: Sequence[Task], timeout_s: float) -> None:
        """Enter a line; the time runs from now."""
        self.tasks, self.waited_s = list(tasks), 0.0
        self._line, self._loop = line, asyncio.get_running_loop()
        self._begun, self._timeout_s = time.monotonic(), timeout_s
        self._records: asyncio.Queue[Record | Exception | None] = asyncio.Queue()
        self._session: Session | None = None
        self._cancelled = False

    async def records(self) -> AsyncIterator[Record | None]:
        """What the generations yield; None whenever nothing came for ``PING_SECONDS``.

        Raises:
            RequestError: The time is up.
            MimoMobileError: The model failed.
        """
        while True:
            left = self._begun + self._timeout_s - time.monotonic()
            if left <= 0:
                raise RequestError(TIMED_OUT, f"not done within {self._timeout_s:g} seconds", "timeout")
            try:
                record = await asyncio.wait_for(self._records.get(), min(PING_SECONDS, left))
            except TimeoutError:
                yield None
                continue
            if isinstance(record, Exception):
                raise record
            if record is None:
                return
            yield record

    def cancel(self) -> None:
        """Leave the line, or end the generation; afterwards it does no harm."""
        self._cancelled = True
        self._line.leave(self)
        if (session := self._session) is not None:
            session.cancel()

    def run(self, sessions: Sessions) -> None:
        """Generate all answers, in the thread of the line."""
        self.waited_s = time.monotonic() - self._begun
        try:
            for place, task in enumerate(self.tasks):
                session = sessions.session_for(task.ids)
                begin = session.continuation if task.raw else session.answer
                with closing(begin(task.ids, task.config)) as tokens:
                    self._session = session  # whoever cancels before this is heard below, and later by the session
                    for token in tokens if not self._cancelled else ():
                        self._tell((place, token))
                if self._cancelled:
                    break
        except Exception as error:
            self._tell(error)
        finally:
            self._session = None
            self._tell(None)

    def _tell(self, record: Record | Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._records.put_nowait, record)
        except RuntimeError:  # the event loop has ended, and with it all who could read this
            self._cancelled = True


class Line:
    """Those who wait for a model, first come first served."""

    def __init__(self, model: Model, *, most_waiting: int, sessions: Sessions) -> None:
        """Open a line of at most ``most_waiting`` requests beside the one that is answered."""
        self._most_waiting, self._sessions, self._model = most_waiting, sessions, model
        self._lock = threading.Lock()
        self._waiting: set[Job] = set()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._seconds = 1.0  # what a request takes, lately
        self._running = False
        self._thread = threading.Thread(target=self._work, name="mimo-serve", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def running(self) -> bool:
        """Whether one is being answered."""
        return self._running

    def enter(self, tasks: Sequence[Task], timeout_s: float) -> Job:
        """A place at the end of the line.

        Raises:
            RequestError: The line is full.
        """
        job = Job(self, tasks, timeout_s)
        with self._lock:
            self.check_room()
            self._waiting.add(job)
        self._queue.put(job)
        return job

    def check_room(self) -> None:
        """See that somebody may enter.

        Raises:
            RequestError: The line is full.
        """
        waiting = len(self._waiting)
        if waiting >= self._most_waiting + (not self._running):
            seconds = min(LONGEST_RETRY, max(1, round(self._seconds * (waiting + 1))))
            raise RequestError(
                TOO_MANY,
                f"{waiting} requests wait already, and no more may; try again in {seconds} seconds",
                "queue_full",
                {"Retry-After": str(seconds)},
            )

    def leave(self, job: Job) -> None:
        """Give a place in the line away, if the job has one."""
        with self._lock:
            self._waiting.discard(job)

    def close(self) -> None:
        """End the generation under way, answer nobody else, and wait for the thread."""
        with self._lock:
            self._waiting.clear()
        self._queue.put(None)
        while self._thread.is_alive():  # a generation may be about to begin, which hears nothing yet
            self._model.cancel()
            self._thread.join(0.1)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                if job not in self._waiting:
                    continue
                self._waiting.discard(job)
                self._running = True
            begun = time.monotonic()
            try:
                job.run(self._sessions)
            finally:
                self._running = False
                self._seconds = 0.8 * self._seconds + 0.2 * (time.monotonic() - begun)
