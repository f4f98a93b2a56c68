"""What a chat template may do with values, within a budget: operators, attributes, methods, calls and functions.

Values are texts, numbers, truth values, None, lists, tuples, dicts, and jinja2's own for undefined names, namespaces,
macros and loops. An operation says before or after its work how much it made and looked at; none takes long by itself.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, Undefined
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Namespace

from mimo_mobile.runtime.text.template_budget import ITEM, MOST_DEPTH, Budget

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize count endswith find index isalnum isalpha isdigit islower isspace isupper join lower lstrip"
        " partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith"
        " strip title upper".split()
    ),
    dict: frozenset(("get", "items", "keys", "values")),
}
_LOOP = frozenset("index index0 revindex revindex0 first last length previtem nextitem depth depth0".split())

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow,
}  # fmt: skip
ORDER: dict[str, Callable[[Any, Any], Any]] = {
    name: compare
    for names, compare in {
        "eq == equalto": operator.eq, "ne !=": operator.ne, "lt < lessthan": operator.lt, "lteq le <=": operator.le,
        "gt > greaterthan": operator.gt, "gteq ge >=": operator.ge,
    }.items()
    for name in names.split()
}  # fmt: skip
"""Comparisons, by jinja2's names for their operators and for their tests."""

_FORMAT = re.compile(
    r"%(?:(?:\(\w{1,99}\))?[-+ 0#]{0,5}(?:[0-9]{1,3})?(?:\.[0-9]{1,3})?[sdifeEgGxX]|%)|[^%]+|(?P<wrong>%)"
)
_DATE = re.compile(r"(?:%[-]?[aAbBdHIjmMpSUwWyYzZ%]|[^%\x00]){0,100}")

SEQUENCES = (str, list, tuple)
"""What has a length, an order and slices."""


