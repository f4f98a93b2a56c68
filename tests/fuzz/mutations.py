"""Changes of documents that a parser still reads, so that what comes after it is reached, too. Pure."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (
    0, 1, -1, 2, 3, 63, 64, 127, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 10**30, 0.5, -0.0, 1e38,
    1e300, 5e-324,
)  # fmt: skip
TEXTS = (
    "", " ", ".", "..", "/", "../x", "/etc/passwd", "a\x00b", "\x1b[31m", "[red]", "[/]", "é", "é", "🙂", "\u202e",
    "x" * 300, "<|im_end|>", "<think>", "</think>", "NaN", "-1", "1e9", "NFC", "BF16", "F64", "true",
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None] * 40, {"a": {}}, *NUMBERS, *TEXTS)


def change_json(document: Any, random: Random) -> Any:
    """The document with one to four of its values changed; the one that was given is changed, too."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        document = _change_one(document, random)
    return document


def json_mutator(data: bytes, random: Random) -> bytes | None:
    """Bytes of a JSON document with some values changed; None when they are no JSON, which others should change."""
    try:
        document = json.loads(data)
        return json.dumps(change_json(document, random), ensure_ascii=random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, RecursionError):
        return None


def _change_one(document: Any, random: Random) -> Any:
    places = list(_places(document))
    if not places:
        return _value(random)
    holder, key = random.choice(places)
    change: Callable[[Any, Any, Random], None] = random.choice((_replace, _replace, _tweak, _remove, _copy, _deepen))
    change(holder, key, random)
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every place of a value: the object or array that holds it, and its key; of long arrays only some."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            found += [(holder, key) for key in holder]
            waiting += holder.values()
        elif isinstance(holder, list):
            found += [(holder, index) for index in range(min(len(holder), 16))]
            waiting += holder[:16]
    return found


def _replace(holder: Any, key: Any, random: Random) -> None:
    holder[key] = _value(random)


def _value(random: Random) -> Any:
    """One of the values; a new one, as it may be changed in turn."""
    return copy.deepcopy(random.choice(VALUES))


def _tweak(holder: Any, key: Any, random: Random) -> None:
    value = holder[key]
    if isinstance(value, bool) or value is None:
        holder[key] = _value(random)
    elif isinstance(value, int | float):
        holder[key] = random.choice((value + 1, value - 1, value * 2, -value, value / 2, random.choice(NUMBERS)))
    elif isinstance(value, str):
        place = random.randint(0, len(value))
        holder[key] = value[:place] + random.choice(TEXTS) + value[place + random.randint(0, 3) :]
    elif isinstance(value, list) and value:
        holder[key] = random.choice((value + value, value[:-1], value[::-1], [value[0]] * 3))
    else:
        _replace(holder, key, random)


def _remove(holder: Any, key: Any, random: Random) -> None:
    del holder[key]


def _copy(holder: Any, key: Any, random: Random) -> None:
    """The value once more: at the end of its array, or under another key."""
    if isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[random.choice((*list(holder)[:8], "more"))] = copy.deepcopy(holder[key])


def _deepen(holder: Any, key: Any, random: Random) -> None:
    for _ in range(random.choice((1, 2, 70))):
        holder[key] = [holder[key]] if random.random() < 0.5 else {"a": holder[key]}
