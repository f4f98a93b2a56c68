"""The filters and tests that a chat template may use, within its budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jinja2 import TemplateError, Undefined
from jinja2.filters import do_title

from mimo_mobile.runtime.text.template_budget import ITEM
from mimo_mobile.runtime.text.template_values import ORDER, SEQUENCES, Values


class Filters:
    """The filters and tests of one rendering."""

    def __init__(self, values: Values) -> None:
        """Work on values by their operations."""
        self._values, self._budget = values, values.budget
        self._filters, self._tests = self.filters(), self.tests()

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters that templates know."""
        return {
            "capitalize": lambda value: self._budget.made(self._budget.write(value).capitalize()),
            "count": self._length, "d": self._default, "default": self._default, "dictsort": self._dictsort,
            "first": lambda value: next(iter(self._values.iterate(value)), Undefined("it takes the first of nothing")),
            "float": lambda value, default=0.0: self._number(float, value, default),
            "format": lambda value, *args, **kwargs: self._values.format(value, kwargs or args),
            "int": lambda value, default=0: self._number(_whole, value, default),
            "items": lambda value: self._list(() if isinstance(value, Undefined) else self._values.items(value)),
            "join": lambda value, d="", attribute=None: self._values.join(d, self._mapped(value, attribute)),
            "last": self._last,
            "length": self._length, "list": self._list,
            "lower": lambda value: self._budget.made(self._budget.write(value).lower()),
            "map": self._map, "reject": lambda value, *test: self._selected(value, None, test, False),
            "rejectattr": lambda value, attribute, *test: self._selected(value, attribute, test, False),
            "replace": lambda value, *how: self._values.replace(self._budget.write(value), *how),
            "reverse": lambda value: self._budget.made((value if isinstance(value, str) else self._list(value))[::-1]),
            "safe": self._budget.write, "select": lambda value, *test: self._selected(value, None, test, True),
            "selectattr": lambda value, attribute, *test: self._selected(value, attribute, test, True),
            "sort": self._sort, "string": self._budget.write,
            "title": lambda value: self._budget.made(do_title(self._budget.write(value))),
            "tojson": self._to_json,
            "trim": lambda value, chars=None: self._values.text_method(self._budget.write(value), "strip", chars),
            "unique": self._unique, "upper": lambda value: self._budget.made(self._budget.write(value).upper()),
        }  # fmt: skip

    def tests(self) -> dict[str, Callable[..., bool]]:
        """The tests that templates know."""
        kinds: dict[str, Any] = {
            "string": str, "mapping": dict, "boolean": bool, "float": float,
            "number": (int, float),
            "sequence": (*SEQUENCES, dict, Undefined), "iterable": (*SEQUENCES, dict, Undefined),
        }  # fmt: skip
        tests: dict[str, Callable[..., bool]] = {
            "defined": lambda value: not isinstance(value, Undefined),
            "undefined": lambda value: isinstance(value, Undefined),
            "none": lambda value: value is None,
            "true": lambda value: value is True,
            "false": lambda value: value is False,
            "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
            "even": lambda value: self._remainder(value, 2) == 0,
            "odd": lambda value: self._remainder(value, 2) == 1,
            "divisibleby": lambda value, by: self._remainder(value, by) == 0,
            "in": lambda value, within: self._values.compare(value, "in", within),
        }
        for name, kind in kinds.items():
            tests[name] = lambda value, kind=kind: isinstance(value, kind)
        for name in ORDER:
            tests[name] = lambda value, other, name=name: self._values.compare(value, name, other)
        return tests

    def holds(self, value: Any, name: str, *args: Any) -> bool:
        """Whether a test holds."""
        return self._test(name)(value, *args)

    def _test(self, name: str) -> Callable[..., bool]:
        if name not in self._tests:
            self._values.refuse(f"the test {name}")
        return self._tests[name]

    def _list(self, value: Any) -> list[Any]:
        self._budget.spend(ITEM * self._length(value))
        return list(self._values.iterate(value))

    def _last(self, value: Any) -> Any:
        found = self._list(value)
        return found[-1] if found else Undefined("it takes the last of nothing")

    def _length(self, value: Any) -> int:
        return len(value)

    def _remainder(self, value: Any, by: Any) -> Any:
        if not isinstance(value, int | float):
            raise TemplateError(f"it tests a {type(value).__name__.lower()} as a number")
        return value % by

    def _default(self, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
        return default_value if isinstance(value, Undefined) or (boolean and not value) else value

    def _number(self, kind: Callable[[Any], Any], value: Any, default: Any) -> Any:
        try:
            if isinstance(value, str) and len(value) > 40:
                return default
            return self._budget.made(kind(value))
        except (TypeError, ValueError, OverflowError):
            return default

    def _path(self, value: Any, path: Any) -> Any:
        """What ``a.b`` or ``0`` leads to."""
        for name in str(path).split(".") if isinstance(path, str) else [path]:
            self._budget.spend()
            value = self._values.item(value, int(name) if isinstance(name, str) and name.isdecimal() else name)
        return value

    def _mapped(self, values: Any, attribute: Any) -> list[Any]:
        found = self._list(values)
        return found if attribute is None else [self._path(value, attribute) for value in found]

    def _map(self, values: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if "attribute" in kwargs:
            found = self._mapped(values, kwargs["attribute"])
            return [kwargs.get("default", each) if isinstance(each, Undefined) else each for each in found]
        name, *others = args
        if name not in self._filters:
            self._values.refuse(f"the filter {self._budget.write(name)}")
        return [self._filters[name](value, *others, **kwargs) for value in self._spending(values)]

    def _selected(self, values: Any, attribute: Any, test: tuple[Any, ...], wanted: bool) -> list[Any]:
        name, *args = test or (None,)
        holds = bool if name is None else self._test(self._budget.write(name))
        found = []
        for value in self._spending(values):
            looked_at = value if attribute is None else self._path(value, attribute)
            if bool(holds(looked_at, *args)) == wanted:
                found.append(value)
        return found

    def _spending(self, values: Any) -> Iterator[Any]:
        for value in self._list(values or ()):
            self._budget.spend()
            yield value

    def _sort(
        self, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: str | None = None
    ) -> list[Any]:
        keys = self._folded(self._mapped(value, attribute), case_sensitive)
        order = sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)
        values = self._list(value)
        return [values[index] for index in order]

    def _folded(self, values: Sequence[Any], case_sensitive: bool) -> list[Any]:
        """The values as they are compared, when that is done often: each costs as much as a few comparisons."""
        for _ in range(len(values).bit_length()):
            self._budget.weigh(values if isinstance(values, list) else list(values))
        return [each.lower() if isinstance(each, str) and not case_sensitive else each for each in values]

    def _unique(self, value: Any, case_sensitive: bool = False, attribute: str | None = None) -> list[Any]:
        keys = map(self._values.key, self._folded(self._mapped(value, attribute), case_sensitive))
        first: dict[Any, Any] = {}
        for key, each in zip(keys, self._list(value), strict=True):
            first.setdefault(key, each)
        return list(first.values())

    def _dictsort(self, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False) -> list[Any]:
        pairs = self._values.items(value)
        keys = self._folded([pair[by == "value"] for pair in pairs], case_sensitive)
        return self._list([pairs[index] for index in sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)])

    def _to_json(
        self,
        value: Any,
        indent: int | None = None,
        ensure_ascii: bool = False,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> Any:
        characters, depth = self._budget.weigh(value)
        if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
            raise TemplateError("it indents JSON by more than 16")
        if separators is not None and any(not isinstance(each, str) or len(each) > 8 for each in separators):
            raise TemplateError("it separates JSON by more than 8 characters")
        self._budget.spend(characters * (1 + depth * (indent or 0) // ITEM))
        return self._budget.made(
            json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        )


def _whole(value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        return int(float(value))
