"""The problems of one checkpoint, gathered by independent checks and raised together, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mimo_mobile.errors import CheckpointError


class Problems:
    """What several checks found.

    Attributes:
        found: In the order of the checks; each is the error that it would be alone.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.found: list[CheckpointError] = []

    def add(self, problem: CheckpointError) -> None:
        """Keep one more, or each of those that it lists."""
        self.found.extend(problem.problems)

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep the CheckpointError that ends the block, so that the checks after it are made as well."""
        try:
            yield
        except CheckpointError as error:
            self.add(error)

    def raise_any(self, about: object) -> None:
        """Raise what was found.

        Raises:
            CheckpointError: The only problem as it is, or one error that lists all in its message and ``.problems``.
        """
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            listed = "; ".join(f"({number}) {problem}" for number, problem in enumerate(self.found, 1))
            raise CheckpointError(f"{about}: {len(self.found)} problems: {listed}", self.found)
