"""The problems that MiMo-nano learns are right, seeded, and none that it is asked was ever shown to it."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from fractions import Fraction
from io import StringIO
from itertools import islice

import pytest
from tokenizers import Tokenizer

from mimo_mobile.hub import Source
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.runtime.text.chat_template import Message, render
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tools.nano import conversations
from tools.nano.problems import KINDS, Problem, held_out, stream

HELD_OUT_SEED, HELD_OUT_EACH = 7001, 60
"""Those of tools.nano.train, which needs PyTorch to be imported."""


def answer_by_python(problem: Problem) -> str | None:
    """The answer as Python computes it from the question; None for word problems."""
    if problem.kind in ("chain", "multiplication", "parentheses"):
        (written,) = re.findall(r"[\d(][\d ()*×+−-]*[\d)]", problem.question)
        return str(eval(written.replace("×", "*")))
    if problem.kind == "division":
        a, b = map(int, re.findall(r"\d+", problem.question))
        return f"{a // b} r {a % b}"
    if problem.kind == "fraction":
        a, b, sign, c, d = re.search(r"(\d+)/(\d+) ([+-]) (\d+)/(\d+)", problem.question).groups()  # type: ignore[union-attr]
        return str(Fraction(int(a), int(b)) + (1 if sign == "+" else -1) * Fraction(int(c), int(d)))
    if problem.kind == "loop":
        printed = StringIO()
        with redirect_stdout(printed):
            exec(problem.question.split("\n", 1)[1], {})
        return printed.getvalue().strip()
    if problem.kind == "equation":
        left, right = re.search(r"([\dx +-]+) = ([\dx +-]+\d|\d+)", problem.question).groups()  # type: ignore[union-attr]
        sides = [re.sub(r"(\d)x", r"\1*x", side) for side in (left, right)]
        (x,) = [x for x in range(1, 100) if eval(sides[0], {"x": x}) == eval(sides[1], {"x": x})]
        return f"x = {x}"
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_what_python_computes(kind: str) -> None:
    problems = [problem for problem in held_out(5, 100) if problem.kind == kind]
    for problem in problems:
        expected = answer_by_python(problem)
        assert expected in (None, problem.answer), problem
        assert problem.steps or kind.startswith("story"), problem


def test_comparisons_are_true() -> None:
    for problem in islice((problem for problem in stream(9) if problem.kind == "comparison"), 200):
        assert eval(problem.answer.replace(" = ", " == ")), problem


def test_the_shipped_problems_are_those_of_their_seed(nano: Source) -> None:
    shipped = [(each.kind, each.question, each.answer) for each in read_problems(nano.path)]
    assert shipped == [(each.kind, each.question, each.answer) for each in held_out(HELD_OUT_SEED, HELD_OUT_EACH)]


def test_training_never_shows_a_held_out_problem(nano: Source) -> None:
    tokenizer = Tokenizer.from_file(str(nano.path / "tokenizer.json"))
    asked = held_out(HELD_OUT_SEED, HELD_OUT_EACH)
    avoid = {(problem.kind, problem.key) for problem in asked}
    samples = conversations.samples(1, tokenizer, avoid, {})
    questions = {problem.question for problem in asked}
    for sample in islice(samples, 4000):
        text = tokenizer.decode(sample.ids, skip_special_tokens=False)
        for turn in re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", text, re.DOTALL):
            assert turn not in questions


def test_training_prompts_are_what_the_chat_template_renders(nano: Source) -> None:
    import json

    template = json.loads((nano.path / "tokenizer_config.json").read_text())["chat_template"]
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    for system in ("", "S"):
        segments = render(template, [Message("system", system), Message("user", "2 + 2?")], tokenizer)
        assert conversations.prompt("2 + 2?", system) == "".join(each.text for each in segments)
