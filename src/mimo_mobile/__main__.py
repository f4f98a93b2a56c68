"""The command ``mimo``, which ``python -m mimo_mobile`` is, too: what is there before anything can fail."""

from __future__ import annotations

import os
import sys

from mimo_mobile import interrupts


def main() -> None:
    """Run the command that was typed, and end the process with its status."""
    interrupts.install()
    import threading

    from mimo_mobile import ends

    sys.excepthook = lambda *_: None  # libraries in C print what they then raise in another form; ends tells it once
    threading.excepthook = ends.end_with_a_thread
    status = 1
    try:
        status = ends.status_of(_run)
        interrupts.leave_to_the_end(status)
    except KeyboardInterrupt:  # between both
        os._exit(status)
    sys.exit(status)


def _run() -> None:
    import resource

    from mimo_mobile import ends

    ends.prepare_streams()
    # OpenBLAS starts threads when NumPy is imported, and raises SIGINT when it gets none. We multiply nothing with it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:  # a thread takes 100 MB of addresses
        interrupts.watch()
    from mimo_mobile.cli import main as command

    command(prog_name="mimo")


if __name__ == "__main__":
    main()
