"""What a generation is asked for, yields and keeps from token to token. Knows logits and text, no backend."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.mimo7b import SAMPLING_TEMPERATURE, SAMPLING_TOP_P
from mimo_mobile.runtime.chat import CLOSE_THINKING
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
        speculate: False does without drafts, which changes the speed only.
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
    speculate: bool = True

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
        drafted_tokens: Drafts that were verified.
        accepted_tokens: Those of them that were right.
        prefill_tps: Prompt tokens computed per second.
        decode_tps: Tokens after the first per second.
        time_to_first_token_s: From the call to the first token.
        peak_rss_bytes: Of this process, so far.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
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


class Generation:
    """One generation under way: random numbers, held-back text, thinking."""

    def __init__(self, tokenizer: TextTokenizer, config: GenerationConfig, splitter: ThinkingSplitter) -> None:
        self._tokenizer, self._config, self._splitter = tokenizer, config, splitter
        self._random = np.random.Generator(np.random.PCG64(config.seed))
        self._detokenizer, self._stops = Detokenizer(), StopStrings(config.stop)
        self._forced: deque[int] = deque()
        self._uniforms: deque[float] = deque()
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
        token = self._sample(logits[: self._tokenizer.size], 0)  # what is beyond is padding
        self._uniforms.popleft()
        return None if token in self._tokenizer.stop_ids else token

    def guess(self, logits: NDArray[np.float32], ahead: int = 0) -> int:
        """What the next token but ``ahead`` would be if these were its logits: by the random number it will have.

        Token and guess come of one random number, so that they agree as often as their distributions overlap, about,
        while the tokens themselves are those of a generation that guesses nothing.
        """
        return self._sample(logits, ahead)

    def _sample(self, logits: NDArray[np.float32], ahead: int) -> int:
        while len(self._uniforms) <= ahead:
            self._uniforms.append(self._random.random())
        config = self._config
        return sample(
            logits,
            self._uniforms[ahead],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
        )

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
