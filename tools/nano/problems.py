"""Problems that MiMo-nano learns: seeded, pure, each with its worked steps and its one right answer.

A kind is a function of a random generator. ``key`` names the numbers behind a question, not its wording, so
that held-out problems can be kept out of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import lcm
from random import Random

from tools.nano import scratchpad
from tools.nano.scratchpad import Expression, evaluate, fits, text
from tools.nano.stories import NAMES, TEMPLATES, THINGS

LIMIT = 9999
"""No value on the way is larger."""

ASK = (
    "What is {}?",
    "Calculate {}.",
    "Compute {}.",
    "{} = ?",
    "Find {}.",
    "How much is {}?",
    "¿Cuánto es {}?",
    "计算 {}。",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, the lines that lead to its answer, and the answer.

    Attributes:
        kind: One of ``KINDS``.
        key: The numbers and operators, independent of the wording.
        question: As the user writes it.
        steps: What stands between ``<think>`` and ``</think>``.
        answer: What follows, to the character.
    """

    kind: str
    key: str
    question: str
    steps: tuple[str, ...]
    answer: str


def chain(random: Random) -> Problem:
    """Two to four numbers joined by +, − and one × by a digit."""
    while True:
        expression: Expression = random.randint(10, 999)
        for _ in range(random.randint(1, 3)):
            term: Expression = random.randint(2, 999)
            if random.random() < 0.35:
                term = (random.randint(2, 120), "*", random.randint(2, 9))
            expression = (expression, random.choice("+-"), term)
        if random.random() < 0.25 and not isinstance(expression, int) and isinstance(expression[0], int):
            expression = ((random.randint(2, 120), "*", random.randint(2, 9)), expression[1], expression[2])
        if fits(expression, LIMIT):
            return _asked(random, "chain", expression)


def multiplication(random: Random) -> Problem:
    """Up to three digits times two."""
    return _asked(random, "multiplication", (random.randint(11, 999), "*", random.randint(11, 99)))


def division(random: Random) -> Problem:
    """Up to four digits by 2 to 12, with remainder."""
    a, b = random.randint(20, 9999 if random.random() < 0.5 else 999), random.randint(2, 12)
    (quotient, remainder), line = scratchpad.divide(a, b)
    ask = random.choice(
        ("What is {a} ÷ {b} with remainder?", "Divide {a} by {b}.", "{a} / {b} with remainder = ?",
         "Divide {a} entre {b} con resto.", "{a} 除以 {b}，商和余数是多少？")
    )  # fmt: skip
    return Problem("division", f"{a}/{b}", ask.format(a=a, b=b), (line,), f"{quotient} r {remainder}")


def parentheses(random: Random) -> Problem:
    """Three or four numbers with one pair of parentheses that matters."""
    while True:
        number = random.randint
        inner: Expression = (number(2, 200), random.choice("+-"), number(2, 200))
        digit = number(2, 9)
        shape = number(0, 3)
        expression: Expression
        if shape == 0:
            expression = ((inner, "*", digit), random.choice("+-"), number(2, 500))
        elif shape == 1:
            expression = (digit, "*", inner)
        elif shape == 2:
            expression = (number(100, 999), random.choice("+-"), (digit, "*", inner))
        else:
            expression = (number(100, 999), "-", inner)
        if fits(expression, LIMIT):
            return _asked(random, "parentheses", expression)


def comparison(random: Random) -> Problem:
    """Which of two numbers or of an expression and a number is larger."""
    a = random.randint(10, 9999)
    left: Expression = a
    if random.random() < 0.5:
        left = (random.randint(11, 500), random.choice("+*"), random.randint(2, 9))
        a = evaluate(left)[0]
    spread = random.choice((0, 9, 99, 999))
    b = max(1, a + random.randint(-spread, spread))
    _, steps = evaluate(left)
    sign, line = scratchpad.compare(a, b)
    ask = random.choice(
        ("Compare {} and {}: <, = or >?", "{} ? {} (<, = or >)", "Which sign: {} or {}?", "比较 {} 和 {}。")
    )
    written = text(left)
    return Problem("comparison", f"{written}?{b}", ask.format(written, b), (*steps, line), f"{written} {sign} {b}")


