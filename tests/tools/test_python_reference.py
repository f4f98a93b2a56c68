"""docs/python.md is what the docstrings say, and says it of all public names."""

from __future__ import annotations

import inspect
import re

import pytest

import mimo_mobile
from tools.python_reference import ROOT, reference


@pytest.fixture(scope="module")
def page() -> str:
    return reference()


def test_the_python_reference_is_up_to_date(page: str) -> None:
    assert (ROOT / "docs/python.md").read_text(encoding="utf-8") == page, "run `make docs`"


def test_every_public_name_has_one_heading_and_its_parameters(page: str) -> None:
    for name in mimo_mobile.__all__:
        assert page.count(f"\n### `{name}`\n") == 1
        made = getattr(mimo_mobile, name)
        if inspect.isfunction(made):
            section = page.split(f"\n### `{name}`\n")[1].split("\n### ")[0]
            for parameter in inspect.signature(made).parameters:
                assert re.search(rf"\b{parameter}: ", section.split("```")[1]), (name, parameter)


def test_every_public_method_has_a_heading(page: str) -> None:
    for name in mimo_mobile.__all__:
        made = getattr(mimo_mobile, name)
        if inspect.isclass(made) and not issubclass(made, Exception):
            methods = [
                key for key, value in vars(made).items() if inspect.isfunction(value) and not key.startswith("_")
            ]
            assert all(f"\n#### `{name}.{method}`\n" in page for method in methods), name


def test_every_link_within_the_page_has_a_heading(page: str) -> None:
    headings = [re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", page, re.M)]
    known = {h if headings[:i].count(h) == 0 else f"{h}-{headings[:i].count(h)}" for i, h in enumerate(headings)}
    links = re.findall(r"\]\(#([^)]*)\)", page)
    assert len(links) == len(mimo_mobile.__all__) and set(links) <= known


def test_every_error_is_named(page: str) -> None:
    from mimo_mobile import errors

    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.MimoMobileError):
            assert f"`{name}`" in page
