"""How likely tokens were, in the two forms that OpenAI's API has for it."""

from __future__ import annotations

from typing import Any

from mimo_mobile.runtime.generation_config import GeneratedToken
from mimo_mobile.runtime.text.detokenizer import Detokenizer
from mimo_mobile.runtime.text.thinking import Channel
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

FIELDS = {"thinking": "reasoning_content", "answer": "content"}
"""Where each channel goes, as DeepSeek, vLLM and llama.cpp name it."""

_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class ChatTokens:
    """What a message of the assistant tells of its tokens: a record of each, beside the text that it is part of.

    What comes between thinking and answer, tag and white space, is told beside the thinking.

    Attributes:
        all: What was told so far; None where nothing is asked for.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Begin before the first token."""
        self._tokenizer = tokenizer
        self._thinking = self._answering = False
        self.all: dict[str, Any] | None = None

    def add(self, token: GeneratedToken) -> dict[str, Any] | None:
        """What is told of one more step, if anything."""
        self._answering |= token.channel == "answer" and bool(token.text)
        if token.token_id is None or token.logprob is None:
            return None
        others = [self._likely(each, logprob) for each, logprob in token.top_logprobs]
        made = self._likely(token.token_id, token.logprob) | {"top_logprobs": others}
        name = FIELDS["answer" if self._is_answer(token.channel, token.token_id) else "thinking"]
        self.all = self.all or _empty()
        self.all[name].append(made)
        return _empty() | {name: [made]}

    def _is_answer(self, channel: Channel, number: int) -> bool:
        """Whether a token is of the answer, whose text may be held back; what ends the tag brings no text."""
        ends_tag, self._thinking = self._thinking and channel == "answer", channel == "thinking"
        if channel == "answer" and not ends_tag:
            self._answering |= bool(self._tokenizer.token_bytes(number).strip())
        return self._answering

    def _likely(self, number: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(number)
        return {"token": shown(number, self._tokenizer), "logprob": logprob, "bytes": list(data) if data else None}


class CompletionTokens:
    """What the continuation of a text tells of its tokens: a list for each kind of thing.

    Attributes:
        all: What was told so far; None where nothing is asked for.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Begin before the first token."""
        self._tokenizer, self._characters, self._offset = tokenizer, Detokenizer(), 0
        self.all: dict[str, list[Any]] | None = None

    def add(self, token: GeneratedToken) -> dict[str, list[Any]] | None:
        """What is told of one more step, if anything."""
        if token.token_id is None or token.logprob is None:
            return None
        text = shown(token.token_id, self._tokenizer)
        likely: dict[str, float] = {}
        for each, logprob in [*token.top_logprobs, (token.token_id, token.logprob)]:
            likely.setdefault(shown(each, self._tokenizer), logprob)  # of equal texts the likeliest
        told = (text, token.logprob, likely, self._offset)
        made: dict[str, list[Any]] = {name: [each] for name, each in zip(_LISTS, told, strict=True)}
        self._offset += len(self._characters.feed(self._tokenizer.token_bytes(token.token_id)))
        self.all = self.all or {name: [] for name in _LISTS}
        for name, more in made.items():
            self.all[name] += more
        return made


def shown(number: int, tokenizer: TextTokenizer) -> str:
    """The text of a token, the name of a special one, or as OpenAI writes it the bytes of a part of a character."""
    data = tokenizer.token_bytes(number)
    try:
        return data.decode() if data else tokenizer.special_name(number)
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{each:02x}" for each in data)


def _empty() -> dict[str, Any]:
    return {name: [] for name in FIELDS.values()} | {"refusal": None}