@dataclass(frozen=True, slots=True)
class _Method:
    value: Any
    name: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function that templates may call by a name of their own."""

    call: Callable[..., Any]


class Values:
    """The operations on values in one rendering."""

    def __init__(self, budget: Budget) -> None:
        """Take what they cost from a budget."""
        self.budget = budget
        self._macros = 0

    def operators(self) -> dict[str, Callable[..., Any]]:
        """What the language itself does, by names that no template can write."""
        return {
            "a write": self.budget.write, "a concatenation": self._concatenate, "a key": self.key,
            "a loop": self.iterate, "an attribute": self._attribute, "an item": self.item, "a slice": self._slice,
            "a call": self._call, "arithmetic": self._arithmetic, "a comparison": self.compare,
            "a macro": self._enter, "a refusal": self.refuse,
        }  # fmt: skip

    def functions(self) -> dict[str, Function]:
        """The functions that templates know."""
        functions: dict[str, Callable[..., Any]] = {
            "range": self._range, "dict": self._dict, "namespace": self._namespace,
            "raise_exception": self._raise, "strftime_now": self._now,
        }  # fmt: skip
        return {name: Function(function) for name, function in functions.items()}

    def _concatenate(self, *values: Any) -> Any:
        return self.budget.made("".join([self.budget.write(value) for value in values]))

    def key(self, value: Any) -> Any:
        """A key of a dict, or what is looked for in one: a text, a number, a truth value or None."""
        if not (value is None or isinstance(value, str | int | float)):
            raise TemplateError(f"it takes a {type(value).__name__.lower()} for a key")
        return value

    def iterate(self, value: Any, weight: int = 1) -> Iterable[Any]:
        """What a loop goes through; each turn costs ``weight`` steps."""
        if isinstance(value, Undefined):
            return ()
        if not isinstance(value, str | list | tuple | dict):
            raise TemplateError(f"it goes through a {type(value).__name__.lower()}, which is no list")
        self.budget.spend(steps=weight * len(value))
        return value

    def _enter(self, weight: int) -> str:
        self.budget.spend(steps=weight)
        return ""

    def _attribute(self, value: Any, name: str) -> Any:
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
        if name in _METHODS.get(type(value), ()):
            return _Method(value, name)
        if type(value) is dict and name in value:
            return value[name]
        if isinstance(value, Namespace) and not name.startswith("_"):
            return getattr(value, name, Undefined(obj=value, name=name))
        if isinstance(value, LoopContext) and name in _LOOP:
            return self.budget.made(getattr(value, name))
        if hasattr(type(value), name):
            return Undefined(f"it uses {type(value).__name__.lower()}.{name}, which chat templates may not")
        return Undefined(obj=value, name=name)

    def item(self, value: Any, key: Any) -> Any:
        """``value[key]``, or undefined."""
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
        plain = key is None or isinstance(key, str | int | float)
        if plain and isinstance(value, str | list | tuple | dict):
            try:
                return operator.getitem(value, key)
            except (LookupError, TypeError):
                pass  # undefined, or an attribute
        if isinstance(key, str):
            return self._attribute(value, key)
        return Undefined(obj=value, name=str(key) if plain else f"a {type(key).__name__}")

    def _slice(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
        if not isinstance(value, SEQUENCES):
            raise TemplateError(f"it takes a slice of a {type(value).__name__.lower()}")
        return self.budget.made(value[start:stop:step])

    def _call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(function, _Method):
            call = self.text_method if isinstance(function.value, str) else self._dict_method
            return call(function.value, function.name, *args, **kwargs)
        if isinstance(function, Function):
            return function.call(*args, **kwargs)
        if isinstance(function, Undefined):
            function._fail_with_undefined_error()
        if not isinstance(function, Macro):
            raise TemplateError(f"it calls a {type(function).__name__.lower()}")
        if self._macros == MOST_DEPTH:
            raise TemplateError(f"its macros call each other more than {MOST_DEPTH} deep")
        self._macros += 1
        try:
            return self.budget.made(function(*args, **kwargs))
        finally:
            self._macros -= 1

    def _arithmetic(self, left: Any, sign: str, right: Any) -> Any:
        if sign == "%" and isinstance(left, str):
            return self.format(left, right)
        if sign == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, SEQUENCES) and isinstance(times, int):
                    self.budget.spend(len(many) * max(times, 0) * (1 if isinstance(many, str) else ITEM), 0)
        if sign == "**" and not (isinstance(left, int | float) and isinstance(right, int | float) and abs(right) <= 64):
            raise TemplateError("it raises to a power above 64")
        return self.budget.made(_ARITHMETIC[sign](left, right))

    def compare(self, left: Any, *comparisons: Any) -> bool:
        """Whether a chain of comparisons holds: names of comparisons and values in turns."""
        for name, right in zip(comparisons[::2], comparisons[1::2], strict=True):
            if name in ("in", "notin"):
                holds = self._contains(right, left) == (name == "in")
            else:
                self.budget.weigh(left)
                self.budget.weigh(right)
                holds = bool(ORDER[name](left, right))
            if not holds:
                return False
            left = right
        return True

    def _contains(self, many: Any, one: Any) -> bool:
        if isinstance(many, Undefined) or (isinstance(many, dict) and isinstance(one, Undefined)):
            return False
        if isinstance(many, dict) and isinstance(one, tuple):
            self.budget.weigh(one)
            hash(one)  # a TypeError where it holds a list
            return False
        if isinstance(many, dict):
            return self.key(one) in many
        self.budget.weigh(one)
        self.budget.weigh(many)
        if isinstance(many, str) and isinstance(one, str):
            self.budget.spend(len(many) * (len(one) // 16), 0)
        return one in many

    def refuse(self, what: str, *_: Any) -> NoReturn:
        """The operation that stands for what templates may not use."""
        raise TemplateError(f"it uses {what}, which chat templates may not")

    def _range(self, *limits: int) -> list[int]:
        numbers = range(*limits)
        self.budget.spend(ITEM * len(numbers))
        return list(numbers)

    def _dict(self, given: Any = (), /, **kwargs: Any) -> Any:
        pairs = self.items(given) if isinstance(given, dict) else self.iterate(given)
        return self.budget.made({self.key(key): value for key, value in pairs} | kwargs)

    def _namespace(self, given: Any = (), /, **kwargs: Any) -> Namespace:
        return Namespace(self._dict(given, **kwargs))

    def _raise(self, message: Any = "") -> NoReturn:
        raise TemplateError(self.budget.write(message))

    def _now(self, format: str) -> Any:
        if not (isinstance(format, str) and _DATE.fullmatch(format)):
            raise TemplateError("it asks for the time in a format that is none of a date")
        return self.budget.made(datetime.now().strftime(format))

    def text_method(self, text: str, name: str, *args: Any, **kwargs: Any) -> Any:
        """What a method of a text gives."""
        if name == "join":
            return self.join(text, *args)
        given = self.budget.weigh([*args, *kwargs.values()]).characters
        self.budget.spend(len(text) * (1 + given // 64))  # searching from behind may compare each with each
        if name == "replace":
            return self.replace(text, *args, **kwargs)
        if name in ("split", "rsplit"):
            cut = args[0] if args else kwargs.get("sep")
            self.budget.spend(ITEM * (text.count(cut) + 1 if cut else len(text) // 2))
        elif name == "splitlines":
            self.budget.spend(ITEM * len(text))
        return self.budget.made(getattr(text, name)(*args, **kwargs))

    def _dict_method(self, value: dict[Any, Any], name: str, *args: Any) -> Any:
        if name == "get":
            key, default = args if len(args) == 2 else (*args, None)
            return value.get(self.key(key), default)
        return self.budget.made(list(getattr(value, name)(*args)))

    def replace(self, text: str, old: str, new: str, count: int | None = -1) -> Any:
        """The text with one text for another."""
        count = -1 if count is None else count
        found = text.count(old)
        self.budget.spend(len(text) + (found if count < 0 else min(found, count)) * len(new))
        return self.budget.made(text.replace(old, new, count))

    def join(self, between: Any, values: Any) -> Any:
        """The values as one text."""
        words = [self.budget.write(value) for value in self.iterate(values)]
        self.budget.spend(len(self.budget.write(between)) * len(words))
        return self.budget.made(self.budget.write(between).join(words))

    def format(self, text: Any, values: Any) -> Any:
        """What ``%`` makes of a text; columns have three digits at most."""
        text = self.budget.write(text)
        self.budget.weigh(values)
        places = 0
        for found in _FORMAT.finditer(text):
            if found["wrong"]:
                raise TemplateError(f"it formats with {text[found.start() :][:20]!r}, which chat templates may not")
            places += found[0].startswith("%")
        self.budget.spend(1000 * places)  # as wide as three digits can say
        return self.budget.made(text % values)

    def items(self, value: Any) -> list[tuple[Any, Any]]:
        """The pairs of a dict."""
        if not isinstance(value, dict):
            raise TemplateError(f"it takes the items of a {type(value).__name__.lower()}")
        return list(value.items())
