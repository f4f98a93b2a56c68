"""The part of Jinja2 that chat templates may use: it does what jinja2 does, and nothing takes long or much."""

from __future__ import annotations

import json
import random
import re
import resource
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mimo_mobile.errors import SessionError
from mimo_mobile.hub import Source
from mimo_mobile.runtime import GenerationConfig, Message, load
from mimo_mobile.runtime.text.template_language import ChatTemplate
from tests.hostile_text import cases, templates

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data"

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is 2 + 2?\n\n"},
    {"role": "assistant", "content": "<think>\nI add.\n</think>\n\n4 "},
    {"role": "tool", "content": '{"answer": 4}'},
    {"role": "tool", "content": "ünï <b>"},
    {"role": "user", "content": ""},
]

TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "ünï", "parameters": {"b": [1, 2.5], "a": None}}},
    {"type": "function", "function": {"name": "now", "parameters": {}, "strict": True}},
]  # fmt: skip

FEATURES = {file.stem: file.read_text(encoding="utf-8") for file in sorted((DATA / "chat_templates").glob("*.jinja"))}
"""What templates of Qwen2.5, Qwen3, Llama 3, Mistral, DeepSeek-R1, Gemma, SmolLM and Hermes make use of."""


def written(source: str, **variables: Any) -> str:
    """What jinja2's own sandbox makes of a template, set up as transformers does it."""

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

        def _written(self, caller: Any) -> Any:
            return caller()

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment.from_string(source).render(**variables)


def ours(source: str, **variables: Any) -> str:
    return ChatTemplate(source, str).render(variables.pop("messages"), **variables)


@pytest.mark.parametrize("name", FEATURES)
def test_what_templates_of_well_known_models_do_is_done_as_by_jinja2(name: str) -> None:
    expected = written(FEATURES[name], messages=MESSAGES, tools=TOOLS)
    assert ours(FEATURES[name], messages=MESSAGES, tools=TOOLS) == expected
    assert expected.strip()


def test_the_date_is_todays() -> None:
    assert ours("{{ strftime_now('%Y-%m') }}", messages=[]) == datetime.now().strftime("%Y-%m")


_VALUES = ("m", "m.role", "m.content", "n", "3", "0", "-1", "2.5", "'ab c'", "''", "none", "true", "[1, 'b', 2]", "[]",
           "{'k': 1, 'j': 'x'}", "nothing", "('t', 1)", "ns.a", "loop.index0", "messages")  # fmt: skip
_FILTERS = ("trim", "length", "upper", "lower", "first", "last", "list", "string", "int", "float", "tojson", "title",
            "default('d')", "default('d', true)", "join('-')", "replace('a', 'bb')", "reverse | list", "capitalize",
            "items | list", "sort", "unique | list", "map('string') | list", "select | list", "reject('none') | list",
            "dictsort", "selectattr('role') | list")  # fmt: skip
_TESTS = ("defined", "none", "string", "mapping", "number", "integer", "boolean", "iterable", "sequence", "true",
          "false", "odd", "even", "undefined", "float", "in 'abc'", "in [1, 'b']", "eq 3")  # fmt: skip
_METHODS = ("strip()", "split()", "split('b')", "startswith('a')", "upper()", "replace('b', '')", "items() | list",
          "keys() | list", "get('k')", "get('k', 5)", "rstrip('c')", "find('c')", "splitlines()", "title()", "x",
          "k")  # fmt: skip
_SLICES = ("[1:]", "[:2]", "[::-1]", "[-2:]", "[1:n]", "[n:9:2]")
_SLICED = ("m.content", "messages", "ns.a")
_OPERATORS = ("+", "-", "*", "/", "//", "%", "~", "and", "or", "==", "!=", "<", ">=", "in", "not in")


