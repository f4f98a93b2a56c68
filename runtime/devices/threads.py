"""How many threads compute: one for a small model, else as many as there are physical cores.

Two threads of one core share what both need, so that the second gains nothing. All threads meet after every operation,
some hundred times a token. A small model is computed in less time than they need to meet, and beside other work each
waits there for one that has no processor: docs/performance.md has the figures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Power = Literal["eco", "balanced", "burst"]
"""How much of the machine's power is taken for speed."""

SMALL_WEIGHTS_BYTES = 64_000_000
"""One thread computes what is smaller: it reads so much in some 4 ms, and MiMo-nano's weights are at most 16 MB."""

_CPUS = Path("/sys/devices/system/cpu")


def default_threads(*files: Path) -> int:
    """How many threads compute the model whose weights are in these files, when nobody says how many.

    A file that is missing counts as empty: whoever loads it says so.
    """
    weights_bytes = sum(file.stat().st_size for file in files if file.is_file())
    return 1 if weights_bytes < SMALL_WEIGHTS_BYTES else physical_cores()


def threads_for(power: Power, *files: Path) -> int:
    """The same with so much power: half of them with eco, and one for each physical core with burst."""
    if power == "burst":
        return physical_cores()
    usual = default_threads(*files)
    return max(1, usual // 2) if power == "eco" else usual


def physical_cores() -> int:
    """Physical cores that this process may use; at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, len(siblings))


def _siblings(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)
