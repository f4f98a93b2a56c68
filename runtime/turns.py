"""Who may use a model's backend, and when: one generation at a time, no run after the end, none in a fork.

Whatever is here may be called from any thread, from signal handlers and finalizers that interrupt a run, and from
callbacks within a run. Nothing here waits for a thread that reads tokens, but for generations that wait in the queue.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mimo_mobile.errors import Cancelled, SessionError
from mimo_mobile.runtime import process
from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.mapped_files import MappedFiles

if TYPE_CHECKING:
    from mimo_mobile.runtime.decode.session import Session


LOOK_S = 0.2
"""Whoever waits looks for a turn so often, as an exception may drop one without a word."""


class CancelEvent(threading.Event):
    """An event that a signal handler may set while its own thread is setting it; threading's would wait for itself."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())


class Turn:
    """A generation's right to be the only one, until it is ``over``, or dropped because an exception came between."""

    __slots__ = ("__weakref__", "over")

    def __init__(self) -> None:
        self.over = False


class Deadline:
    """Whether the time of a generation has ``passed``."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        self.passed = False


class _Waiter:
    """Somebody who waits for a turn."""

    __slots__ = ("__weakref__", "cancelled", "thread", "ticket", "woken")

    def __init__(self, ticket: int, cancelled: threading.Event) -> None:
        self.ticket, self.cancelled = ticket, cancelled
        self.woken, self.thread = CancelEvent(), threading.get_ident()


class Turns:
    """A model's backend, for one caller after the other.

    Attributes:
        queued: Whether a generation waits for its turn while another one is under way, instead of an error.
    """

    def __init__(self, backend: Backend, files: MappedFiles) -> None:
        """Hand out ``backend`` as long as its ``files`` stay as they are; both are closed in the end."""
        self.queued = False
        # First come, first served. Whoever an exception drops is not waited for.
        self._waiters: weakref.WeakValueDictionary[int, _Waiter] = weakref.WeakValueDictionary()
        self._tickets = itertools.count()
        self._thread = 0  # which computed last, or has the turn
        self._backend: Backend | None = backend
        self._files, self._process = files, os.getpid()
        # Held while the backend computes, never while a caller reads tokens. What interrupts a run in its own thread
        # may take it, too, and sees by _in_run that the backend is in use.
        self._runs = threading.RLock()
        self._in_run = self._closing = False
        self._claims = threading.RLock()  # held for a moment
        self._turn: weakref.ref[Turn] | None = None
        self._cancelled: threading.Event = CancelEvent()  # of the generation that runs or is about to
        self._holder: weakref.ref[Session] | None = None  # whose tokens are in the KV cache
        self._free = weakref.finalize(self, _free, backend, files, self._process)  # a model may just be forgotten
        self._free.atexit = False
        process.enter(self)

    @property
    def is_open(self) -> bool:
        """Whether the backend can still be used."""
        return self._backend is not None and not self._closing

    def take(self, cancelled: threading.Event) -> Turn:
        """The turn of a generation that ``cancelled`` ends; it is over from the start when that came while it waited.

        Raises:
            SessionError: Another generation is under way, and this one may not wait, or the model is closed meanwhile.
        """
        self._check_process()
        if process.is_ending():
            process.refuse()
        turn = Turn()
        with self._claims:
            if not self._waiters and self._give(turn, cancelled):
                return turn
            self._check_may_wait()
            waiter = _Waiter(next(self._tickets), cancelled)
            self._waiters[waiter.ticket] = waiter
        try:
            while not self._has_come(waiter, turn):
                waiter.woken.wait(LOOK_S)
            return turn
        finally:
            with self._claims:
                self._waiters.pop(waiter.ticket, None)
                self._wake_first()

    @contextmanager
    def deadline(self, seconds: float | None, cancelled: threading.Event) -> Iterator[Deadline]:
        """Cancel a generation that is not over after so many seconds; the time that it waits for its turn counts."""
        made = Deadline()
        if seconds is None:
            yield made
            return

        def expire() -> None:
            made.passed = True
            self.cancel_only(cancelled)

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield made
        finally:
            timer.cancel()

    def give_back(self, turn: Turn) -> None:
        """End a turn, so that the next generation may begin."""
        with self._claims:
            turn.over = True
            self._wake_first()

    @contextmanager
    def alone(self, cancelled: threading.Event) -> Iterator[Backend]:
        """The backend, in a turn and a run of the caller's own that need no session.

        Raises:
            Cancelled: It was cancelled while it waited for its turn.
            SessionError: The model is closed or busy.
        """
        turn = self.take(cancelled)
        try:
            if turn.over:
                raise Cancelled
            with self.running() as backend:
                self.claim(None, backend)
                yield backend
        except Cancelled:
            process.pause()
            raise
        finally:
            self.give_back(turn)

    @contextmanager
    def running(self, cancelled: threading.Event | None = None) -> Iterator[Backend]:
        """The backend while it is certainly not freed, for one run.

        Raises:
            Cancelled: The generation was cancelled; closing does that, too.
            SessionError: The model is closed, its files were changed, or it was loaded before a fork.
        """
        self._check_process()
        with self._runs:
            if not process.is_ending():
                self._in_run = True
                try:
                    if cancelled is not None and cancelled.is_set():
                        raise Cancelled  # maybe in the queue: then the turn is another thread's
                    self._thread = threading.get_ident()
                    backend = self.opened()
                    self._files.check()
                    yield backend
                finally:
                    self._in_run = False
                    if self._closing:
                        self._end_backend()
                return
        process.refuse()

    def claim(self, session: Session | None, backend: Backend) -> None:
        """Give the KV cache to a session, or to nobody; what another one had there is kept with that one."""
        holder = self._holder() if self._holder is not None else None
        if holder is session and session is not None:
            return
        if holder is not None:
            holder.put_away(backend)
        self._holder = None  # what comes next may fail half-way
        if session is not None:
            session.take_back(backend)
            self._holder = weakref.ref(session)

    def begin(self, cancelled: threading.Event) -> None:
        """Let ``cancel`` mean a generation that is about to begin, unless another one runs."""
        with self._claims:
            if not self._is_taken():
                self._cancelled = cancelled

    def cancel(self) -> None:
        """End the generation that runs or is about to."""
        with self._claims:
            self.cancel_only(self._cancelled)

    def cancel_only(self, cancelled: threading.Event) -> None:
        """End one generation, and no other that runs meanwhile."""
        with self._claims:  # so that nobody's turn begins between the question and the deed
            cancelled.set()
            for waiter in list(self._waiters.values()):
                if waiter.cancelled is cancelled:
                    waiter.woken.set()
            if self._cancelled is cancelled and (backend := self._backend) is not None:
                backend.cancel()

    def close(self) -> None:
        """End the running generation and free the backend, after the run under way."""
        if os.getpid() != self._process or process.is_ending():
            return
        self._closing = True
        self.cancel()
        self._wake_all()
        with self._runs:
            if not self._in_run:  # else this interrupts a run of its own thread, which frees the backend at its end
                self._end_backend()

    def opened(self) -> Backend:
        """The backend, to ask what never changes.

        Raises:
            SessionError: The model is closed, or was loaded before a fork.
        """
        self._check_process()
        if (backend := self._backend) is None or self._closing:
            raise SessionError("the model is closed; load it again")
        return backend

    def end(self, seconds: float) -> None:
        """Cancel the run under way, and wait for its end."""
        if os.getpid() == self._process:
            self.cancel()
            self._wake_all()
            if self._runs.acquire(timeout=seconds):
                self._runs.release()

    def keep(self) -> None:
        """Free nothing in this fork."""
        process.keep_alive(self._backend)

    def _give(self, turn: Turn, cancelled: threading.Event) -> bool:
        """Whether nobody has the turn, which is given then."""
        if self._is_taken():
            return False
        self._turn, self._cancelled = weakref.ref(turn), cancelled
        self._thread = threading.get_ident()
        return True

    def _has_come(self, waiter: _Waiter, turn: Turn) -> bool:
        """Whether somebody need not wait any longer, because the turn is theirs, or they were cancelled.

        Raises:
            SessionError: The model is closed, or the program is ending.
        """
        waiter.woken.clear()  # first: who wakes it from here on is heard
        if process.is_ending():
            process.refuse()
        with self._claims:
            if waiter.cancelled.is_set():
                turn.over = True
                return True
            self.opened()
            first = min(self._waiters.keys(), default=waiter.ticket)
            return first == waiter.ticket and self._give(turn, waiter.cancelled)

    def _check_may_wait(self) -> None:
        """See that whoever cannot have the turn now may wait for it.

        Raises:
            SessionError: There is no queue, or this thread would wait for itself.
        """
        if not self.queued:
            raise SessionError(
                "the model is busy with another generation; cancel it, load the model once more, or with queue=True"
            )
        busy = {each.thread for each in list(self._waiters.values())} | ({self._thread} if self._is_taken() else set())
        if threading.get_ident() in busy:
            raise SessionError(
                "the model is busy with a generation of this same thread, which would wait for itself; read that one to"
                " its end, or close it"
            )

    def _wake_first(self) -> None:
        """Let the first of those who wait look whether it is their turn."""
        for _, first in sorted(self._waiters.items(), key=lambda item: item[0])[:1]:
            first.woken.set()

    def _wake_all(self) -> None:
        with self._claims:
            for waiter in list(self._waiters.values()):
                waiter.woken.set()

    def _is_taken(self) -> bool:
        turn = self._turn() if self._turn is not None else None
        return turn is not None and not turn.over

    def _end_backend(self) -> None:
        self._backend = None
        self._free()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise SessionError(
                f"the model was loaded in process {self._process}, of which this one is a fork without its threads;"
                " load it in this process, and start processes with multiprocessing's 'spawn'"
            )


def _free(backend: Backend, files: MappedFiles, process_id: int) -> None:
    if os.getpid() == process_id:
        backend.close()
        files.close()
