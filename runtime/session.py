"""One small API over both backends: messages or a prompt in, a stream of tokens out.

A ``Backend`` turns token ids into logits and keeps a KV cache; everything else (templates, sampling, stop
strings, thinking, statistics) happens here, once.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import ContextFullError, SessionError
from mimo_mobile.mimo7b import SAMPLING_TEMPERATURE, SAMPLING_TOP_P
from mimo_mobile.runtime.chat import CLOSE_THINKING, Message, render
from mimo_mobile.runtime.detokenizer import Detokenizer, StopStrings
from mimo_mobile.runtime.reasoning import Channel, ThinkingSplitter
from mimo_mobile.runtime.sampling import sample
from mimo_mobile.runtime.tokenizer import TextTokenizer

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to generate; the defaults are what Xiaomi recommends for MiMo-7B.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus sampling; 1 is off.
        top_k: 0 is off.
        min_p: 0 is off.
        seed: Same seed, same text on the same backend; None draws one.
        max_tokens: Thinking and answer together.
        stop: Generation ends before any of these texts, in thinking too.
        thinking: False closes the thinking block before it begins.
        thinking_budget: Tokens after which thinking is closed and the answer follows; None is no limit.
    """

    temperature: float = SAMPLING_TEMPERATURE
    top_p: float = SAMPLING_TOP_P
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 2048
    stop: Sequence[str] = ()
    thinking: bool = True
    thinking_budget: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One of them is out of its range.
        """
        checks = {
            "temperature": self.temperature >= 0,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p <= 1,
            "seed": self.seed is None or self.seed >= 0,
            "max_tokens": self.max_tokens >= 1,
            "stop": not isinstance(self.stop, str) and all(self.stop),
            "thinking_budget": self.thinking_budget is None or self.thinking_budget >= 0,
        }
        for name, good in checks.items():
            if not good:
                raise ValueError(f"{name} {getattr(self, name)!r} is out of range")


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What a generation took.

    Attributes:
        prompt_tokens: Of the whole prompt.
        cached_tokens: Those of it that were in the KV cache from the turn before.
        generated_tokens: Thinking, answer and forced tokens.
        prefill_tps: Prompt tokens computed per second.
        decode_tps: Tokens after the first per second.
        time_to_first_token_s: From the call to the first token.
        peak_rss_bytes: Of this process, so far.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    prefill_tps: float
    decode_tps: float
    time_to_first_token_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One step of a generation.

    Attributes:
        text: New text of ``channel``: whole characters, possibly none yet.
        token_id: The token; None in records that only bring held-back text or the end.
        channel: ``thinking`` or ``answer``.
        finish_reason: In the last record only: ``stop`` (end token or stop string), ``length`` or ``cancelled``.
        stats: In the last record only.
    """

    text: str
    token_id: int | None
    channel: Channel
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None


class Backend(Protocol):
    """A loaded model with one KV cache. Positions from 0; not thread safe, but for ``cancel``."""

    @property
    def context_length(self) -> int:
        """Tokens that the KV cache holds."""

    def decode(self, ids: Sequence[int], position: int, cancel: threading.Event) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``, forgetting later entries; the logits [V] of the last, until the next call.

        Raises:
            Cancelled: ``cancel`` was set meanwhile; the cache holds what is before ``position``.
            SessionError: The backend failed.
        """

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0.

        Raises:
            SessionError: The backend failed.
        """

    def cancel(self) -> None:
        """End a running ``decode`` soon; called from any thread, after the event was set."""

    def close(self) -> None:
        """Free the memory."""


class Cancelled(Exception):
    """A computation was cut off; control flow between a backend and the session, never seen by users."""


