"""Ctrl-C and the other signals that end a process: the command ends in its own way, quietly, whatever it is doing.

Python hears a signal between two of its own steps, and raises an exception there. Three places cannot bear one: an
import, where a library may print it and go on half made; a callback or destructor, which no exception leaves; and a
long call into a library, where it waits for the end. In the first two the process ends at once; in the third it does
when a second signal comes.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys

TYPE_CHECKING = False  # as typing's, whose import would take longer than all that is imported here
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_HEARD = b"\0"
_IMPORTERS = ("importlib._bootstrap", "importlib._bootstrap_external")
_writer = -1


def install() -> None:
    """Listen from now on; a signal that this process was started to ignore stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _raised)
    sys.unraisablehook = _unraisable


def watch() -> None:
    """Let a second signal end the process when Python has not heard the first one, if there is a thread for it."""
    from threading import Thread

    global _writer
    reader, _writer = os.pipe()
    os.set_blocking(_writer, False)
    signal.set_wakeup_fd(_writer, warn_on_full_buffer=False)
    try:
        Thread(target=_watch, args=(reader,), daemon=True).start()
    except RuntimeError:  # the process may have no more
        signal.set_wakeup_fd(-1)


def heard() -> None:
    """Tell that somebody sees to a signal, so that a second one is a new wish and no sign of impatience."""
    if _writer >= 0:
        os.write(_writer, _HEARD)


def end_at_once(number: int = signal.SIGINT) -> NoReturn:
    """End the process without unwinding; unfinished files stay behind, and the next run removes them."""
    try:
        # A progress bar hides the cursor.
        os.write(2, (b"\x1b[?25h" if os.isatty(2) else b"") + (b"Aborted!\n" if number == signal.SIGINT else b""))
    finally:
        os._exit(status(number))


def status(number: int) -> int:
    """The exit status of a command that a signal ended: click's for Ctrl-C, a shell's for others."""
    return 1 if number == signal.SIGINT else 128 + number


def leave_to_the_end(status: int) -> None:
    """The command is over with a status, which Ctrl-C in Python's own last steps does not change."""
    if signal.getsignal(signal.SIGINT) is _raised:
        signal.signal(signal.SIGINT, lambda *_: os._exit(status))
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # after that Python runs no handler


def _raised(number: int, frame: FrameType | None) -> NoReturn:
    heard()
    while frame is not None:
        if frame.f_globals.get("__name__") in _IMPORTERS:
            end_at_once(number)
        frame = frame.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(status(number))


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    if issubclass(found.exc_type, MemoryError):
        return  # whoever fails for it says so; what is being cleared away can only repeat it
    if issubclass(found.exc_type, KeyboardInterrupt):
        end_at_once()
    if isinstance(found.exc_value, SystemExit) and isinstance(found.exc_value.code, int):
        os._exit(found.exc_value.code)
    sys.__unraisablehook__(found)


def _watch(reader: int) -> None:
    waiting = False
    while number := os.read(reader, 1):
        if number == _HEARD:
            waiting = False
        elif number[0] in SIGNALS:
            if waiting:
                end_at_once(number[0])
            waiting = True
