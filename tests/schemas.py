"""The schemas of our JSON files, and a check of a written file that allows nothing they do not describe."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

ENDING = ".schema.json"
SCHEMAS = sorted(
    each.name.removesuffix(ENDING)
    for each in (files("mimo_mobile") / "schemas").iterdir()
    if each.name.endswith(ENDING)
)


def schema(name: str) -> dict[str, Any]:
    """The schema of a format."""
    text = (files("mimo_mobile") / "schemas" / f"{name}{ENDING}").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def closed(part: Any) -> Any:
    """The same schema, with no room for fields that it does not name: readers ignore those, and we write none."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    made = {name: closed(each) for name, each in part.items()}
    if "properties" in made and "type" in made:
        made.setdefault("additionalProperties", False)
    return made


def check(name: str, path: Path) -> None:
    """See that a file which we wrote is valid, has a version where its format has one, and nothing undescribed."""
    check_text(name, path.read_text(encoding="utf-8"))


def check_text(name: str, text: str) -> None:
    """The same of a file's content."""
    assert "NaN" not in text and "Infinity" not in text, text
    document, described = json.loads(text), schema(name)
    Draft202012Validator(closed(described)).validate(document)
    if described["type"] == "object":
        assert f"{name}_version" in document, text
