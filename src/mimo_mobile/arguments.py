"""What a program gives as an argument, compared with its annotation, for those who have no type checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mimo_mobile import untrusted
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.untrusted import printable

MOST = 2**64
"""No whole number of ours is larger, and engines count in 64 bits at most."""


def check_fields(record: Any) -> None:
    """See that each field of a frozen dataclass has the type of its annotation; NumPy's numbers become Python's.

    Raises:
        BadArgumentError: One has another type.
    """
    for name, hint in get_type_hints(type(record)).items():
        object.__setattr__(record, name, check(name, getattr(record, name), hint))


def check(name: str, value: Any, hint: Any) -> Any:
    """The value, when it has the type of an annotation; a number is Python's own afterwards.

    Raises:
        BadArgumentError: It has another type.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    for kind in kinds:
        if _fits(value, kind):
            return int(value) if kind is int else float(value) if kind is float else value
    if choices and isinstance(value, str):
        raise BadArgumentError(f"{name} {_shown(value)} is unknown; one of {', '.join(choices)} expected")
    expected = " or ".join(_told(kind) for kind in kinds if kind is not NoneType)
    raise BadArgumentError(f"{name} is {_shown(value)}, of type {type(value).__name__}; {expected} expected")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is Sequence:
        (item,) = get_args(kind)
        return (
            isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(_fits(v, item) for v in value)
        )
    if get_origin(kind) is Mapping:
        key, item = get_args(kind)
        return isinstance(value, Mapping) and all(_fits(k, key) and _fits(v, item) for k, v in value.items())
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < MOST
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool) and _is_float(value)
    return isinstance(value, kind)


def _is_float(value: Real) -> bool:
    try:
        float(value)
    except OverflowError:  # of an integer with more than 308 digits
        return False
    return True


def _told(kind: Any) -> str:
    """What an annotation asks for, in words."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is Sequence:
        (item,) = get_args(kind)
        return "a list of " + {str: "texts", int: "whole numbers"}.get(item, "dicts")
    if get_origin(kind) is Mapping:
        return "a mapping from whole numbers to numbers"
    names = {bool: "True or False", int: "a whole number below 2**64", float: "a number", str: "a text"}
    return names.get(kind) or f"a {kind.__name__}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        return "something"
    return printable(text[:60])


def check_text(text: str, place: str = "text") -> None:
    """See that a text can be encoded.

    Raises:
        BadArgumentError: It holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise BadArgumentError(f"{place}: U+{code:04X} found at {error.start}, which is no character") from error


def read_text(path: Path) -> str:
    """The text in a file of the user's.

    Raises:
        BadArgumentError: It cannot be read, is too large, or is not UTF-8.
    """
    try:
        return untrusted.read_text(path)
    except OSError as error:
        raise BadArgumentError(f"{path}: cannot be read: {error.strerror}; name a text file") from error
    except ValueError as error:
        raise BadArgumentError(f"{path}: {error}; a text file in UTF-8 expected") from error