def expression(draw: random.Random, depth: int) -> str:
    """A random expression."""
    if depth == 0:
        return draw.choice(_VALUES)
    one, two = expression(draw, depth - 1), expression(draw, draw.randrange(depth))
    return draw.choice(
        [f"({one} | {draw.choice(_FILTERS)})", f"({one} is {draw.choice(_TESTS)})", f"({one}.{draw.choice(_METHODS)})",
         f"({one} {draw.choice(_OPERATORS)} {two})", f"({one} {draw.choice(_OPERATORS)} {two})", f"({one})[{two}]",
         f"mac({one}, m){draw.choice(_SLICES)}", f"{draw.choice(_SLICED)}{draw.choice(_SLICES)}",
         f"({one} if {two} else {one})", f"[{one}, {two}]", f"(not {one})", f"{{'a': {one}, 'b': {two}}}",
         f"mac({one}, {two})"]
    )  # fmt: skip


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_random_templates_give_what_jinja2_gives_or_an_error_as_there(count: int) -> None:
    draw = random.Random(count)
    outcomes = {"same": 0, "errors": 0}
    for _ in range(count):
        parts = [expression(draw, draw.randrange(1, 4)) for _ in range(2)]
        source = (
            "{% macro mac(a, b=1) %}<{{ a }}{{ b }}>{% endmacro %}{% set ns = namespace(a=1) %}"
            f"{{% for m in messages[:3] %}}{{% set n = loop.index %}}{{{{ {parts[0]} }}}}{{% set ns.a = {parts[1]} %}}"
            "{% endfor %}{{ ns.a }}"
        )
        try:
            expected: str | None = written(source, messages=MESSAGES)
        except Exception:
            expected = None
        try:
            found: str | None = ours(source, messages=MESSAGES)
        except Exception:
            found = None
        if expected is not None and re.search(r"<(generator|built-in|bound)| at 0x|dict_(items|keys)", expected):
            continue  # jinja2 shows Python's own objects, which mean nothing
        outcomes["errors" if expected is None else "same"] += 1
        assert found == expected, source
    assert min(outcomes.values()) > count // 5, outcomes


HOSTILE = """
import json, resource, sys, time
from pathlib import Path
from mimo_mobile.errors import SessionError
from mimo_mobile.runtime.text.chat_template import Message, encode_messages
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.hostile_text import cases, templates
from tests.memory import peak_kib

tokenizer = TextTokenizer.from_file(Path(sys.argv[1]))
for name, source in templates():
    started = time.process_time()
    try:
        found = encode_messages(source, [Message("user", "What is 2 + 2?"), Message("assistant", "4")], tokenizer)
    except SessionError as error:
        found = str(error)
    print(json.dumps([name, found, time.process_time() - started]), flush=True)
print(json.dumps(peak_kib()))
"""


def test_hostile_templates_are_one_clear_error_each_in_little_time_and_memory(nano: Source) -> None:
    """In a process of its own, which is ended when one hangs, and may take two gibibytes of addresses."""
    command = [sys.executable, "-c", HOSTILE, nano.path / "tokenizer.json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *found, most_kib = map(json.loads, done.stdout.splitlines())
    assert [name for name, _, _ in found] == [name for name, _ in templates()]
    for name, problem, seconds in found:
        assert isinstance(problem, str), f"{name}: no error"
        assert re.fullmatch(r"chat template: .{1,310}; convert the checkpoint again or use a raw prompt", problem), name
        assert problem.isprintable(), name
        assert seconds < 6, f"{name}: {seconds} s"  # 1.5 s at most on a machine with nothing else to do
    assert len({name for name, _, _ in found}) == len(found) > 60
    assert most_kib < 512 * 1024


@pytest.mark.slow
def test_models_with_hostile_texts_load_with_an_error_or_answer_with_one(tmp_path: Path) -> None:
    count = 0
    for name, path in cases(tmp_path):
        with pytest.raises(SessionError), load(path, cache=False, speculate="off") as model:
            list(model.generate([Message("user", "?")], GenerationConfig(max_tokens=1)))
            pytest.fail(name)
        count += 1
    assert count > 300
