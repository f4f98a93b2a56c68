"""What a generation is asked for, and what it yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mimo_mobile.mimo7b import SAMPLING_TEMPERATURE, SAMPLING_TOP_P
from mimo_mobile.runtime.text.thinking import Channel

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to generate; the defaults are what Xiaomi recommends for MiMo-7B.

    Attributes:
        temperature: How freely tokens are chosen; 0 always takes the likeliest one (greedy decoding).
        top_p: Choose among the likeliest tokens that have this probability together; 1 is off.
        top_k: Choose among so many of the likeliest tokens; 0 is off.
        min_p: Leave out tokens that are less likely than this share of the likeliest one; 0 is off.
        seed: The same seed gives the same text on the same backend; None draws a seed.
        max_tokens: The most tokens of thinking and answer together.
        stop: Texts before which the generation ends, in thinking too.
        thinking: False closes the thinking block before it begins.
        thinking_budget: After so many tokens the thinking is closed and the answer follows; None is no limit.
        speculate: False generates without drafts, which changes the speed only.
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
        prompt_tokens: How many tokens the whole prompt has.
        cached_tokens: How many of them were in the KV cache from the turn before.
        generated_tokens: How many tokens were generated: thinking, answer and forced ones.
        drafted_tokens: How many drafts were verified.
        accepted_tokens: How many of them were right.
        prefill_tps: How many tokens of the prompt were computed per second.
        decode_tps: How many tokens after the first were generated per second.
        time_to_first_token_s: The time from the call to the first token.
        peak_rss_bytes: The largest resident memory of this process so far.
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
        finish_reason: In the last record: ``stop`` (by an end token or stop string), ``length`` or ``cancelled``.
        stats: What the generation took, in the last record.
    """

    text: str
    token_id: int | None
    channel: Channel
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None
