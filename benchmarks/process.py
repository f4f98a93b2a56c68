"""What a command takes: wall time and the peaks of its memory, read from /proc while it runs."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process took.

    Attributes:
        seconds: The wall time.
        peak_anon_bytes: The largest RssAnon: memory that cannot be dropped and read again.
        peak_rss_bytes: VmHWM, which counts the pages of mapped files, too.
        output: What it printed on stdout.
    """

    seconds: float
    peak_anon_bytes: int
    peak_rss_bytes: int
    output: str


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Taken:
    """Run a command to its end.

    Raises:
        subprocess.CalledProcessError: It failed; the message has the end of what it wrote on stderr.
    """
    words = [str(word) for word in command]
    # Files, since a pipe that nobody reads stops a program that writes much.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            words, stdout=output, stderr=errors, text=True, env=dict(os.environ, **(environment or {}))
        )
        anon = peak = 0
        while process.poll() is None:
            status = memory_of(process.pid)
            anon, peak = max(anon, status["RssAnon"]), max(peak, status["VmHWM"])
            with suppress(subprocess.TimeoutExpired):
                process.wait(INTERVAL_S)
        seconds = time.perf_counter() - started
        for each in output, errors:
            each.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, words, output.read(), errors.read()[-2000:])
        return Taken(seconds, anon, peak, output.read())


def memory_of(pid: int | str = "self") -> dict[str, int]:
    """RssAnon, RssFile and VmHWM of a process in bytes, 0 when it has ended. Linux only."""
    found = dict.fromkeys(("RssAnon", "RssFile", "VmHWM"), 0)
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return found
    for line in lines:
        key, _, value = line.partition(":")
        if key in found:
            found[key] = int(value.split()[0]) * 1024
    return found
