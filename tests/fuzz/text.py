"""From tokens to text: what comes out must not depend on where the bytes are cut into tokens.

An input is a JSON object with ``bytes`` (in Latin-1), ``stops`` (stop strings) and ``cuts`` (where the bytes are cut).
"""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from random import Random

from mimo_mobile.runtime.text.detokenizer import Detokenizer
from mimo_mobile.runtime.text.stop_strings import StopStrings
from mimo_mobile.runtime.text.thinking import ThinkingSplitter
from mimo_mobile.runtime.text.tokenizer import Segment
from tests.fuzz.mutations import json_mutator
from tests.fuzz.tokens import tokenizer

PARTS = (
    "<think>",
    "</think>",
    "<th",
    "ink>",
    "</",
    "a",
    "<b>",
    "b",
    "<|im_end|>",
    "\n",
    " ",
    "é",
    "🙂",
    "\u0301",
    "\r\n",
)


def check(data: bytes) -> None:
    """Compare what comes of one piece, of many, and of the definition."""
    try:
        found = json.loads(data)
        content, stops, cuts = found["bytes"].encode("latin-1"), found["stops"], found["cuts"]
        stops = [each for each in stops if isinstance(each, str) and each][:8]
        cuts = sorted({int(each) % (len(content) + 1) for each in cuts})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return
    whole = content.decode("utf-8", errors="replace")
    begins = [place for stop in stops if (place := whole.find(stop)) >= 0]
    until = whole[: min(begins)] if begins else whole
    pieces = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    bytewise = [content[place : place + 1] for place in range(len(content))]
    one = _through([content], stops)
    assert one[0] == until, f"{one[0]!r} came, {until!r} is before the first stop string"
    for way in (pieces, bytewise):
        assert _through(way, stops) == one, f"{_through(way, stops)} of {len(way)} pieces, {one} of one"
    _round_trip(whole)


def _through(pieces: Iterable[bytes], stops: list[str]) -> tuple[str, dict[str, str]]:
    """The text before the first stop string, and its share of each channel, as a generation makes them of tokens."""
    detokenizer, watcher, splitter = Detokenizer(), StopStrings(stops), ThinkingSplitter()
    texts: list[str] = []
    channels: defaultdict[str, str] = defaultdict(str)

    def take(text: str) -> None:
        texts.append(text)
        for channel, part in splitter.feed(text):
            channels[channel] += part

    for piece in pieces:
        take(watcher.feed(detokenizer.feed(piece)))
    take(watcher.feed(detokenizer.flush()))
    take(watcher.flush())
    for channel, part in splitter.flush():
        channels[channel] += part
    return "".join(texts), dict(channels)


def _round_trip(text: str) -> None:
    """A text's tokens stand for the same text in NFC; characters newer than Python's tables are left out."""
    if any(unicodedata.category(each) == "Cn" for each in text):
        return
    back = tokenizer().decode(tokenizer().encode_segments([Segment(text)]))
    assert unicodedata.normalize("NFC", back) == unicodedata.normalize("NFC", text), f"{back!r} came back of {text!r}"


def mutate(data: bytes, random: Random) -> bytes | None:
    """Parts that matter put in, cut out and cut elsewhere."""
    try:
        found = json.loads(data)
        content, stops, cuts = found["bytes"], found["stops"], found["cuts"]
        place = random.randint(0, len(content))
        part = random.choice((*PARTS, *stops[:4])).encode().decode("latin-1")
        choice = random.randrange(5)
        if choice == 0:
            content = content[:place] + part + content[place + random.choice((0, 0, 3)) :]
        elif choice == 1:
            content = content[:place] + content[place + random.randint(1, 4) :]
        elif choice == 2:
            stops = [*stops[-3:], random.choice((*PARTS, whole_part(content, random)))]
        elif choice == 3:
            cuts = [random.randint(0, len(content)) for _ in range(random.randint(0, 8))]
        else:
            return json_mutator(data, random)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return json.dumps({"bytes": content, "stops": stops, "cuts": cuts}).encode()


def whole_part(content: str, random: Random) -> str:
    """Some characters of the text itself, which make a stop string that is met."""
    text = content.encode("latin-1").decode("utf-8", errors="replace")
    place = random.randint(0, len(text))
    return text[place : place + random.randint(1, 5)]


def seeds() -> Iterator[bytes]:
    """Thinking and answer, overlapping stop strings, characters of several bytes, broken ones."""
    for text, stops in (
        ("<think>\n1 + 1 \n</think>\n\n2", ["\n\n\n"]),
        ("a<b>", ["<b>", "b"]),
        ("aab aabb", ["aabb", "ab"]),
        ("é 🙂 算", ["🙂"]),
        ("<think>x</thi</think> y", []),
    ):
        yield json.dumps({"bytes": text.encode().decode("latin-1"), "stops": stops, "cuts": [1, 3]}).encode()
    yield json.dumps({"bytes": "a\u00f0\u009f<\u0099\u0082", "stops": ["<"], "cuts": [2]}).encode()
