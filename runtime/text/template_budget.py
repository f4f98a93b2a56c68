"""How much a chat template may still do, and what its values cost."""

from __future__ import annotations

from typing import Any, NamedTuple

from jinja2 import TemplateError, Undefined

ITEM = 16
"""As so many characters an element of a list counts."""

MOST_DEPTH = 32
"""So deeply lists and dicts may be nested where they are compared or written out, and macros may call each other."""

LARGEST = 2**63
"""Whole numbers stay below it."""


class Weight(NamedTuple):
    """What a value costs: its characters and elements, and how deeply it is nested."""

    characters: int
    depth: int


class Budget:
    """What is left of the steps and characters that one rendering may take.

    A step is an operation or a turn of a loop; a character is one that was made, copied or searched.
    """

    def __init__(self, steps: int, characters: int) -> None:
        """Allow so many steps and characters."""
        self._allowed = steps, characters
        self._steps, self._characters = steps, characters

    def spend(self, characters: int = 0, steps: int = 1) -> None:
        """Take from the budget.

        Raises:
            TemplateError: Nothing is left.
        """
        self._steps -= steps
        self._characters -= characters
        if self._steps < 0:
            raise TemplateError(f"it takes more than {self._allowed[0]:,} steps, which none needs for these messages")
        if self._characters < 0:
            raise TemplateError(f"it works on more than {self._allowed[1]:,} characters, which none needs here")

    def write(self, value: Any) -> str:
        """A value as text.

        Raises:
            TemplateError: It has no text that means anything, or is too long.
        """
        self.weigh(value)
        return str(value) if isinstance(value, str) else self.made(str(value))

    def weigh(self, value: Any) -> Weight:
        """Spend what it costs to look at all of a value; each of its parts counts as often as it is met."""
        if value is None or isinstance(value, str | int | float):
            size = len(value) if isinstance(value, str) else ITEM
            self.spend(size, 0)
            return Weight(size, 0)
        total, deepest = 0, 0
        stack: list[tuple[Any, int]] = [(value, 0)]
        while stack:
            each, depth = stack.pop()
            cost = ITEM
            if isinstance(each, str):
                cost = len(each)
            elif isinstance(each, list | tuple | dict):
                depth += 1
                if depth > MOST_DEPTH:
                    raise TemplateError(f"its lists are nested more than {MOST_DEPTH} deep")
                cost += ITEM * len(each)
                self.spend(cost, 0)  # before the elements are put on the stack
                parts = [*each.keys(), *each.values()] if isinstance(each, dict) else each
                stack += [(part, depth) for part in parts]
                deepest, total = max(deepest, depth), total + cost
                continue
            elif not (each is None or isinstance(each, int | float | Undefined)):
                raise TemplateError(f"it writes out or compares a {type(each).__name__.lower()}")
            self.spend(cost, 0)
            total += cost
        return Weight(total, deepest)

    def made(self, value: Any) -> Any:
        """A new value, when the budget has room for it."""
        if isinstance(value, str):
            self.spend(len(value), 0)
        elif isinstance(value, list | tuple | dict):
            self.spend(ITEM * (1 + len(value)), 0)
        elif isinstance(value, int) and not -LARGEST < value < LARGEST:
            raise TemplateError("it makes a number of more than 63 bits")
        return value
