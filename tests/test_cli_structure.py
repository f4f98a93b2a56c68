"""``mimo run`` with answers that must be something: JSON of a schema, one of some texts …"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from mimo_mobile.cli import main
from tests.commands import runner

QUESTION = "What is 348 + 27 * 6?"
SCHEMA = {"properties": {"n": {"type": "integer", "minimum": 1, "maximum": 999}}, "additionalProperties": False}


def run(model: Path, *options: object) -> Result:
    return runner().invoke(main, ["run", str(model), QUESTION, "--temperature", "0", *map(str, options)])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    texts = {
        "schema": json.dumps(SCHEMA | {"type": "object", "required": ["n"]}),
        "grammar": 'root ::= "about " [0-9] [0-9]',
        "broken": '{"type": "objekt"}',
        "binary": "\udcff",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, errors="surrogateescape")
    return {name: tmp_path / name for name in texts}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--schema", "schema"), r'\{\s*"n"\s*:\s*[1-9]\d{0,2}\s*\}'),
        (("--regex", r"\d{3}\."), r"\d{3}\."),
        (("--choice", "five hundred,510"), "510"),
        (("--grammar", "grammar"), r"about \d\d"),
    ],
)
def test_an_answer_is_what_the_command_line_says(
    nano_gguf: Path, files: dict[str, Path], options: tuple[str, str], expected: str
) -> None:
    result = run(nano_gguf, options[0], files.get(options[1], options[1]), "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert re.fullmatch(expected, found["answer"]) and found["thinking"] and found["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--schema", "broken"), "schema: at #: "),
        (("--schema", "binary"), "not UTF-8"),
        (("--schema", "missing"), "does not exist"),
        (("--regex", "(a"), "unclosed group"),
        (("--regex", "a", "--choice", "b,c"), "--regex and --choice exclude each other"),
        (("--choice", "a,,b"), "none of them empty"),
    ],
)
def test_a_wrong_structure_is_a_mistake_in_usage(
    nano_gguf: Path, files: dict[str, Path], options: tuple[str, ...], message: str
) -> None:
    result = run(nano_gguf, *(files.get(each, each) for each in options))
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