class Session:
    """A loaded model and one conversation's KV cache, as a context manager.

    What a prompt has in common with the tokens of the generation before is not computed again. One generation at
    a time; ``cancel`` may be called from any thread.
    """

    def __init__(self, backend: Backend, tokenizer: TextTokenizer, chat_template: str | None) -> None:
        """Join a backend with its tokenizer; ``runtime.load`` does it."""
        self.tokenizer = tokenizer
        self._backend: Backend | None = backend
        self._chat_template = chat_template
        self._cached: list[int] = []
        self._busy = threading.Lock()
        self._cancelled = threading.Event()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def context_length(self) -> int:
        """Tokens of prompt and generation together."""
        return self._opened().context_length

    def close(self) -> None:
        """Cancel, wait for a running generation, and free the model; closing twice does no harm.

        A generation that is suspended in this same thread must be closed first.
        """
        self.cancel()
        with self._busy:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    def cancel(self) -> None:
        """End the running generation within one token, during prefill too; its last record says ``cancelled``."""
        self._cancelled.set()
        if self._backend is not None:
            self._backend.cancel()

    def encode_prompt(self, prompt: str | Sequence[Message], config: GenerationConfig) -> list[int]:
        """Token ids of a prompt: messages through the chat template, a text as it stands.

        Raises:
            SessionError: The model has no chat template, or it refuses the messages.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if self._chat_template is None:
            raise SessionError("this model has no chat template; give a text instead of messages")
        return self.tokenizer.encode(render(self._chat_template, prompt, thinking=_thinks(config)))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] after each of ``ids``; the KV cache's content is lost.

        Raises:
            ContextFullError: More ids than the context holds.
            SessionError: No ids, the session is closed or busy.
        """
        with self.exclusive() as backend:
            self._check_length(ids, backend)
            return backend.all_logits(ids)

    def generate(
        self, prompt: str | Sequence[Message] | Sequence[int], config: GenerationConfig | None = None
    ) -> Iterator[GeneratedToken]:
        """Stream what follows a prompt: messages, a text as it stands, or token ids.

        The last record carries ``finish_reason`` and ``stats``. Closing the iterator early ends the generation.

        Raises:
            ContextFullError: The prompt alone fills the context.
            SessionError: The session is closed or busy, or the backend failed.
        """
        config = config or GenerationConfig()
        if not self._busy.locked():  # else the cancelling of another generation would be undone
            self._cancelled.clear()
        state: Literal["start", "answer"] = "start"
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
        elif prompt and isinstance(prompt[0], Message):
            ids = self.encode_prompt(cast(Sequence[Message], prompt), config)
            state = "start" if _thinks(config) else "answer"
        else:
            ids = list(cast(Sequence[int], prompt))
        self._check_length(ids, self._opened(), room=1)
        return self._run(ids, config, ThinkingSplitter(state))

    def _run(self, ids: list[int], config: GenerationConfig, splitter: ThinkingSplitter) -> Iterator[GeneratedToken]:
        with self._locked() as backend:
            started = time.perf_counter()
            generation = _Generation(self.tokenizer, config, splitter)
            cached = self._common_prefix(ids)
            pending, position = ids[cached:], cached
            first_s = 0.0
            reason: FinishReason = "length"
            try:
                while True:
                    self._cached = self._cached[:position]
                    logits = backend.decode(pending, position, self._cancelled)
                    self._cached += pending
                    position += len(pending)
                    token = generation.next(logits)
                    first_s = first_s or time.perf_counter() - started
                    if token is None:
                        reason = "stop"
                        break
                    yield from generation.emit(token)
                    if generation.stopped:
                        reason = "stop"
                        break
                    if generation.count >= config.max_tokens or position + 1 >= backend.context_length:
                        break
                    pending = [token]
            except Cancelled:
                reason = "cancelled"
            ended_s = time.perf_counter() - started
            stats = GenerationStats(
                prompt_tokens=len(ids),
                cached_tokens=cached,
                generated_tokens=generation.count,
                prefill_tps=(len(ids) - cached) / first_s if first_s else 0.0,
                decode_tps=(generation.count - 1) / (ended_s - first_s) if generation.count > 1 else 0.0,
                time_to_first_token_s=first_s,
                peak_rss_bytes=peak_rss_bytes(),
            )
            yield from generation.end(reason, stats)

    def _common_prefix(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` are in the cache; at least one is left to compute."""
        count = 0
        for old, new in zip(self._cached, ids[:-1], strict=False):
            if old != new:
                break
            count += 1
        return count

    def _check_length(self, ids: Sequence[int], backend: Backend, room: int = 0) -> None:
        if not ids:
            raise SessionError("the prompt is empty; at least one token is needed")
        if len(ids) + room > backend.context_length:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens, the context holds {backend.context_length} with the answer;"
                " shorten it, or load with a larger context_length"
            )

    def _opened(self) -> Backend:
        if self._backend is None:
            raise SessionError("the session is closed")
        return self._backend

    @contextmanager
    def exclusive(self) -> Iterator[Backend]:
        """The backend for one caller at a time, for measurements; the KV cache's content is lost.

        Raises:
            SessionError: The session is closed or busy.
        """
        with self._locked() as backend:
            self._cached = []
            yield backend

    @contextmanager
    def _locked(self) -> Iterator[Backend]:
        """A second caller gets an error, not a queue."""
        backend = self._opened()
        if not self._busy.acquire(blocking=False):
            raise SessionError("the session is busy with another generation; cancel it, or load a second session")
        try:
            yield backend
        finally:
            self._busy.release()


class _Generation:
    """What changes from token to token: random numbers, held-back text, thinking."""

    def __init__(self, tokenizer: TextTokenizer, config: GenerationConfig, splitter: ThinkingSplitter) -> None:
        self._tokenizer, self._config, self._splitter = tokenizer, config, splitter
        self._random = np.random.Generator(np.random.PCG64(config.seed))
        self._detokenizer, self._stops = Detokenizer(), StopStrings(config.stop)
        self._forced: deque[int] = deque()
        self._closed = False
        self.count = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._stops.stopped

    def next(self, logits: NDArray[np.float32]) -> int | None:
        """The next token, sampled or forced; None at the end of the turn."""
        budget = self._config.thinking_budget
        if self._splitter.state == "thinking" and not self._closed and budget is not None and self.count >= budget:
            self._closed = True
            self._forced.extend(self._tokenizer.encode(CLOSE_THINKING))
        if self._forced:
            return self._forced.popleft()
        config = self._config
        token = sample(
            logits[: self._tokenizer.size],  # what is beyond is padding
            self._random.random(),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
        )
        return None if token in self._tokenizer.stop_ids else token

    def emit(self, token: int) -> Iterator[GeneratedToken]:
        """The records of one token: one, or two when it ends the thinking and begins the answer."""
        self.count += 1
        text = self._stops.feed(self._detokenizer.feed(self._tokenizer.token_bytes(token)))
        pieces = self._splitter.feed(text) or [(self._channel(), "")]
        for index, (channel, piece) in enumerate(pieces):
            yield GeneratedToken(piece, token if index == 0 else None, channel)

    def end(self, reason: FinishReason, stats: GenerationStats) -> Iterator[GeneratedToken]:
        """What was held back, and the last record."""
        text = self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
        for channel, piece in [*self._splitter.feed(text), *self._splitter.flush()]:
            yield GeneratedToken(piece, None, channel)
        yield GeneratedToken("", None, self._channel(), reason, stats)

    def _channel(self) -> Channel:
        return "answer" if self._splitter.state == "answer" else "thinking"


def peak_rss_bytes() -> int:
    """The largest resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _thinks(config: GenerationConfig) -> bool:
    return config.thinking and config.thinking_budget != 0
