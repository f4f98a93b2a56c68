"""Texts that got stuck and texts that only look alike, for the loop guards of both languages."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from mimo_mobile.runtime.text.loop_guard import LoopGuard

LENGTH = 5200
"""Characters of a case; some of the guard's rules need that many."""


def _lines(lines: list[str], number: int, between: str) -> str:
    random = Random(3)
    return between.join(random.choice(lines) for _ in range(number))


def _texts() -> Iterator[str]:
    steps = ["Wait, let me check that again.", "Hmm, that is not right.", "So x must be 7.", "But 7 is no solution."]
    fillers = ["so", "then", "maybe", "we", "try"]
    yield "wait " * 1000
    yield "Okay, the sum of all primes below 100 is wanted: 2, 3, 5, 7, 11, 13.\n\n" + "." * 4000
    yield "But wait, maybe I should consider the case when n is even. " * 80
    yield "等等，我再想一想。也许答案是七。🙂 " * 300
    yield "\u3000à\u2003b\x1c" * 1200
    yield _lines(steps, 400, "\n")
    yield _lines(steps, 400, " ")
    yield _lines(steps, 400, "\u2003\n\u00a0")
    yield _lines(["¿Y si n = 2?", "No puede ser!", "Então não é 4."], 500, "\u2028")
    yield "".join(
        " ".join(fillers[(n * n + n // 7) % 5] + "abcdefgh"[n % 8] for n in range(120)) + f" with {n * n % 97} "
        for n in range(40)
    )
    yield "\n".join(f"{number}. Check the next number." for number in range(1, 400))
    yield ", ".join(map(str, range(1, 3000)))
    yield "\n".join(f"Let k = {n}. Then 2k = {2 * n} is even." for n in range(1, 400))
    yield "\n".join(f"Step {900 - n}: the rest is {10**16 + n * 7}." for n in range(1, 400))
    yield "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 13) for b in range(1, 30))
    yield "\n".join(f"| {n} | {n * n} | {n**3} |" for n in range(1, 400))
    yield "\n".join(f"n = {n}: {n} mod 7 = {n % 7}, so no." for n in range(1, 250))
    yield "\n".join(f"{n}. even" if n % 2 == 0 else f"{n}. odd" for n in range(1, 600))
    yield ", ".join(str(n) for n in range(2, 9000) if all(n % d for d in range(2, int(n**0.5) + 1)))
    yield "\n".join(" ".join("1" if a == b else "0" for b in range(40)) for a in range(70))
    yield "\n".join(f"{n:010b}" for n in range(512))
    words = [f"{one}{other}" for one in ("ba", "ko", "lu", "mi", "sé", "计") for other in ("n", "r", "st", "x", "")]
    random = Random(5)
    yield " ".join(random.choice(words) for _ in range(1500))
    essay = " ".join(random.choice(words) for _ in range(320))
    yield f"{essay} And once more, corrected: {essay} So the answer is 7."
    yield f"{essay} " * 6


def cases() -> list[dict[str, Any]]:
    """Each text, and how many characters of it, counted in Unicode's, had been fed when the guard found a loop."""
    found: list[dict[str, Any]] = []
    for text in (text[:LENGTH] for text in _texts()):
        guard, at = LoopGuard(), None
        for count, character in enumerate(text, 1):
            guard.feed(character)
            if guard.found:
                at = count
                break
        found.append({"text": text, "found_at": at})
    return found
