"""How much of this machine's memory a model will take, known before it is loaded."""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile.errors import MemoryFullError

logger = logging.getLogger(__name__)

WORTH_SAYING_BYTES = 1_000_000_000
"""A smaller need is logged for debugging only."""

ADDRESSES_BESIDES_BYTES = 64_000_000
"""What a run maps beside its model when addresses are limited (``ulimit -v``): stacks, and libraries to come."""

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What one way of loading a model keeps in memory.

    Attributes:
        way: Its name, e.g. ``repacked``.
        heap_bytes: Weights that are copied, KV cache and buffers: nothing that the system can take back.
        mapped_bytes: Weights that every token reads from the file's own pages; without room for them it crawls.
        context_bytes: What of both a context of one token would not take.
    """

    way: str
    heap_bytes: int
    mapped_bytes: int
    context_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.heap_bytes + self.mapped_bytes

    def __str__(self) -> str:
        return f"{self.way} {_gb(self.heap_bytes)} + {_gb(self.mapped_bytes)} mapped"


def choose(path: Path, needs: list[MemoryNeed], shorten: str = "take a shorter --context-length") -> MemoryNeed:
    """The first way to load that fits in the available memory; all of them are logged.

    When none fits, and a shorter context would, the error advises to ``shorten`` it.

    Raises:
        MemoryFullError: None fits.
    """
    available = available_bytes()
    level = logging.INFO if needs[0].total_bytes >= WORTH_SAYING_BYTES else logging.DEBUG
    room = "unknown" if available is None else _gb(available)
    logger.log(level, "%s: memory: %s; available %s", path.name, ", or ".join(map(str, needs)), room)
    for need in needs:
        if available is None or need.total_bytes <= available:
            return need
    least = min(needs, key=lambda need: need.total_bytes)
    assert available is not None
    advice = f"{shorten}, take" if least.total_bytes - least.context_bytes < available else "take"
    raise MemoryFullError(
        f"{path}: needs {_gb(least.total_bytes)} of memory ({least}), {room} is available;"
        f" {advice} a smaller recipe, or close other programs"
    )


def available_bytes() -> int | None:
    """Memory that this process may still take: the system's, within its control group's limit and its own.

    None if it is unknown.
    """
    found = []
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration):
        return None
    try:
        most = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        if most != "max":  # pages of files count as used there, but are given back
            used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
            found.append(int(most) - used + int(statistics["inactive_file"]) + int(statistics["active_file"]))
    except (OSError, ValueError, KeyError):
        pass
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:  # beyond it the engines cannot map, and llama.cpp aborts the process
        with suppress(OSError):
            mapped = int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            found.append(limit - mapped - ADDRESSES_BESIDES_BYTES)
    return max(0, min(found))


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
