"""Held-back bytes, stop strings, thinking: pure functions over text cut in every possible way."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from mimo_mobile.runtime.text.detokenizer import Detokenizer
from mimo_mobile.runtime.text.stop_strings import StopStrings
from mimo_mobile.runtime.text.thinking import ThinkingSplitter


def cuts(text: str, count: int = 40) -> Iterator[list[str]]:
    """The text whole, character by character, and in random pieces."""
    yield [text]
    yield list(text)
    random = Random(0)
    for _ in range(count):
        places = sorted(random.sample(range(len(text) + 1), min(len(text), random.randint(1, 6))))
        yield [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def split(pieces: list[str], state: str = "start") -> tuple[str, str]:
    splitter = ThinkingSplitter(state)  # type: ignore[arg-type]
    found = {"thinking": "", "answer": ""}
    for piece in pieces:
        for channel, text in splitter.feed(piece):
            found[channel] += text
    for channel, text in splitter.flush():
        found[channel] += text
    return found["thinking"], found["answer"]


@pytest.mark.parametrize("text", ["día 计算 🙂 é", "🧮👩‍🔬", "plain"])
def test_only_whole_characters_come_out(text: str) -> None:
    detokenizer, out = Detokenizer(), []
    for byte in text.encode():
        out.append(detokenizer.feed(bytes([byte])))
        assert "�" not in out[-1]
    assert "".join(out) + detokenizer.flush() == text


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed(b"a\xff\xe4\xbd") + detokenizer.flush() == "a��"


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\n1 + 1 = 2\n</think>\n\n2", "1 + 1 = 2", "2"),
        ("  <think>x</think>y", "x", "y"),
        ("<think>a < b </th> </think>  c </think> d", "a < b </th>", "c </think> d"),
        ("<think>never closed <", "never closed <", ""),
        ("no thinking at all", "", "no thinking at all"),
        ("<thin ice> is an answer", "", "<thin ice> is an answer"),
        ("<think></think>\n\n42\n", "", "42\n"),
        ("<thi", "", ""),
        (" <think", "", ""),
    ],
)
def test_thinking_is_split_wherever_tags_are_cut(text: str, thinking: str, answer: str) -> None:
    for pieces in cuts(text):
        assert split(pieces) == (thinking, answer), pieces


def test_a_prompt_that_closed_the_block_leaves_only_an_answer() -> None:
    assert split(["<think>", "text"], "answer") == ("", "<think>text")


@pytest.mark.parametrize(
    ("text", "stops", "kept", "stopped"),
    [
        ("one two three", ["two"], "one ", True),
        ("one two three", ["three", "two th"], "one ", True),
        ("aaab", ["aab"], "a", True),
        ("ababac", ["abac"], "ab", True),
        ("one tw", ["two"], "one tw", False),
        ("计算。结束", ["。"], "计算", True),
    ],
)
def test_nothing_from_a_stop_string_on_comes_out(text: str, stops: list[str], kept: str, stopped: bool) -> None:
    for pieces in cuts(text):
        watch = StopStrings(stops)
        assert "".join(map(watch.feed, pieces)) + watch.flush() == kept, pieces
        assert watch.stopped is stopped


def chunkings(text: str) -> Iterator[list[str]]:
    """The text cut in every possible way."""
    for mask in range(2 ** max(len(text) - 1, 0)):
        places = [place for place in range(1, len(text)) if mask >> place - 1 & 1]
        yield [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("a<b>", ["<b>", "b"]),
        ("a<b", ["<b>", "b"]),
        ("a<bc", ["<b>", "b"]),
        ("a<bcd>e", ["<bcd>", "bc", "d"]),
        ("aabaabaac", ["aabaac", "baab", "c"]),
        ("aabaabaa", ["aabaac", "baabx", "aa"]),
        ("abcabcabd", ["abcabd", "cabc", "bcabx"]),
        ("xabcd", ["abcd", "abc", "b"]),
    ],
)
def test_the_stop_string_that_begins_first_ends_the_text_wherever_it_is_cut(text: str, stops: list[str]) -> None:
    check_stops(text, stops)


def test_random_stop_strings_end_random_texts_where_the_first_one_begins() -> None:
    draw = Random(0)
    for _ in range(400):
        text = "".join(draw.choices("ab<", k=draw.randint(0, 8)))
        check_stops(text, ["".join(draw.choices("ab<", k=draw.randint(1, 4))) for _ in range(draw.randint(0, 3))])


def check_stops(text: str, stops: list[str]) -> None:
    found = [text.find(stop) for stop in stops if stop in text]
    kept = text[: min(found)] if found else text
    for pieces in chunkings(text):
        watch, out = StopStrings(stops), ""
        for piece in pieces:
            out += watch.feed(piece)
            assert kept.startswith(out), (pieces, stops)
        assert (out + watch.flush(), watch.stopped) == (kept, bool(found)), (pieces, stops)


@pytest.mark.parametrize("text", ["\n <think>\na</think>\n\nb <thi", "  ", "</think>", ""])
def test_a_raw_text_comes_as_it_stands(text: str) -> None:
    for pieces in cuts(text, 5):
        assert split(pieces, "raw") == ("", text)