def fraction(random: Random) -> Problem:
    """A sum or difference of two fractions in lowest terms; denominators 2 to 10."""
    while True:
        b, d = random.choice((2, 3, 4, 5, 6, 8, 10)), random.choice((2, 3, 4, 5, 6, 8, 10))
        a, c = random.randint(1, b + 2), random.randint(1, d + 2)
        common = lcm(b, d)
        x, y = a * (common // b), c * (common // d)
        operator = random.choice("+-")
        if operator == "+" or x > y:
            break
    total, line = scratchpad.add(x, y) if operator == "+" else scratchpad.subtract(x, y)
    (n, m), reduced = scratchpad.reduce_fraction(total, common)
    steps = (f"{b},{d}:{common}", f"{a}*{common // b}={x},{c}*{common // d}={y}", line, reduced)
    written = f"{a}/{b} {operator} {c}/{d}"
    ask = random.choice(ASK)
    return Problem("fraction", written, ask.format(written), steps, f"{n}/{m}" if m > 1 else str(n))


def equation(random: Random) -> Problem:
    """A linear equation with a whole positive solution, x on one side or on both."""
    x, a = random.randint(1, 99), random.randint(2, 9)
    shape = random.randint(0, 2)
    steps: list[str]
    if shape == 0:
        b = random.randint(1, 500)
        written, (rest, line) = f"{a}x + {b} = {a * x + b}", scratchpad.subtract(a * x + b, b)
        steps = [line]
    elif shape == 1:
        b = random.randint(1, a * x)
        written, (rest, line) = f"{a}x - {b} = {a * x - b}", scratchpad.add(a * x - b, b)
        steps = [line]
    else:
        c = random.randint(1, a - 1)
        b = random.randint(1, 99)
        right = (a - c) * x + b
        written, (rest, line) = f"{a}x + {b} = {c}x + {right}", scratchpad.subtract(right, b)
        steps = [f"{a}-{c}={a - c}", line]
        a -= c
    if a > 1:
        steps.append(scratchpad.divide(rest, a)[1])
    ask = random.choice(
        ("Solve {}.", "Solve for x: {}", "Find x: {}", "What is x if {}?", "Resuelve {}.", "解方程 {}。")
    )
    return Problem("equation", written, ask.format(written), tuple(steps), f"x = {x}")


def story(language: str) -> Callable[[Random], Problem]:
    """The kind of word problems in a language."""

    def make(random: Random) -> Problem:
        while True:
            formula, template = random.choice(TEMPLATES[language])
            expression, values = _formula(random, formula)
            if fits(expression, LIMIT):
                break
        value, steps = evaluate(expression)
        words = {"n": random.choice(NAMES[language]), "t": random.choice(THINGS[language])}
        key = f"{formula} {values['a']} {values['b']} {values.get('c', '')}".strip()
        return Problem(f"story_{language}", key, template.format(**values, **words), tuple(steps), str(value))

    return make


def _formula(random: Random, formula: str) -> tuple[Expression, dict[str, int]]:
    """Numbers that suit a formula, and the expression they make."""
    number = random.randint
    digit, large = number(2, 9), number(20, 900)
    match formula:
        case "a+b" | "a-b":
            values = {"a": large, "b": number(5, 900)}
            return (values["a"], formula[1], values["b"]), values
        case "a*b":
            return (large, "*", digit), {"a": large, "b": digit}
        case "a/b":
            return (large * digit, "/", digit), {"a": large * digit, "b": digit}
        case "a*b+c" | "a*b-c":
            values = {"a": number(5, 150), "b": digit, "c": number(3, 400)}
            return ((values["a"], "*", digit), formula[3], values["c"]), values
        case "a-b*c":
            values = {"a": large, "b": number(3, 99), "c": digit}
            return (large, "-", (values["b"], "*", digit)), values
        case "a+b-c":
            values = {"a": large, "b": number(5, 500), "c": number(5, 500)}
            return ((large, "+", values["b"]), "-", values["c"]), values
        case "(a+b)*c":
            values = {"a": number(5, 200), "b": number(5, 200), "c": digit}
            return ((values["a"], "+", values["b"]), "*", digit), values
        case _:
            total, part = digit * number(5, 200), number(3, 9)
            values = {"a": max(1, total - part * digit), "b": part * digit, "c": digit}
            return ((values["a"], "+", values["b"]), "/", digit), values


def loop(random: Random) -> Problem:
    """What a short Python loop prints."""
    while True:
        x = random.randint(0, 50)
        start, count = (0 if random.random() < 0.6 else random.randint(1, 4)), random.randint(2, 4)
        k, m = random.randint(2, 30), random.randint(2, 3)
        shape = random.randint(0, 4)
        body = (
            ("x = x + i",), (f"x = x * {m} + i",), (f"x += {k}",), (f"x = x + i * {k}",),
            ("if i % 2 == 0:", f"    x += {k}", "else:", f"    x += {m}"),
        )[shape]  # fmt: skip
        value, steps = x, list[str]()
        for i in range(start, start + count):
            steps.append(f"i={i}")
            update: tuple[Expression, ...] = (
                (value, "+", i), ((value, "*", m), "+", i), (value, "+", k), (value, "+", (i, "*", k)),
                (value, "+", m if i % 2 else k),
            )  # fmt: skip
            value, lines = evaluate(update[shape])
            steps += lines
        if value <= 999:
            break
    stop = start + count
    span = f"range({stop})" if start == 0 else f"range({start}, {stop})"
    code = "\n".join((f"x = {x}", f"for i in {span}:", *(f"    {line}" for line in body), "print(x)"))
    ask = random.choice(("What does this print?\n{}", "Trace this code:\n{}", "What is printed?\n{}"))
    return Problem("loop", code, ask.format(code), tuple(steps), str(value))


KINDS: dict[str, Callable[[Random], Problem]] = {
    "chain": chain,
    "multiplication": multiplication,
    "division": division,
    "parentheses": parentheses,
    "comparison": comparison,
    "fraction": fraction,
    "equation": equation,
    "story_en": story("en"),
    "story_es": story("es"),
    "story_zh": story("zh"),
    "loop": loop,
}


def stream(seed: int, weights: dict[str, float] | None = None) -> Iterator[Problem]:
    """Problems without end, kinds by weight (1 where none is given)."""
    random = Random(seed)
    names = list(KINDS)
    shares = [(weights or {}).get(name, 1.0) for name in names]
    while True:
        yield KINDS[random.choices(names, shares)[0]](random)


def held_out(seed: int, each: int) -> list[Problem]:
    """``each`` different problems of every kind."""
    random = Random(seed)
    problems: dict[tuple[str, str], Problem] = {}
    for name, make in KINDS.items():
        keys: set[tuple[str, str]] = set()
        while len(keys) < each:
            problem = make(random)
            keys.add((name, problem.key))
            problems.setdefault((name, problem.key), problem)
    return list(problems.values())


def _asked(random: Random, kind: str, expression: Expression) -> Problem:
    value, steps = evaluate(expression)
    written = text(expression, times=random.choice("**×"))
    return Problem(kind, text(expression), random.choice(ASK).format(written), tuple(steps), str(value))
