"""Answers that were cut off and go on to what they would have been, on both engines, with and without drafts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from mimo_mobile.errors import BadArgumentError
from mimo_mobile.runtime import Continued, GeneratedToken, GenerationConfig, Message, Structure, Turn, load
from mimo_mobile.runtime.text.thinking import ThinkingSplitter

GREEDY = GenerationConfig(temperature=0)
ASKED = [Message("user", "What is 25 + 17 * 3?")]


def said(tokens: Iterable[GeneratedToken]) -> tuple[str, str, GeneratedToken]:
    made = list(tokens)
    thinking, answer = ("".join(each.text for each in made if each.channel == name) for name in ("thinking", "answer"))
    return thinking, answer, made[-1]


@pytest.mark.parametrize("speculate", ["off", "mtp"])
@pytest.mark.parametrize("engine", ["gguf", "onnx"])
def test_an_answer_that_was_cut_goes_on_to_what_it_would_have_been(
    nano_q4: dict[str, Path], engine: str, speculate: Literal["off", "mtp"]
) -> None:
    with load(nano_q4[engine], threads=1, speculate=speculate) as model:
        thought, answered, last = said(model.generate(ASKED, GREEDY))
        assert last.stats is not None and answered == "76"
        prompt = last.stats.prompt_tokens
        for cut in (1, 7, 20, last.stats.generated_tokens - 1):
            thinking, answer, end = said(model.generate(ASKED, replace(GREEDY, max_tokens=cut)))
            assert end.finish_reason == "length"
            more, rest, end = said(model.generate(Continued(ASKED, thinking, answer), GREEDY))
            assert (thinking + more, answer + rest, end.finish_reason) == (thought, answered, "stop")
            assert end.stats is not None and end.stats.cached_tokens >= prompt - 1
        enough = model.generate(Continued(ASKED, thought), replace(GREEDY, thinking=False))
        assert said(enough)[:2] == ("", "76")  # it thinks no more
        for cut in (7, last.stats.generated_tokens - 1):
            talk = model.conversation(config=GREEDY)
            with pytest.raises(BadArgumentError, match="the conversation has 0 turns"):
                talk.resume()
            *_, end = talk.send(ASKED[0].content, replace(GREEDY, max_tokens=cut))
            assert len(talk.turns) == (cut > 7)  # an answer that is cut while it thinks is none yet
            *_, end = talk.resume()
            assert talk.turns == (Turn(ASKED[0].content, thought, answered),) and end.finish_reason == "stop"
        with pytest.raises(BadArgumentError, match="cannot keep to a structure"):
            model.generate(Continued(ASKED, thought), replace(GREEDY, structure=Structure.regex("7.")))


def test_a_split_text_that_goes_on_gives_what_it_would_have_given_and_nothing_twice() -> None:
    long = "<think>\n1 + 1\n = 2\n</think>\n\n2\n 3"
    for text in (long, "<think>a </th\n\n</think> b", "<think>\n\n</think>\n\n4", "4 5"):
        whole = _split(ThinkingSplitter(), text)
        for cut in range(len("<think>") if text.startswith("<") else 1, len(text) + 1):
            begun, second = _split(ThinkingSplitter(), text[:cut]), ThinkingSplitter()
            second.resume(text[:cut])
            rest = _split(second, text[cut:])
            assert begun[1] + rest[1] == whole[1]
            # What looked like a tag, or white space before it, may have been shown when the text was cut.
            assert (begun[0] + rest[0]).startswith(whole[0]), (text, cut)
            assert len(begun[0] + rest[0]) < len(whole[0] + "\n\n</think>")


def _split(splitter: ThinkingSplitter, text: str) -> tuple[str, str]:
    pieces = [*splitter.feed(text), *splitter.flush()]
    return tuple("".join(piece for channel, piece in pieces if channel == name) for name in ("thinking", "answer"))  # type: ignore[return-value]
