"""Tries a GGUF file in a process of its own before this one loads it: what kills llama.cpp kills that process only.

The check in ``checked.py`` refuses what is known to be wrong. This finds the rest: the child maps the file, computes
one step, with the MTP layer too, and ends. It is started once for each header, and that all went well is kept in the
cache. Weights are no part of the question, because nothing in their blocks can lead out of memory: blocks hold numbers,
and indices into tables that have as many entries as an index has values. What went wrong is not kept, since a machine
that was short of memory once would refuse the file for ever.
"""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from mimo_mobile import cache_folder, untrusted
from mimo_mobile.cache import PROBE
from mimo_mobile.errors import ModelLoadError, SessionError, require
from mimo_mobile.gguf_header import GgufHeader

logger = logging.getLogger(__name__)

CONTEXT_LENGTH = 64

SPARE_BYTES, THREAD_BYTES = 2 << 30, 128 << 20
"""Address space that the child may take beside its libraries and the files, and for each thread; it uses little."""

START_S, MOST_S, BYTES_PER_S = 30, 600, 30e6
"""The child has so much time to start, so much at most in all, and reads a file at this speed or faster."""

_STARTED, _WELL = "started", "well"
_passed: set[str] = set()
"""What this process has tried."""


def probe(trunk: GgufHeader, drafter: GgufHeader | None, threads: int, *, keep: bool) -> None:
    """See that llama.cpp survives a model, and remember it on disk when ``keep`` is true.

    A machine where no child can be started goes without, and the log says so.

    Args:
        trunk: The file with the trunk.
        drafter: The file with the MTP layer; the same, another or none.
        threads: How many compute.
        keep: Whether to use the cache on disk.

    Raises:
        ModelLoadError: The child died, hung, or llama.cpp refused the file.
    """
    version = require("llama_cpp", "gguf").__version__
    parts = trunk.digest, drafter.digest if drafter else "", version
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    place = cache_folder.place(PROBE, key) if keep else None  # an empty file
    if key in _passed or (place is not None and cache_folder.is_ours(place)):
        return
    paths = [trunk.path] + ([drafter.path] if drafter else [])
    if not _survives(paths, threads):
        return
    _passed.add(key)
    if keep:
        cache_folder.keep(place, "")


def _survives(paths: list[Path], threads: int) -> bool:
    """Whether a child loaded the files and computed; false when none could be started."""
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name:
        logger.warning("%s: not tried in a process of its own, no Python program found to start one with", paths[0])
        return False
    size = sum(path.stat().st_size for path in paths)
    limit_s = min(MOST_S, START_S + size / BYTES_PER_S)
    # -P and our own sys.path: no module is taken from the folder that the program happens to be started in.
    code = f"import sys; sys.path[:] = {[*map(str, sys.path)]!r}; from {__name__} import main; main()"
    command = [sys.executable, "-P", "-c", code, str(threads), *map(str, paths)]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    try:
        child = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _error(paths[0], f"llama.cpp hangs on this file: no step ended in {limit_s:.0f} s") from error
    except OSError as error:
        logger.warning("%s: not tried in a process of its own: %s", paths[0], error)
        return False
    said = child.stdout.decode("utf-8", errors="replace").splitlines()
    if child.returncode == 0 and said == [_STARTED, _WELL]:
        return True
    message = (child.stderr.decode("utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    message = untrusted.printable(message)[:300]
    if _STARTED not in said:
        logger.warning("%s: not tried in a process of its own, which does not start: %s", paths[0], message)
        return False
    if child.returncode < 0:
        raise _error(paths[0], f"llama.cpp dies on this file ({_signal(-child.returncode)}): {message}")
    raise ModelLoadError(message if message.startswith(tuple(map(str, paths))) else f"{paths[0]}: {message}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _error(path: Path, found: str) -> ModelLoadError:
    return ModelLoadError(f"{path}: {found}; download or convert it again, or load it with --trust")


def _child(threads: int, paths: list[Path]) -> None:
    """Load the files and compute a step; whatever goes wrong ends this process."""
    from mimo_mobile.runtime.llama.context import llama_log
    from mimo_mobile.runtime.llama.opening import open_mtp, open_trunk

    log = llama_log()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(sum(path.stat().st_size for path in paths) + SPARE_BYTES + threads * THREAD_BYTES)
    print(_STARTED, flush=True)
    trunk, drafter = paths[0], paths[1] if len(paths) > 1 else None
    backend = open_trunk(log, trunk, CONTEXT_LENGTH, threads, "f16", repack=False, drafter=drafter)
    backend.decode([0, 1], 0, threading.Event())
    if drafter is not None:
        mtp = open_mtp(log, backend, threads, "f16", tokens=2)
        mtp.begin()
        mtp.read(np.ones((1, backend.hidden_size), np.float32), [1], 1)
    print(_WELL, flush=True)
    os._exit(0)  # a file that is well needs no tidying up


def _limit_memory(more_bytes: int) -> None:
    """Let this process take so much more address space at most, where the system tells how much it has."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + more_bytes
    lowest = min([wanted, *(each for each in limits if each != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (lowest, limits[1]))


def main() -> None:
    """What the child does: try the files that its arguments name, after the number of threads."""
    try:
        _child(int(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
    except (SessionError, MemoryError) as error:
        sys.exit(str(error) or "it needs too much memory")
