"""The demo app's texts: every language has all of them, with the same places to fill in."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

RESOURCES = Path(__file__).parent.parent / "android_demo/app/src/main/res"
PLACE = re.compile(r"%(?:\d+\$)?[-#+ 0,(]*\d*(?:\.\d+)?[a-zA-Z%]")
LANGUAGES = ("es", "zh")

# https://www.unicode.org/cldr/charts/48/supplemental/language_plural_rules.html
QUANTITIES = {"": {"one", "other"}, "es": {"one", "many", "other"}, "zh": {"other"}}


def texts(language: str) -> dict[str, list[str]]:
    """Name → the places in a text, sorted; a plural's quantities are names of their own."""
    found: dict[str, list[str]] = {}
    for file in sorted((RESOURCES / f"values{'-' if language else ''}{language}").glob("*.xml")):
        for element in ElementTree.parse(file).getroot():
            if element.get("translatable") == "false":
                continue
            if element.tag == "string":
                found[f"string {element.get('name')}"] = places(element)
            if element.tag == "plurals":
                for item in element:
                    found[f"plurals {element.get('name')} {item.get('quantity')}"] = places(item)
            if element.tag == "string-array":
                for index, item in enumerate(element):
                    found[f"array {element.get('name')} {index}"] = places(item)
    return found


def places(element: ElementTree.Element) -> list[str]:
    return sorted(PLACE.findall("".join(element.itertext())))


def plurals(found: dict[str, list[str]]) -> dict[str, set[str]]:
    quantities: dict[str, set[str]] = {}
    for name in found:
        if name.startswith("plurals "):
            _, plural, quantity = name.split(" ")
            quantities.setdefault(plural, set()).add(quantity)
    return quantities


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_takes_the_same_values(language: str) -> None:
    english = {name: value for name, value in texts("").items() if not name.startswith("plurals ")}
    translated = {name: value for name, value in texts(language).items() if not name.startswith("plurals ")}
    assert len(english) > 50
    assert translated == english


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_plural_has_the_quantities_of_its_language(language: str) -> None:
    english = plurals(texts(""))
    assert english
    assert {name: QUANTITIES[""] for name in english} == english
    assert plurals(texts(language)) == {name: QUANTITIES[language] for name in english}


def test_no_text_is_written_in_code_or_layouts() -> None:
    for layout in (RESOURCES / "layout").glob("*.xml"):
        hardcoded = re.findall(r'android:(?:text|hint|contentDescription)="([^@?"][^"]*)"', layout.read_text())
        assert not hardcoded, f"{layout.name}: {hardcoded}"
