"""What clients get, in OpenAI's form: the whole answers, or chunks of them as they come."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationStats
from mimo_mobile.runtime.server import errors
from mimo_mobile.runtime.server.choices import Choice
from mimo_mobile.runtime.server.errors import UNAVAILABLE, RequestError
from mimo_mobile.runtime.server.line import Job

Kind = Literal["chat.completion", "text_completion"]

_CHUNKS = {"chat.completion": "chat.completion.chunk", "text_completion": "text_completion"}

_IDS = {"chat.completion": "chatcmpl", "text_completion": "cmpl"}

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

    def add(self, token: GeneratedToken, *, again: bool) -> None:
        """Count a step, the last one with what the whole generation took, the prompt too unless it was read before."""
        self.reasoning_tokens += token.channel == "thinking" and token.token_id is not None
        if (stats := token.stats) is not None:
            self.answers.append(stats)
            if not again:
                self.prompt_tokens += stats.prompt_tokens
                self.cached_tokens += stats.cached_tokens
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

    def __init__(self, job: Job, model: str, choices: Sequence[Choice], kind: Kind) -> None:
        """Read a job into ``choices``; ``model`` is the name that the client knows."""
        self.job, self.usage = job, Usage()
        self._model, self._choices, self._kind = model, choices, kind
        self._id, self._created = f"{_IDS[kind]}-{secrets.token_hex(12)}", int(time.time())

    async def whole(self) -> dict[str, Any]:
        """All answers, when they are complete.

        Raises:
            RequestError: The time is up, or the server stops.
            MimoMobileError: The model failed.
        """
        async for found in self._records():
            if found is not None:
                place, token = found
                self._choices[place].add(token)
        choices = [each.whole() for each in self._choices]
        return self._record(self._kind, choices) | {"usage": self.usage.to_json()}

    async def events(self, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
        """The chunks as server-sent events; a failure is the last one, since the status is sent by then."""
        try:
            async for found in self._records():
                if found is None:
                    yield PING
                    continue
                place, token = found
                if (piece := self._choices[place].add(token)) is not None:
                    yield self._event([piece])
            if with_usage:
                yield self._event([], self.usage.to_json())
        except Exception as error:
            yield _data(errors.of(error).to_json())
        yield DONE

    async def _records(self) -> AsyncGenerator[tuple[int, GeneratedToken] | None, None]:
        async for found in self.job.records():
            if found is not None:
                self.usage.add(found[1], again=self.job.tasks[found[0]].again)
                if found[1].finish_reason == "cancelled":
                    raise RequestError(UNAVAILABLE, "the server stops; ask another one", "stopping")
            yield found

    def _record(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        return _data(self._record(_CHUNKS[self._kind], choices) | ({"usage": usage} if usage else {}))


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n\n"
