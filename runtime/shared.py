"""What several models of this process use together: it is made once, and freed after the last of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Use(Generic[T]):
    """One model's part in a shared thing.

    Attributes:
        thing: The thing itself.
    """

    def __init__(self, thing: T, end: Callable[[], None]) -> None:
        """Use ``thing`` until ``end`` is called."""
        self.thing, self._end = thing, end
        self._over = False

    def end(self) -> None:
        """Use it no longer; ending twice does no harm."""
        if not self._over:
            self._over = True
            self._end()


class _Entry(Generic[T]):
    def __init__(self) -> None:
        self.lock, self.users = threading.RLock(), 0  # the lock is held while the thing is made
        self.made: list[T] = []


class Shared(Generic[T]):
    """Things by what decides how they come out."""

    def __init__(self, free: Callable[[T], None]) -> None:
        """Begin with none; ``free`` ends one that nobody uses any more."""
        self._free = free
        self._lock = threading.RLock()  # held for a moment
        self._entries: dict[Hashable, _Entry[T]] = {}

    def use(self, key: Hashable, make: Callable[[], T]) -> Use[T]:
        """The thing of a key, made if nobody uses one; a fork makes its own."""
        key = os.getpid(), key
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                if not entry.made:
                    entry.made.append(make())
            return Use(entry.made[0], lambda: self._leave(key))
        except BaseException:
            self._leave(key)
            raise

    def has(self, key: Hashable) -> bool:
        """Whether somebody uses the thing of a key."""
        return (os.getpid(), key) in self._entries

    def _leave(self, key: Hashable) -> None:
        with self._lock:
            entry = self._entries[key]
            entry.users -= 1
            if entry.users:
                return
            del self._entries[key]
        for thing in entry.made:
            self._free(thing)


def file_key(*paths: Path) -> Hashable:
    """Which files these are now, and in which state."""
    states = [path.stat() for path in paths]
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in states)
