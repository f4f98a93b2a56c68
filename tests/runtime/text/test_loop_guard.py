"""The loop guard finds texts that got stuck, and leaves alone those that only look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.runtime.text.loop_guard import LoopGuard

ROOT = Path(__file__).resolve().parents[3]

OPENING = "Okay, so the user asks for the sum of all primes below 100. Let me list them first: 2, 3, 5, 7, 11, 13.\n\n"

STEPS = ["Wait, let me check that again.", "Hmm, that is not right.", "So x must be 7.", "But 7 is no solution."]


def drawn(lines: list[str], number: int) -> str:
    order = np.random.Generator(np.random.PCG64(2)).integers(0, len(lines), number)
    return "\n".join(lines[place] for place in order)


LOOPS = {
    "one word": "wait " * 1000,
    "one character": "." * 4000,
    "a sentence": "But wait, maybe I should consider the case when n is even. " * 60,
    "a paragraph": ("First, 2 + 3 = 5. Then 5 * 7 = 35, and so the sum is 35. " * 1 + "Let me check this. " * 12) * 30,
    "two sentences in turns": "Let me check. It is 12.\n\nHmm, that cannot be, since 12 is even.\n\n" * 60,
    "zeros": "0" * 4000,
    "lines in any order": drawn(STEPS, 400),
    "phrases in any order": drawn(STEPS, 1200).replace("\n", " "),
    "a long passage with one number that changes": "".join(
        " ".join(("so", "then", "maybe", "we", "try")[(n * n + n // 7) % 5] + "abcdefgh"[n % 8] for n in range(120))
        + f" with {n * n % 97} "
        for n in range(40)
    ),
    "lines that are numbered": "\n".join(f"{number}. Check the next number." for number in range(1, 400)),
    "numbers counting up": ", ".join(map(str, range(1, 3000))),
    "a count with two numbers": "\n".join(f"Let k = {n}. Then 2k = {2 * n} is even." for n in range(1, 400)),
}

LEGITIMATE = {
    "times tables": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 13) for b in range(1, 13)),
    "a table of squares": "\n".join(f"| {n} | {n * n} | {n**3} |" for n in range(1, 300)),
    "a long table": "| name | score | rank |\n|---|---|---|\n"
    + "\n".join(f"| player {n} | {(n * 7919) % 1000} | {n} |" for n in range(1, 250)),
    "remainders": "\n".join(f"n = {n}: {n} mod 7 = {n % 7}, so no." for n in range(1, 250)),
    "a list to one hundred": "\n".join(f"{n}. even" if n % 2 == 0 else f"{n}. odd" for n in range(1, 101)),
    "numbers to five hundred": ", ".join(map(str, range(1, 501))),
    "primes": ", ".join(str(n) for n in range(2, 4000) if all(n % d for d in range(2, int(n**0.5) + 1))),
    "powers": "\n".join(f"2^{n} = {2**n}" for n in range(1, 120)),
    "a zero matrix": "\n".join(" ".join("0" for _ in range(20)) for _ in range(20)),
    "an identity matrix": "\n".join(" ".join("1" if a == b else "0" for b in range(24)) for a in range(24)),
    "a truth table": "\n".join(
        " | ".join("T" if n >> bit & 1 else "F" for bit in range(6)) + f" | {'T' if n % 3 else 'F'}" for n in range(64)
    ),
    "binary numbers": "\n".join(f"{n:08b}" for n in range(256)),
    "long addition": "\n".join(
        f"{a} + {a * 37 % 911}: carry {(a % 10 + a * 37 % 911 % 10) // 10}, so {a + a * 37 % 911}"
        for a in range(100, 300)
    ),
    "a draft and its copy": "\n\n".join([" ".join(f"{'abcdefgh'[n * n % 8]}ord{n * n % 991}" for n in range(450))] * 2),
    "a large binary matrix": "\n".join(" ".join(str((a * b) % 2) for b in range(30)) for a in range(30)),
    "a switch": "\n".join(
        f'        case "{chr(97 + n % 26)}{n}":\n            return {n * n % 101};' for n in range(120)
    ),
    "chess board": "\n".join("#.#.#.#." if n % 2 else ".#.#.#.#" for n in range(8)) * 4,
}


def found(text: str, chunk: int = 7) -> int | None:
    """After how many characters the guard tells of a loop."""
    guard = LoopGuard()
    for start in range(0, len(text), chunk):
        guard.feed(text[start : start + chunk])
        if guard.found:
            return start + chunk
    return None


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_found_soon_after_it_began(name: str) -> None:
    place = found(OPENING + LOOPS[name])
    assert place is not None and place < len(OPENING) + 7000


@pytest.mark.parametrize("name", LEGITIMATE)
def test_what_only_looks_like_a_loop_is_left_alone(name: str) -> None:
    assert len(LEGITIMATE[name]) > 200 and found(OPENING + LEGITIMATE[name] + "\n\nSo that is it.\n") is None


def test_real_programs_and_pages_are_left_alone() -> None:
    names = ["README.md", "Makefile", "docs/performance.md", "docs/devices.md", "docs/mtp.md", "tests/conftest.py"]
    names += [
        "quantize/formats.py",
        "quantize/kernels.c",
        "runtime/onnx/graph_rules.py",
        "tests/quantize/test_formats.py",
    ]
    for name in names:
        assert found((ROOT / name).read_text(encoding="utf-8"), 61) is None, name


def test_the_guard_looks_at_a_short_end_of_a_long_text_only() -> None:
    guard = LoopGuard()
    for number in range(3000):
        guard.feed(f"word{number * number % 9973} ")
    assert not guard.found and len(guard._tail) <= 8192
