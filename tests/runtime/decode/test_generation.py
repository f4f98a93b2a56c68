"""What a generation keeps from token to token, without a model."""

from __future__ import annotations

from dataclasses import fields

import pytest

from mimo_mobile.hub import Source
from mimo_mobile.runtime import GenerationConfig, GenerationStats
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
