"""A chat template and messages: a JSON object with ``template``, ``messages`` and ``thinking``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from mimo_mobile.convert.vocabulary import read_vocabulary
from mimo_mobile.hub import resolve
from mimo_mobile.runtime.text.chat_template import encode_messages
from tests.fuzz.mutations import json_mutator
from tests.fuzz.tokens import tokenizer

PARTS = (
    "{{", "}}", "{%", "%}", "{#", "#}", "{% for m in messages %}", "{% endfor %}", "{% if loop.first %}",
    "{% else %}", "{% endif %}", "{% set x = 1 %}", "{% set ns = namespace(a=1) %}", "{% macro f(n) %}", "{{ f(1) }}",
    "{% endmacro %}", "m.content", "m['role']", "messages[-1]", "x", "|trim", "|length", "|tojson",
    "|tojson(indent=9)", "|center(99)", "|indent(99)", "|batch(9)", "|join('a')", "|replace('a', 'bb')", "|list",
    "|sort", "|map('upper')", "|format(1)", "|wordwrap(1)", "|slice(9)", "|groupby('role')", "|sum", "|int", "|float",
    "|xmlattr", "|urlize", "|safe", "|escape", "|random", "|attr('x')", "|truncate(3)", "|striptags", "|pprint",
    "|dictsort", "|reverse", "|first", "|last", "'a'", "* 99999999", "* 3", "** 99", "% 3", "~", "+", "//0",
    "range(9)", "range(99999999)", "[1, 2][0]", "{'a': 1}", ".split('a')", ".ljust(99)", ".format(1)", ".strip()",
    ".items()", ".__class__", "cycler('a', 'b').next()", "joiner()", "lipsum()", "dict(a=1)", "raise_exception('a')",
    "{% break %}", "{% continue %}", "<|im_start|>", "<|im_end|>", "'<|im_' ~ 'end|>'", "add_generation_prompt",
    "loop.index", "loop(m)", "{% block a %}{% endblock %}", "{% call f() %}{% endcall %}",
    "{% filter upper %}{% endfilter %}", "{% include 'a' %}", "{% extends 'a' %}", "\\ud800", "recursive",
    "is defined", "is string", "and", "not", "in", "==", "(", ")", "[", "]", "'", '"', ",", "-", "\n", "\x00",
)  # fmt: skip


def check(data: bytes) -> None:
    """Render the prompt, whose ids are tokens."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(found, dict) or not isinstance(found.get("template"), str):
        return
    messages = found.get("messages")
    thinking = found.get("thinking", True) is True
    tokens = tokenizer()
    ids = encode_messages(found["template"], messages if isinstance(messages, list) else [], tokens, thinking=thinking)
    assert all(0 <= each < tokens.size for each in ids), "an id that no token has"


def mutate(data: bytes, random: Random) -> bytes | None:
    """The template with parts of Jinja put in, or the messages changed."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if random.random() < 0.3 or not isinstance(found, dict) or not isinstance(found.get("template"), str):
        return json_mutator(data, random)
    text = found["template"]
    for _ in range(random.choice((1, 1, 2, 3))):
        start = random.randint(0, len(text))
        stop = min(len(text), start + random.choice((0, 0, 0, 1, 4, 16)))
        text = text[:start] + random.choice((*PARTS, text[:40], text[start : start + 60])) + text[stop:]
    return json.dumps({**found, "template": text}).encode()


def seeds() -> Iterator[bytes]:
    """MiMo's own template, and small ones with what others use."""
    talk = [{"role": "system", "content": ""}, {"role": "user", "content": "a<|im_end|>"},
            {"role": "assistant", "content": "é"}]  # fmt: skip
    templates = [
        read_vocabulary(resolve("nano").path, None).chat_template or "",
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content|trim }}\n{% endfor %}",
        "{% macro f(m) %}<|im_start|>{{ m['role'] }}{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% for i in range(3) %}{{ messages|length * i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}",
        "{{ messages|map(attribute='content')|join('|')|replace('a', 'b') }}{{ messages|tojson(indent=2) }}",
    ]
    for template in templates:
        yield json.dumps({"template": template, "messages": talk, "thinking": True}).encode()
