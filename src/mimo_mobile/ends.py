"""How the command ends when something fails: one line on stderr that names the cause, and an exit status.

A fault of our own is no cause that a user could mend: it keeps its traceback, with a request to report it.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from errno import EBADF, EPIPE
from io import TextIOWrapper

from mimo_mobile.errors import MimoMobileError
from mimo_mobile.untrusted import printable

SUCCESS, FAILURE = 0, 1

OURS = (
    "This is a fault in MiMo Mobile, and no mistake of yours. Please report it where you got MiMo Mobile from, with"
    " the lines above and the command that you typed."
)


def cause(error: BaseException) -> str | None:
    """What a failure comes to, in one line; None for Ctrl-C, for a reader that has gone, and for faults of our own."""
    if isinstance(error, MimoMobileError):
        return printable(str(error))
    if isinstance(error, OSError):
        return None if error.errno == EPIPE else _of_the_system(error)
    # Libraries in C that run out of memory while they are imported do not always say so.
    if isinstance(error, MemoryError) or str(error) == "error return without exception set":
        return "the memory is full; end other programs, take a smaller model, or raise the memory limit of this process"
    if isinstance(error, RecursionError):
        return "something that was read is nested too deeply; it is damaged or hostile"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[error.start : error.end]!a:.60} found, which cannot be written as {error.encoding}"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "no thread can be started; end other programs, or raise the limit of processes and threads (ulimit -u)"
    if isinstance(error, ImportError):
        return _of_an_import(error)
    if type(error).__module__ == "pyo3_runtime":  # a panic in Rust, which is a BaseException only
        return f"the tokenizer's library failed: {_first_line(error)}; tokenizer.json is damaged or hostile"
    return None


def _of_the_system(error: OSError) -> str:
    names = [os.fsdecode(each) for each in (error.filename, error.filename2) if isinstance(each, (str, bytes))]
    return printable(": ".join([*names, error.strerror or _first_line(error)]))


def _of_an_import(error: ImportError) -> str | None:
    """A library that is installed and cannot be loaded. The first error says why, the later ones whom it hit."""
    first: BaseException = error
    while (earlier := first.__cause__ or first.__context__) is not None:
        first = earlier
    if isinstance(first, ModuleNotFoundError) or (error.name or "").startswith("mimo_mobile"):
        return None
    return (
        f"a library cannot be loaded: {_first_line(first)}; raise the memory limit of this process if it has one,"
        " else install MiMo Mobile again"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0][:300]) if lines else type(error).__name__


def status_of(run: Callable[[], object]) -> int:
    """Run the command, see that what it printed arrives, and say why when something fails; returns the exit status."""
    status = _tried(run)
    if status == SUCCESS:
        status = _tried(sys.stdout.flush)
    if status != SUCCESS:
        _print_no_more()
    return status


def end_with_a_thread(found: threading.ExceptHookArgs) -> None:
    """End the process when a thread of a library fails, for whoever waits for that thread would do so for ever."""
    if found.exc_value is not None:
        _tell(found.exc_value)
    os._exit(FAILURE)


def prepare_streams() -> None:
    """Make the standard streams such that no text fails for its characters, and no file that is opened becomes one.

    Raises:
        OSError: The standard output is closed, so that nobody would see what the command prints.
    """
    closed = sys.stdout is None
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    if closed:
        raise OSError(EBADF, "it is closed; send it to a file, or to /dev/null", "the standard output")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _tried(run: Callable[[], object]) -> int:
    try:
        run()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILURE if ended.code else SUCCESS
    except KeyboardInterrupt:
        _say("Aborted!")
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == EPIPE:
            return FAILURE  # who read has gone, which is nobody's mistake
        _tell(error)
    else:
        return SUCCESS
    return FAILURE


def _tell(error: BaseException) -> None:
    if (said := cause(error)) is not None:
        _say(f"Error: {said}")
        return
    error.add_note(OURS)
    lines = "".join(traceback.format_exception(error)).splitlines()
    _say("\n".join(printable(line) for line in lines))


def _say(text: str) -> None:
    with suppress(OSError):  # nobody can be told that nobody can be told
        print(text, file=sys.stderr, flush=True)


def _print_no_more() -> None:
    """What could not be printed is dropped, else Python would try once more at its end, and complain."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
