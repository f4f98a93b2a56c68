"""A tokenizer.json. What is accepted must give texts back, as MiMo's tokenizer does."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from random import Random

from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.fuzz.mutations import json_mutator
from tests.fuzz.scratch import scratch
from tests.fuzz.tokens import tokenizer_text

TEXT = "What is 12 + 30?\n\n e\u0301 \u7b97 \U0001f642\tdef total(values): return sum(values)  "
REGEX = {"Regex": "(a+)+$"}
STEPS = (
    {"type": "NFC"}, {"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Whitespace"},
    {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Prepend", "prepend": "x"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 99}, {"type": "Fuse"}, {"type": "WordLevel"},
    {"type": "Sequence", "normalizers": []}, {"type": "Sequence", "pretokenizers": []}, {"type": "Unigram"},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Digits", "individual_digits": True}, {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Split", "pattern": REGEX, "behavior": "Isolated", "invert": False},
    {"strategy": {"Fixed": 100000000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
     "pad_token": "x"},
    {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
)  # fmt: skip


def check(data: bytes) -> None:
    """Load it; encode and decode a text."""
    file = scratch() / "tokenizer-x.json"
    file.write_bytes(data)
    try:
        made = TextTokenizer.from_file(file)
    finally:
        file.unlink()
    ids = made.encode(TEXT)
    assert all(0 <= each < made.size for each in ids), "an id that no token has"
    back = made.decode(ids)
    names = made.special_tokens
    assert any(name in TEXT for name in names) or unicodedata.normalize("NFC", back) == unicodedata.normalize(
        "NFC", TEXT
    ), f"accepted, but {back!r:.80} came back"


def mutate(data: bytes, random: Random) -> bytes | None:
    """Values changed, or a step of another tokenizer in one of its places."""
    if random.random() < 0.6:
        return json_mutator(data, random)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    found[
        random.choice(("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding", "model"))
    ] = random.choice(STEPS)
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")


def seeds() -> Iterator[bytes]:
    """The tiny checkpoint's."""
    yield json.dumps(json.loads(tokenizer_text()), ensure_ascii=False).encode()
