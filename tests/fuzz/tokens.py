"""The tokenizer of the tests' tiny checkpoint, made once."""

from __future__ import annotations

from functools import cache

from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.fuzz.scratch import scratch
from tests.tiny import write_tokenizer


@cache
def tokenizer_text() -> str:
    """Its tokenizer.json."""
    write_tokenizer(scratch())
    return (scratch() / "tokenizer.json").read_text(encoding="utf-8")


@cache
def tokenizer() -> TextTokenizer:
    """The tokenizer itself."""
    tokenizer_text()
    return TextTokenizer.from_file(scratch() / "tokenizer.json")
