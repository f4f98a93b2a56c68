"""JSON files of ours, read at the border into typed values: each value as the type that it must have, and the version.

docs/formats.md specifies the files, and ``schemas/`` describes them for other programs. Knows no single format.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mimo_mobile import untrusted
from mimo_mobile.errors import MimoMobileError

T = TypeVar("T")

MOST_INTEGER = 2**53 - 1
"""Up to here, JSON readers that keep numbers as doubles keep integers exactly."""

LONG, LONGEST = 40, 500
"""Characters of a wrong value that a message shows, and of what it says of it."""

MOST_TEXT = 4096
"""Characters of a string; a path has no more."""

MOST_ITEMS, MOST_FIELDS = 1_000_000, 1000
"""Elements of an array, where a format does not say less, and fields of an object."""


class DocumentError(ValueError):
    """A value is not what its file's format asks for; the message says where it is, and what was expected."""


class Value:
    """One value of a JSON document, with its place in it.

    The methods return the value as the type that they are named after, and raise a DocumentError that says where the
    value is, what was expected and what was found.

    >>> Value({"windows": [64, 2, 1]})["windows"].items()[1].integer(least=1)
    2
    """

    def __init__(self, value: object, place: str = "") -> None:
        """Take what ``json`` made of a document or a part of it."""
        self._value, self._place = value, place

    @property
    def place(self) -> str:
        """Where in the document the value is, for messages."""
        return untrusted.printable(self._place if len(self._place) <= 2 * LONG else self._place[: 2 * LONG] + "…")

    def __getitem__(self, name: str) -> Value:
        """The field of an object, which must be there."""
        if not isinstance(self._value, dict):
            self._fail("an object")
        place = f"{self._place}.{name}" if self._place else name
        if name not in self._value:
            raise DocumentError(f"{Value(None, place).place} is missing")
        return Value(self._value[name], place)

    def get(self, name: str) -> Value | None:
        """The field of an object; None when it is missing or null."""
        if isinstance(self._value, dict) and self._value.get(name) is None:
            return None
        return self[name]

    def items(self, least: int = 0, most: int = MOST_ITEMS) -> list[Value]:
        """The elements of an array that has at least and at most so many."""
        if not isinstance(self._value, list) or len(self._value) < least:
            self._fail(f"an array of at least {least}" if least else "an array")
        if len(self._value) > most:
            raise DocumentError(f"{self.place}: at most {most} elements expected, {len(self._value)} found")
        return [Value(each, f"{self._place}[{index}]") for index, each in enumerate(self._value)]

    def fields(self) -> dict[str, Value]:
        """All fields of an object whose names are not known beforehand, at most ``MOST_FIELDS``."""
        if not isinstance(self._value, dict):
            self._fail("an object")
        if len(self._value) > MOST_FIELDS:
            raise DocumentError(f"{self.place}: at most {MOST_FIELDS} fields expected, {len(self._value)} found")
        return {name: self[name] for name in self._value}

    def text(self, most: int = MOST_TEXT) -> str:
        """A string of at most so many characters."""
        if not isinstance(self._value, str):
            self._fail("a string")
        if len(self._value) > most:
            self._fail(f"a string of at most {most} characters")
        return self._value

    def choice(self, *words: str) -> str:
        """One of several strings."""
        if self._value not in words:
            self._fail(" or ".join(words))
        return self.text()

    def path(self) -> str:
        """A path that is relative and stays inside its folder, with ``/`` between names on every system."""
        text = self.text()
        if any(name in ("", ".", "..") for name in text.split("/")) or "\\" in text or "\0" in text:
            self._fail("a relative path that stays inside the folder")
        return text

    def hexadecimal(self, digits: int) -> str:
        """A string of so many hexadecimal digits."""
        text = self.text()
        if len(text) != digits or set(text) - set("0123456789abcdef"):
            self._fail(f"{digits} hexadecimal digits")
        return text

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self._value, bool):
            self._fail("true or false")
        return self._value

    def integer(self, least: int = 0, most: int = MOST_INTEGER) -> int:
        """A whole number in a range; 3.0 is one, as in JSON schemas."""
        value = self._value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            self._fail(f"a whole number from {least} to {most}")
        if value != int(value):
            self._fail("a whole number")
        return int(value)

    def number(self, least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> float:
        """A finite number in a range, whose lower end ``above`` is not in it."""
        value = self._value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            self._fail("a number")
        if not (above < value and least <= value <= most):
            self._fail(f"a number from {least:g} to {most:g}" if above == -math.inf else f"a number above {above:g}")
        return float(value)

    def _fail(self, expected: str) -> NoReturn:
        found = json.dumps(self._value, default=str)
        shown = found if len(found) <= LONG else found[:LONG] + "…"
        raise DocumentError(f"{self.place or 'the document'}: {expected} expected, {shown} found")


def parse(text: str) -> Value:
    """A JSON document; NaN and Infinity, which Python's reader takes otherwise, are no JSON.

    Raises:
        ValueError: It is no JSON, or nothing that we read; see ``untrusted.parse_json``.
    """
    try:
        return Value(untrusted.parse_json(text))
    except json.JSONDecodeError as error:
        raise DocumentError(f"no JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A JSON format that carries its version.

    Attributes:
        name: ``schemas/{name}.schema.json`` describes it, and its field ``{name}_version`` says the version.
        version: What we write, and the newest that we read. A file without the field has version 1.
    """

    name: str
    version: int

    @property
    def field(self) -> str:
        """The field that says the version."""
        return f"{self.name}_version"

    def stamped(self, values: Mapping[str, object]) -> dict[str, Any]:
        """The values with the version before them."""
        return {self.field: self.version, **values}

    def to_text(self, values: Mapping[str, object], indent: int | None = None) -> str:
        """A file's content, with the version.

        Raises:
            ValueError: A number is NaN or infinite.
        """
        return json.dumps(self.stamped(values), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"

    def read(self, path: Path, build: Callable[[Value], T], error: type[MimoMobileError], advice: str) -> T:
        """What ``build`` makes of a file; fields that it does not ask for are ignored, since newer writers add some.

        Args:
            path: The file.
            build: Takes the document, and raises a ValueError where something is wrong with it.
            error: The class of error to raise.
            advice: What to do about a damaged file.

        Raises:
            MimoMobileError: One of class ``error``: the file is damaged, or of a version that we do not know.
        """
        try:
            document = parse(untrusted.read_text(path))
            found = document.fields().get(self.field)
            if found is not None and (version := found.integer(least=1)) > self.version:
                raise error(
                    f"{path}: a newer MiMo Mobile wrote it: {self.field} is {version}, {self.version} is the newest"
                    " known here; update MiMo Mobile"
                )
            return build(document)
        except OSError as cause:
            raise error(f"{path}: cannot be read: {cause.strerror}; {advice}") from cause
        except ValueError as cause:
            told = untrusted.printable(str(cause))
            shown = told if len(told) <= LONGEST else told[:LONGEST] + "…"
            raise error(f"{path}: not what mimo writes: {shown}; {advice}") from cause
