"""What a generation keeps from token to token, without a model."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from mimo_mobile.hub import Source
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, GenerationStats
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.generation_config import FinishReason
from mimo_mobile.runtime.text.thinking import ThinkingSplitter
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

STATS = GenerationStats(**{field.name: 0 for field in fields(GenerationStats)})


@pytest.mark.parametrize(("cut_short", "told"), [("length", "stop"), ("stop", "stop"), ("cancelled", "cancelled")])
def test_a_stop_string_in_what_was_held_back_at_the_end_ends_the_text(
    nano: Source, cut_short: FinishReason, told: FinishReason
) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    generation = Generation(tokenizer, GenerationConfig(stop=["<b>", "b"]), ThinkingSplitter("answer"))
    records = [record for token in tokenizer.encode("a<b") for record in generation.emit(token)]
    assert not generation.stopped  # "<b>", which begins earlier, could follow
    records += generation.end(cut_short, STATS)
    assert "".join(record.text for record in records) == "a<"
    assert records[-1].finish_reason == told


def generated(
    tokenizer: TextTokenizer, config: GenerationConfig, text: str, room: int = 10_000
) -> list[GeneratedToken]:
    """The records of a generation whose model would say ``text`` and go on with its last word."""
    generation = Generation(tokenizer, config, ThinkingSplitter(), room=room)
    wanted = iter(tokenizer.encode(text))
    records = list[GeneratedToken]()
    while generation.count < generation.most_tokens:
        logits = np.zeros(tokenizer.size, np.float32)
        logits[next(wanted, tokenizer.encode("x")[0])] = 1
        token = generation.next(logits)
        assert token is not None
        records += generation.emit(token)
    return [*records, *generation.end("length", STATS)]


def said(records: list[GeneratedToken], channel: str) -> str:
    return "".join(record.text for record in records if record.channel == channel)


def test_a_loop_in_the_thinking_closes_it_and_the_stream_says_so_unless_the_guard_is_off(nano: Source) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    text, config = "<think>\n" + "wait, " * 600, GenerationConfig(temperature=0, max_tokens=3000)
    records = generated(tokenizer, config, text)
    closing = [record for record in records if record.notice == "loop_closed"]
    assert len(closing) == 1 and closing[0].token_id is not None
    assert 2000 <= len(said(records, "thinking")) < 2400 and "wait, wait," in said(records, "answer")
    records = generated(tokenizer, replace(config, loop_guard=False), text)
    assert not said(records, "answer") and not any(record.notice for record in records)
    answer = generated(tokenizer, config, "It is: " + "wait, " * 600)
    assert not any(record.notice for record in answer), "an answer is not the guard's"


def test_thinking_leaves_room_for_the_answer(nano: Source) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    text, close = "<think>\n" + "".join(f"{n**3 % 9973} " for n in range(2000)), len(tokenizer.encode("\n</think>\n\n"))
    for config, room, thinking in (
        (GenerationConfig(temperature=0), 400, 300),
        (GenerationConfig(temperature=0), 8000, 8000 - 1024),
        (GenerationConfig(temperature=0, thinking_budget=50), 400, 50),
        (GenerationConfig(temperature=0, thinking_budget=390), 400, 300),
        (GenerationConfig(temperature=0, thinking_budget=390, max_tokens=200), 400, 150),
        (GenerationConfig(temperature=0, max_tokens=200), 400, None),
    ):
        records = [record for record in generated(tokenizer, config, text, room) if record.token_id is not None]
        assert len(records) == config.most_tokens(room) == min(room, config.max_tokens or room)
        answer = [place for place, record in enumerate(records) if record.channel == "answer"]
        assert (answer[0] - close if answer else None) in (None, thinking, *([thinking - 1] if thinking else []))
        assert bool(answer) == (thinking is not None)
