"""One of the answers to a request, in OpenAI's form, as it grows: a message, or the continuation of a text."""

from __future__ import annotations

import secrets
from typing import Any, Protocol

from mimo_mobile.runtime.generation_config import GeneratedToken, Notice
from mimo_mobile.runtime.server.token_forms import FIELDS, ChatTokens, CompletionTokens
from mimo_mobile.runtime.text.tokenizer import TextTokenizer


class Choice(Protocol):
    """An answer that grows."""

    def add(self, token: GeneratedToken) -> dict[str, Any] | None:
        """What a stream tells of one more step; None if that is nothing."""

    def whole(self) -> dict[str, Any]:
        """All of it, once it has ended."""


class ChatChoice:
    """A message of the assistant."""

    def __init__(self, place: int, tokenizer: TextTokenizer) -> None:
        """Begin the message at ``place`` among several."""
        self._place, self._tokens, self._begun = place, ChatTokens(tokenizer), False
        self._texts = dict.fromkeys(FIELDS.values(), "")
        self._calls: list[dict[str, Any]] = []
        self._reason: str | None = None

    def add(self, token: GeneratedToken) -> dict[str, Any] | None:
        """What a stream tells of one more step; None if that is nothing."""
        delta: dict[str, Any] = {} if self._begun else {"role": "assistant", "content": ""}
        self._begun = True
        if token.text:
            delta[FIELDS[token.channel]] = token.text
            self._texts[FIELDS[token.channel]] += token.text
        if (call := token.tool_call) is not None:
            function = {"name": call.name, "arguments": call.text}
            made = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            delta["tool_calls"] = [{"index": len(self._calls), **made}]
            self._calls.append(made)
        self._reason = "tool_calls" if self._calls and token.finish_reason == "stop" else token.finish_reason
        logprobs = self._tokens.add(token)
        if not delta and not _tells(token):
            return None
        return _record(self._place, {"delta": delta}, self._reason, logprobs, token.notice)

    def whole(self) -> dict[str, Any]:
        """All of it, once it has ended."""
        calls = {"tool_calls": self._calls} if self._calls else {}
        message = {"role": "assistant", **self._texts, **calls, "refusal": None}
        return _record(self._place, {"message": message}, self._reason, self._tokens.all)


class CompletionChoice:
    """What follows a text."""

    def __init__(self, place: int, tokenizer: TextTokenizer, echoed: str) -> None:
        """Begin the text at ``place`` among several with what is repeated of the prompt."""
        self._place, self._tokens, self._text, self._echoed = place, CompletionTokens(tokenizer), "", echoed
        self._reason: str | None = None

    def add(self, token: GeneratedToken) -> dict[str, Any] | None:
        """What a stream tells of one more step; None if that is nothing."""
        text, self._echoed = self._echoed + token.text, ""
        self._text, self._reason = self._text + text, token.finish_reason
        logprobs = self._tokens.add(token)
        if not text and not _tells(token):
            return None
        return _record(self._place, {"text": text}, self._reason, logprobs, token.notice)

    def whole(self) -> dict[str, Any]:
        """All of it, once it has ended."""
        return _record(self._place, {"text": self._text}, self._reason, self._tokens.all)


def _tells(token: GeneratedToken) -> bool:
    """Whether a stream tells of a step that brings no text."""
    return bool(token.finish_reason or token.notice) or token.logprob is not None


def _record(
    place: int,
    text: dict[str, Any],
    reason: str | None,
    logprobs: dict[str, Any] | None,
    notice: Notice | None = None,
) -> dict[str, Any]:
    made = {"index": place, **text, "finish_reason": reason, "logprobs": logprobs}
    return made | ({"notice": notice} if notice else {})
