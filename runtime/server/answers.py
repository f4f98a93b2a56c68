"""What clients get, in OpenAI's form: the whole answers, or chunks of them as they come."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationStats
from mimo_mobile.runtime.server import errors
from mimo_mobile.runtime.server.errors import UNAVAILABLE, RequestError
from mimo_mobile.runtime.server.line import Job

FIELDS = {"thinking": "reasoning_content", "answer": "content"}
"""Where each channel goes, as DeepSeek, vLLM and llama.cpp name it."""

PING = b": still at work\n\n"
"""A comment in a stream of events, which clients pass over."""

DONE = b"data: [DONE]\n\n"


@dataclass
class Usage:
    """What a request took, all its answers together."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    answers: list[GenerationStats] = field(default_factory=list)

    def add(self, token: GeneratedToken) -> None:
        """Count a step, the last one with what the whole generation took."""
        self.reasoning_tokens += token.channel == "thinking" and token.token_id is not None
        if (stats := token.stats) is not None:
            self.answers.append(stats)
            self.prompt_tokens = stats.prompt_tokens
            self.cached_tokens = self.cached_tokens if len(self.answers) > 1 else stats.cached_tokens
            self.completion_tokens += stats.generated_tokens
            self.drafted_tokens += stats.drafted_tokens
            self.accepted_tokens += stats.accepted_tokens

    def to_json(self) -> dict[str, Any]:
        """OpenAI's record; of drafted and accepted tokens only ours tells."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
        }


class Answers:
    """The answers to one request, as they come out of the line."""

    def __init__(self, job: Job, model: str) -> None:
        """Read a job; ``model`` is the name that the client knows."""
        self.job, self.usage = job, Usage()
        self._model = model
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())

    async def whole(self) -> dict[str, Any]:
        """All answers, when they are complete.

        Raises:
            RequestError: The time is up, or the server stops.
            MimoMobileError: The model failed.
        """
        texts = [dict.fromkeys(FIELDS.values(), "") for _ in self.job.configs]
        reasons: list[str | None] = [None for _ in self.job.configs]
        calls: list[list[dict[str, Any]]] = [[] for _ in self.job.configs]
        async for place, token in self._tokens():
            texts[place][FIELDS[token.channel]] += token.text
            reasons[place] = _reason(token, len(calls[place]))
            calls[place] += _called(token)
        choices = [
            {
                "index": place,
                "message": {"role": "assistant", **text, **({"tool_calls": made} if made else {}), "refusal": None},
                "finish_reason": reasons[place],
                "logprobs": None,
            }
            for place, (text, made) in enumerate(zip(texts, calls, strict=True))
        ]
        return self._record("chat.completion", choices) | {"usage": self.usage.to_json()}

    async def events(self, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
        """The chunks as server-sent events; a failure is the last one, since the status is sent by then."""
        try:
            begun, calls = set(), Counter[int]()
            async for found in self._records():
                if found is None:
                    yield PING
                    continue
                place, token = found
                delta: dict[str, Any] = {} if place in begun else {"role": "assistant", "content": ""}
                begun.add(place)
                if token.text:
                    delta[FIELDS[token.channel]] = token.text
                if made := _called(token):
                    delta["tool_calls"] = [{"index": calls[place], **each} for each in made]
                    calls[place] += 1
                if delta or token.finish_reason or token.notice:
                    yield self._event([_piece(place, delta, token, calls[place])])
            if with_usage:
                yield self._event([], self.usage.to_json())
        except Exception as error:
            yield _data(errors.of(error).to_json())
        yield DONE

    async def _tokens(self) -> AsyncGenerator[tuple[int, GeneratedToken], None]:
        async for found in self._records():
            if found is not None:
                yield found

    async def _records(self) -> AsyncGenerator[tuple[int, GeneratedToken] | None, None]:
        async for found in self.job.records():
            if found is not None:
                self.usage.add(found[1])
                if found[1].finish_reason == "cancelled":
                    raise RequestError(UNAVAILABLE, "the server stops; ask another one", "stopping")
            yield found

    def _record(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        return _data(self._record("chat.completion.chunk", choices) | ({"usage": usage} if usage else {}))


def _piece(place: int, delta: dict[str, Any], token: GeneratedToken, calls: int) -> dict[str, Any]:
    made = {"index": place, "delta": delta, "finish_reason": _reason(token, calls), "logprobs": None}
    return made | ({"notice": token.notice} if token.notice else {})


def _called(token: GeneratedToken) -> list[dict[str, Any]]:
    """The call that a step completes, if it does."""
    if (call := token.tool_call) is None:
        return []
    function = {"name": call.name, "arguments": call.text}
    return [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}]


def _reason(token: GeneratedToken, calls: int) -> str | None:
    """Why an answer with so many calls ended, in OpenAI's words."""
    return "tool_calls" if calls and token.finish_reason == "stop" else token.finish_reason


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n\n"
