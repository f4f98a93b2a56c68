"""A model that a server elsewhere runs, behind OpenAI's API: llama-server, vLLM, SGLang and others.

It streams the same records as a ``Model``. What the server computes with, and how, it decides by itself.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, cast, get_args

from mimo_mobile.arguments import check
from mimo_mobile.documents import Value
from mimo_mobile.errors import BadArgumentError, Cancelled, SessionError
from mimo_mobile.http_client import MOST_LINE_BYTES, Address, HttpClient
from mimo_mobile.layout import MOST_TOKENS
from mimo_mobile.mimo7b import DEFAULT_SYSTEM_PROMPT, THINK_CLOSE, THINK_OPEN
from mimo_mobile.runtime.decode.decoder import peak_rss_bytes
from mimo_mobile.runtime.generation_config import (
    FinishReason,
    GeneratedToken,
    GenerationConfig,
    GenerationStats,
    Notice,
)
from mimo_mobile.runtime.text.chat_template import Continued, Message, MessageLike, messages_of
from mimo_mobile.runtime.text.thinking import ThinkingSplitter
from mimo_mobile.untrusted import printable

KEY_VARIABLE = "MIMO_ENDPOINT_KEY"
"""The environment variable that holds the server's key, since others can read the command line."""

TIMEOUT_S = 300.0
"""So long a server may be silent; a CPU that reads a long prompt says nothing meanwhile."""

CONTINUES = "/completions"
"""The path behind which texts are continued as they stand."""

AT_ONCE_S = 0.002
"""A text that comes within so many seconds had waited on its way, and tells nothing of how fast a server decodes."""

_ALL_TOKENS = 2**30
"""A ``top_k`` that leaves nothing out: what else does, -1 or 0, is an error with some servers."""

MOST_SHOWN = 20
"""So many of a server's models an error lists."""

_AS_SERVER = "is nothing that OpenAI's API can ask for; leave it out, or run the model here"


