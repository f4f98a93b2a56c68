"""Packages that import their names when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing's, whose import would take longer than all that is imported here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def getter(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` (PEP 562) for names by the module that has them."""
    places = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(places[name]), name)

    return get
