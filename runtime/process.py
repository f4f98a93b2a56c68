"""The process that models live in: how it ends, and what its forks may do.

When the interpreter ends, a thread that is still in ONNX Runtime makes the whole process abort as soon as it wants to
go back to Python. So the end cancels runs in other threads, waits for them and for loads, and lets none begin. A fork
of a process lacks the threads of its engines; to free what they hold would mean to wait for them, so that a fork frees
nothing that its parent loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NoReturn, Protocol

from mimo_mobile.errors import BackendUnavailableError, SessionError

END_WAIT_S = 60.0
"""The end of the interpreter waits so long at most for a load or a run, which usually takes less than a second."""

PAUSE_S = 10.0
"""How long a thread that comes too late waits before it gets an error, which it would print in the midst of the end.
Few ends take longer on a busy machine, and an exit handler that joins such a thread waits no longer."""


class Resident(Protocol):
    """Something that uses native code: a loaded model, or a load under way."""

    def end(self, seconds: float) -> None:
        """Cancel what is under way, and wait until it is over, but not longer than so many seconds."""

    def keep(self) -> None:
        """See to it that nothing native is freed in this process, a fork."""


_residents: weakref.WeakSet[Resident] = weakref.WeakSet()
_ender: int | None = None  # the thread in which the interpreter ends


def enter(resident: Resident) -> None:
    """Let the end of the interpreter and forks know of ``resident`` for as long as it lives."""
    _watch()
    _residents.add(resident)


def is_ending() -> bool:
    """Whether the interpreter ends, and this thread is not the one that ends it, in which exit handlers still run."""
    return _ender is not None and _ender != threading.get_ident()


def pause() -> None:
    """Keep a thread from printing an error while the interpreter ends."""
    if is_ending():
        time.sleep(PAUSE_S)


def refuse() -> NoReturn:
    """Refuse to begin something while the interpreter ends, in a moment.

    Raises:
        SessionError: Always.
    """
    pause()
    raise SessionError("the program is ending; nothing can be loaded or computed in its other threads any more")


@contextmanager
def loading() -> Iterator[None]:
    """Let the end of the interpreter wait for what is loaded in the block.

    Raises:
        BackendUnavailableError: This is a sub-interpreter.
        SessionError: The interpreter ends already.
    """
    if not _is_main_interpreter():
        raise BackendUnavailableError("models cannot be loaded in a sub-interpreter; load them in a process of its own")
    load = _Load()
    with load.lock:
        enter(load)
        if not is_ending():
            yield
            return
    refuse()


def keep_alive(thing: object) -> None:
    """Never free ``thing``, not even when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class _Load:
    def __init__(self) -> None:
        self.lock = threading.RLock()

    def end(self, seconds: float) -> None:
        if self.lock.acquire(timeout=seconds):
            self.lock.release()

    def keep(self) -> None:
        """Do nothing: the thread that loads is not in the fork, and what it holds is never freed there."""


def _is_main_interpreter() -> bool:
    """False in a sub-interpreter, where the engines' bindings and NumPy hang."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # what Python's own modules and tests ask
        if find_spec(name) is not None:
            module = importlib.import_module(name)
            return bool(module.get_current() == module.get_main())
    return True


@functools.cache
def _watch() -> None:
    atexit.register(_end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _end() -> None:
    global _ender
    _ender = threading.get_ident()
    for resident in list(_residents):
        resident.end(END_WAIT_S)


def _forked() -> None:
    global _residents, _ender
    for resident in list(_residents):
        resident.keep()
    _residents, _ender = weakref.WeakSet(), None
