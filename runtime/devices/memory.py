"""How much of this machine's memory a model will take, known before it is loaded."""

from __future__ import annotations

import bisect
import dataclasses
import logging
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mimo_mobile.errors import MemoryFullError
from mimo_mobile.layout import DEFAULT_CONTEXT
from mimo_mobile.runtime.load_config import LoadConfig

logger = logging.getLogger(__name__)

WORTH_SAYING_BYTES = 1_000_000_000
"""A smaller need is logged for debugging only."""

ADDRESSES_BESIDES_BYTES = 64_000_000
"""What a run maps beside its model when addresses are limited (``ulimit -v``): stacks, and libraries to come."""

KNOWN_WITHIN = 0.9
"""What a model needs is known to a tenth."""

LEAST_CONTEXT, CONTEXT_STEP = 512, 256
"""Contexts that are chosen by the memory begin with so many tokens, and have so many more."""

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What one way of loading a model keeps in memory.

    Attributes:
        way: Its name, e.g. ``repacked``.
        copied_bytes: Weights that are copied in another order, as kernels want them.
        kv_bytes: The KV caches of a full context.
        activation_bytes: What the engine computes in, and the engine itself.
        mapped_bytes: Weights that every token reads from a file's own pages; without room for them it crawls.
        idle_bytes: Pages of files that loading reads and tokens do not: the system takes them back when it needs them.
        copies: Whether llama.cpp copies the weights.
        drafts: Whether the MTP layer is loaded.
    """

    way: str
    copied_bytes: int = 0
    kv_bytes: int = 0
    activation_bytes: int = 0
    mapped_bytes: int = 0
    idle_bytes: int = 0
    copies: bool = False
    drafts: bool = False

    @property
    def private_bytes(self) -> int:
        """What the system cannot take back: RssAnon grows by it."""
        return self.copied_bytes + self.kv_bytes + self.activation_bytes

    @property
    def file_bytes(self) -> int:
        """What is resident of files as long as memory is plentiful: RssFile grows by it."""
        return self.mapped_bytes + self.idle_bytes

    @property
    def total_bytes(self) -> int:
        """What there must be room for."""
        return self.private_bytes + self.mapped_bytes

    def sharing_weights(self) -> MemoryNeed:
        """The same with weights that another model has loaded already."""
        return dataclasses.replace(self, copied_bytes=0, mapped_bytes=0)

    def sharing_kv(self) -> MemoryNeed:
        """The same with a KV cache that is there already."""
        return dataclasses.replace(self, kv_bytes=0)

    def __str__(self) -> str:
        return f"{self.way} {_gb(self.private_bytes)} + {_gb(self.mapped_bytes)} mapped"


class Ways(Protocol):
    """The ways of loading a model with so long a context, the preferred one first."""

    def __call__(self, context_length: int) -> list[MemoryNeed]:
        """The ways."""


def first_fitting(needs: Sequence[MemoryNeed], available: int | None) -> MemoryNeed | None:
    """The first way that fits in so much memory; None when none does. All memory is enough where nobody knows it."""
    return next((need for need in needs if available is None or need.total_bytes <= available), None)


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
    if (chosen := first_fitting(needs, available)) is not None:
        return chosen
    least = min(needs, key=lambda need: need.total_bytes)
    assert available is not None
    advice = f"{shorten}, take" if least.total_bytes - least.kv_bytes < available else "take"
    raise MemoryFullError(
        f"{path}: needs {_gb(least.total_bytes)} of memory ({least}), {room} is available;"
        f" {advice} a smaller recipe, or close other programs"
    )


def context_of(path: Path, config: LoadConfig, ways: Ways, trained: int) -> int:
    """The context to load a model with that was trained for so long a one.

    Raises:
        ModelLoadError: More was asked for than it was trained for.
    """
    return config.choose_context_length(path, trained, lambda: largest_context(ways, trained, available_bytes()))


def largest_context(ways: Ways, trained: int, available: int | None) -> int:
    """The longest context that memory has room for, in the preferred way that leaves a usual one.

    A tenth of the memory is left, since needs are known that well. Nothing is too small for ``LEAST_CONTEXT``: whether
    that fits is for others to say.
    """
    if available is None:
        return min(trained, DEFAULT_CONTEXT)
    room, usual = int(available * KNOWN_WITHIN), min(trained, DEFAULT_CONTEXT)
    found = [_largest(ways, place, trained, room) for place in range(len(ways(usual)))]
    return next((each for each in found if each >= usual), max(found))


def _largest(ways: Ways, place: int, trained: int, room: int) -> int:
    steps = range(LEAST_CONTEXT, trained + 1, CONTEXT_STEP)
    more = bisect.bisect_right(steps, room, key=lambda context: ways(context)[place].total_bytes)
    if more == len(steps) and ways(trained)[place].total_bytes <= room:
        return trained
    return steps[more - 1] if more else min(trained, LEAST_CONTEXT)


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