class Endpoint:
    """A model that a server runs, behind OpenAI's API, as a context manager.

    ``generate`` streams as ``Model.generate`` does; several may run at once, from several threads. ``cancel`` and
    ``close`` may be called from any thread.

    Attributes:
        name: The server's address, for messages.
        has_chat_template: Whether messages can be given, which every server takes.
    """

    def __init__(
        self, url: str, model: str | None = None, *, key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Name a server; nothing is asked yet.

        Args:
            url: ``http://HOST:PORT``, or with the path before ``/chat/completions`` where that is not ``/v1``.
            model: The model's name there; by default the only one that it has.
            key: The bearer token; by default what the environment variable ``MIMO_ENDPOINT_KEY`` holds, if anything.
            timeout_s: So many seconds the server may be silent.

        Raises:
            BadArgumentError: An argument has another type, or cannot be one.
        """
        if check("timeout_s", timeout_s, float) <= 0:
            raise BadArgumentError(f"timeout_s {timeout_s!r} is out of range")
        self._model: str | None = check("model", model, str | None)
        given = check("key", key, str | None)
        address = Address.of(check("url", url, str))
        self._client = HttpClient(address, given or os.environ.get(KEY_VARIABLE) or None, float(timeout_s))
        self._closed, self._lock = False, threading.Lock()
        self.name, self.has_chat_template = str(address), True

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def model(self) -> str:
        """The name of the model that is asked, as the server has it.

        Raises:
            EndpointError: The server cannot be asked, or has several models or none.
        """
        with self._lock:
            if self._model is None:
                self._model = self._only_one()
            return self._model

    def models(self) -> list[str]:
        """The names of all models that the server has.

        Raises:
            EndpointError: It cannot be asked, or answers something else.
        """
        found = self.ask("/models")
        try:
            return [each["id"].text() for each in found["data"].items()]
        except ValueError as error:
            raise self._client.error("/models", f"no list of models came: {error}") from error

    def generate(
        self, prompt: str | Sequence[MessageLike] | Sequence[int], config: GenerationConfig | None = None
    ) -> Generator[GeneratedToken, None, None]:
        """Stream what follows a prompt: messages, a text as it stands, or token ids.

        The records are those of ``Model.generate``, but that each may bring several tokens, whose ids a server does not
        tell. The last one carries ``finish_reason``, and ``stats`` if the server says how many tokens there were: times
        are as they are here, with the way to the server. Without a system message an empty one is put first.

        Args:
            prompt: Messages, whose prompt the server makes; a text or ids are continued as they stand, and all that
                comes then is the answer, with white space and tags.
            config: How to generate. What is closed early, guarded or drafted, the server decides: ``loop_guard`` and
                ``speculate`` have no effect.

        Raises:
            BadArgumentError: The prompt is none of these, or ``config`` asks for what only a loaded model does.
            EndpointError: The server cannot be reached, refuses, or answers something else.
            SessionError: The prompt is empty, or the endpoint closed.
        """
        if isinstance(prompt, Message | Mapping):
            raise BadArgumentError("one message was given; give a list of messages, such as [message]")
        config = check("config", config, GenerationConfig | None) or GenerationConfig()
        _check_can_be_asked(config)
        if isinstance(prompt, Continued):
            raise BadArgumentError(f"an answer that goes on {_AS_SERVER}")
        if not prompt:
            raise SessionError("the prompt is empty; at least one token is needed")
        asked: dict[str, object]
        if isinstance(prompt, Sequence) and isinstance(prompt[0], Message | Mapping):
            messages = messages_of(cast(Sequence[MessageLike], prompt))
            if messages[0].role != "system":
                messages = [Message("system", DEFAULT_SYSTEM_PROMPT), *messages]
            if any(each.tool_calls for each in messages):
                raise BadArgumentError("messages with tool calls are for a model that is loaded here; leave them out")
            path, asked = "/chat/completions", {"messages": [each.to_json() for each in messages]}
        else:
            path = CONTINUES
            asked = {"prompt": prompt if isinstance(prompt, str) else list(check("prompt", prompt, Sequence[int]))}
        return self._stream(path, asked, config)

    def ask(self, path: str, body: Mapping[str, object] | None = None) -> Value:
        """What the server answers at once to a GET of a path, or to a POST of ``body``.

        Raises:
            Cancelled: ``cancel`` or ``close`` was called meanwhile.
            EndpointError: The server cannot be reached, refuses, or answers something else.
            SessionError: The endpoint is closed.
        """
        self._check_open()
        return self._client.json(path, body)

    def cancel(self) -> None:
        """End what is under way, by closing its connections; the last record of a stream says ``cancelled``."""
        self._client.cancel()

    def close(self) -> None:
        """End what is under way, and ask nothing any more; closing twice does no harm."""
        self._closed = True
        self._client.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SessionError(f"{self.name}: the endpoint is closed; make another one")

    def _only_one(self) -> str:
        names = self.models()
        if len(names) == 1:
            return names[0]
        shown = ", ".join(printable(name[:100]) for name in names[:MOST_SHOWN]) + ", …" * (len(names) > MOST_SHOWN)
        raise self._client.error("/models", f"{len(names)} models found; name one with --endpoint-model: {shown}")

    def _events(self, path: str, asked: Mapping[str, object], config: GenerationConfig) -> Generator[Value, None, None]:
        """The events of an answer, of which one says why it ended."""
        self._check_open()
        body = {"model": self.model, **asked, **_settings(config), "stream": True}
        ended = False
        with closing(self._client.events(path, body)) as events:
            for event in events:
                try:
                    ended = _reason(event) is not None or ended
                    _pieces(event)
                except ValueError as error:
                    raise self._client.error(path, f"an event has another form than OpenAI's: {error}") from error
                yield event
        if not ended:
            raise self._client.error(path, "the stream ended before the answer did; see what the server says")

    def _stream(
        self, path: str, asked: Mapping[str, object], config: GenerationConfig
    ) -> Generator[GeneratedToken, None, None]:
        splitter, clock = ThinkingSplitter("raw" if path == CONTINUES else "start"), _Clock()
        reason: FinishReason = "stop"
        reasons = False  # whether the server itself tells thinking from the answer, which is not over yet
        usage: Value | None = None
        at_end: Notice | None = None
        with closing(self._events(path, asked, config)) as events:
            try:
                for event in events:
                    thought, text = _pieces(event)
                    reason, usage = _reason(event) or reason, event.get("usage") or usage
                    if thought or text:
                        clock.tick()
                    if thought and splitter.state == "start":
                        reasons, thought = True, THINK_OPEN + thought
                    if text and reasons:
                        reasons, text = False, THINK_CLOSE + text
                    pieces, notice = splitter.feed(thought + text), _notice(event)
                    if notice and _reason(event):
                        notice, at_end = None, notice
                    for channel, piece in pieces or ([(splitter.channel, "")] if notice else []):
                        yield GeneratedToken(piece, None, channel, notice=notice)
                        notice = None
            except Cancelled:
                reason = "cancelled"
        for channel, piece in splitter.flush():
            yield GeneratedToken(piece, None, channel)
        yield GeneratedToken("", None, splitter.channel, reason, self._stats(path, usage, clock), at_end)

    def _stats(self, path: str, usage: Value | None, clock: _Clock) -> GenerationStats | None:
        if usage is None:
            return None
        try:
            prompt, generated = (usage[f"{name}_tokens"].integer(0, MOST_TOKENS) for name in ("prompt", "completion"))
            details = usage.get("prompt_tokens_details")
            cached = details.get("cached_tokens") if details else None
            from_cache = cached.integer(0, prompt) if cached else 0
            drafts = (usage.get(f"{name}_tokens") for name in ("drafted", "accepted"))  # of which `mimo serve` tells
            drafted, accepted = (each.integer(0, MOST_TOKENS) if each else 0 for each in drafts)
        except ValueError as error:
            raise self._client.error(path, f"the numbers of tokens are none: {error}") from error
        first_s, rest_s = clock.seconds
        return GenerationStats(
            prompt_tokens=prompt,
            cached_tokens=from_cache,
            generated_tokens=generated,
            drafted_tokens=drafted,
            accepted_tokens=accepted,
            prefill_tps=(prompt - from_cache) / first_s if first_s else 0.0,
            decode_tps=(generated - 1) / rest_s if rest_s > AT_ONCE_S else 0.0,
            time_to_first_token_s=first_s,
            peak_rss_bytes=peak_rss_bytes(),
        )


class _Clock:
    """When the first and the last text of a stream came."""

    def __init__(self) -> None:
        self._began, self._first, self._last = time.perf_counter(), 0.0, 0.0

    def tick(self) -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds until the first text, and from there to the last; 0 where there was none."""
        return (self._first - self._began if self._first else 0.0), self._last - self._first


def _check_can_be_asked(config: GenerationConfig) -> None:
    """See that a config asks for nothing that only a loaded model does.

    Raises:
        BadArgumentError: It does.
    """
    refused = (
        (not config.thinks, f"an answer without thinking {_AS_SERVER}"),
        (config.thinking_budget is not None, f"thinking_budget {_AS_SERVER}"),
        # Servers that have one call it differently, and pass over what they lack.
        (config.repetition_penalty != 1, f"repetition_penalty {_AS_SERVER}"),
        (config.logprobs is not None, "logprobs are told by token ids, which no server tells; run the model here"),
        (bool(config.callable_tools), "tools are for a model that is loaded here; a server's own client has them, too"),
        (
            config.structure is not None and config.structure.kind != "schema",
            f"a structure other than a JSON schema {_AS_SERVER}",
        ),
        (config.timeout is not None, "timeout is for a loaded model; an endpoint has timeout_s, a server its own"),
    )
    for is_asked, reason in refused:
        if is_asked:
            raise BadArgumentError(reason)


def _settings(config: GenerationConfig) -> dict[str, Any]:
    """A config in OpenAI's words, and in those that llama-server, vLLM and SGLang have beside them.

    Where tokens are sampled, all of it is said, for servers have defaults of their own.
    """
    made: dict[str, Any] = {"temperature": config.temperature, "stream_options": {"include_usage": True}}
    if config.temperature > 0:
        made |= {"top_p": config.top_p, "top_k": config.top_k or _ALL_TOKENS, "min_p": config.min_p}
    if config.seed is not None:
        made["seed"] = config.seed
    if config.max_tokens is not None:
        made["max_tokens"] = config.max_tokens
    if config.stop:
        made["stop"] = list(config.stop)
    made |= {name: penalty for name in ("presence_penalty", "frequency_penalty") if (penalty := getattr(config, name))}
    if config.logit_bias:
        made["logit_bias"] = {str(token): bias for token, bias in config.logit_bias.items()}
    if config.structure is not None:
        schema = {"name": "answer", "schema": json.loads(config.structure.text), "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    return made


def _choice(event: Value) -> Value | None:
    """The one answer that was asked for, if an event says anything of it."""
    choices = event.get("choices")
    found = choices.items(most=1) if choices else []
    return found[0] if found else None


def _pieces(event: Value) -> tuple[str, str]:
    """What an event adds to the thinking, where the server tells it apart, and to the text."""
    if (choice := _choice(event)) is None:
        return "", ""
    delta = choice.get("delta") or choice
    thought = delta.get("reasoning_content") or delta.get("reasoning")  # the second is vLLM's newer name
    text = delta.get("content") or delta.get("text")
    return thought.text(MOST_LINE_BYTES) if thought else "", text.text(MOST_LINE_BYTES) if text else ""


def _reason(event: Value) -> FinishReason | None:
    """Why the answer ended, once it has."""
    found = choice.get("finish_reason") if (choice := _choice(event)) else None
    if found is None:
        return None
    reason = found.text()
    if reason in ("abort", "error"):
        raise ValueError(f"finish_reason {reason}, so that the answer is not whole")
    return "length" if reason == "length" else "stop"


def _notice(event: Value) -> Notice | None:
    """What `mimo serve` tells beside the text; what another server may call a notice is passed over."""
    found = choice.get("notice") if (choice := _choice(event)) else None
    try:
        return cast(Notice, found.choice(*get_args(Notice))) if found else None
    except ValueError:
        return None
