"""What a generation is asked for, and what it yields."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mimo_mobile.arguments import check_fields
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.mimo7b import SAMPLING_TEMPERATURE, SAMPLING_TOP_P
from mimo_mobile.runtime.structure import Structure
from mimo_mobile.runtime.text.thinking import Channel
from mimo_mobile.runtime.text.tools import Tool, ToolCall, chosen, structure_of

LEAST_TEMPERATURE = 1e-6
"""A smaller one is greedy for every purpose, and would overflow."""

MOST_PENALTY = 100.0
"""A repetition penalty beyond this, or below its inverse, has no more effect and might overflow."""

MOST_SUBTRACTED = 2.0
"""OpenAI's limit of presence and frequency penalties, above and below 0."""

MOST_LOGPROBS = 20
"""OpenAI's limit of the likeliest tokens that are told of each place."""

MOST_BIAS = 100.0
"""OpenAI's limit; beyond it a token comes always or never."""

FinishReason = Literal["stop", "length", "cancelled"]

Notice = Literal["turns_dropped", "loop_closed", "context_full", "timed_out"]
"""What a stream tells beside its text: the prompt leaves out the oldest turns of a conversation, the thinking is closed
because it repeats itself, the context is full and holds no further token, or the time is up."""

MOST_ANSWER = 1024
"""Thinking leaves a quarter of the tokens to the answer, and so many at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to generate; the defaults are what Xiaomi recommends for MiMo-7B.

    The command line's options are made from these attributes and their descriptions.

    Attributes:
        temperature: How freely tokens are sampled; 0 takes the most likely one each time (greedy).
        top_p: Only the most likely tokens that together reach this probability are sampled from; 1 is off.
        top_k: Only so many of the most likely tokens are sampled from; 0 is off.
        min_p: Only tokens at least this share as likely as the most likely one are sampled from; 0 is off.
        repetition_penalty: Logits of tokens that the prompt or the text holds are divided by this where they are above
            0, and multiplied below, as in transformers; 1 is off.
        presence_penalty: What is subtracted from the logits of tokens that the text holds, thinking included, but not
            of those that only the prompt holds; from -2 to 2, as in OpenAI's API.
        frequency_penalty: The same, but subtracted as often as the token occurs in the text.
        logit_bias: What is added to the logits of single tokens, by their ids, from -100 to 100, as in OpenAI's API.
        logprobs: How many of the likeliest tokens each record tells beside its own, up to 20, with the logarithms of
            their probabilities; 0 tells that of its own only. By default none are computed.
        seed: The same seed draws the same random numbers, which give the same text again in a new session on the same
            machine, with the same file, versions and options. Drafts change it by rounding at most. By default a seed
            is drawn.
        max_tokens: How many tokens thinking and answer may have together; by default what the context leaves.
        stop: The generation ends before any of these texts, in the thinking, too.
        thinking: Whether the model thinks before it answers; without, the thinking block is closed before it begins.
        thinking_budget: After how many tokens the thinking is closed, so that the answer follows. It is closed earlier
            where less than a quarter of the tokens, or 1024, would be left to the answer; without a budget that holds
            where ``max_tokens`` is left out, too.
        loop_guard: Whether the thinking is closed when it repeats itself without an end.
        timeout: After how many seconds the generation is ended, as if it were cancelled; what it waits for its turn
            counts. By default it takes as long as it takes.
        speculate: Whether drafts are used, which change the speed, and the text by rounding at most.
        structure: What the answer must be, such as JSON of a schema. The thinking before it is free; a text or ids as a
            prompt are followed by the answer at once.
        tools: Functions that the answer may call, in OpenAI's form: ``{"type": "function", "function": {"name": …,
            "description": …, "parameters": …}}``. Calls keep to the schema in ``parameters``, as far as a grammar can
            express it; with ``"strict": True`` beside it, what no grammar can express is an error.
        tool_choice: Whether it calls any: ``auto``, ``none``, ``required``, or the name of the tool that it must call.
        parallel_tool_calls: Whether it may make several calls; where ``tool_choice`` names a tool, it makes one.
    """

    temperature: float = SAMPLING_TEMPERATURE
    top_p: float = SAMPLING_TOP_P
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    thinking: bool = True
    thinking_budget: int | None = None
    loop_guard: bool = True
    timeout: float | None = None
    speculate: bool = True
    structure: Structure | None = None
    tools: Sequence[Mapping[str, object]] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BadArgumentError: One of them has another type, or is out of its range.
        """
        check_fields(self)
        checks = {
            "temperature": self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < math.inf,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": 1 / MOST_PENALTY <= self.repetition_penalty <= MOST_PENALTY,
            "presence_penalty": abs(self.presence_penalty) <= MOST_SUBTRACTED,
            "frequency_penalty": abs(self.frequency_penalty) <= MOST_SUBTRACTED,
            "logit_bias": all(token >= 0 and abs(bias) <= MOST_BIAS for token, bias in (self.logit_bias or {}).items()),
            "logprobs": self.logprobs is None or 0 <= self.logprobs <= MOST_LOGPROBS,
            "seed": self.seed is None or self.seed >= 0,
            "max_tokens": self.max_tokens is None or self.max_tokens >= 1,
            "stop": all(self.stop),
            "timeout": self.timeout is None or 0 < self.timeout <= threading.TIMEOUT_MAX,
            "thinking_budget": self.thinking_budget is None or self.thinking_budget >= 0,
        }
        for name, good in checks.items():
            if not good:
                raise BadArgumentError(f"{name} {getattr(self, name)!r} is out of range")
        if self.callable_tools and self.structure is not None:
            raise BadArgumentError("structure and tools both say what the answer must be; give one of them")

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that the answer may call."""
        return chosen(self.tools, self.tool_choice)

    @property
    def restriction(self) -> Structure | None:
        """What the answer must be, tools considered."""
        tools = self.callable_tools
        return structure_of(tools, self.tool_choice, several=self.parallel_tool_calls) if tools else self.structure

    @property
    def thinks(self) -> bool:
        """Whether thinking comes before the answer."""
        return self.thinking and self.thinking_budget != 0

    def most_tokens(self, room: int) -> int:
        """How many tokens thinking and answer may have where the context leaves ``room``."""
        return room if self.max_tokens is None else min(room, self.max_tokens)

    def most_thinking(self, room: int) -> int | None:
        """After how many tokens the thinking is closed where the context leaves ``room``; None when never."""
        if self.thinking_budget is None and self.max_tokens is not None:
            return None
        most = self.most_tokens(room)
        left = most - min(most // 4, MOST_ANSWER)
        return left if self.thinking_budget is None else min(self.thinking_budget, left)


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What a generation took.

    Attributes:
        prompt_tokens: How many tokens the whole prompt has.
        cached_tokens: How many of them were in the KV cache from the turn before.
        generated_tokens: How many tokens thinking and answer have, forced ones included.
        drafted_tokens: How many drafts were verified.
        accepted_tokens: How many of those were right.
        prefill_tps: Prompt tokens that were computed, over ``time_to_first_token_s``.
        decode_tps: Tokens after the first, over the time from the first to the last. It includes what the reader of
            the stream takes. It is 0 where nothing can be told, as of a server's answer that came all at once.
        time_to_first_token_s: Seconds from the first read of the stream until the first token was chosen.
        peak_rss_bytes: The largest resident memory of this process so far.
        rested_s: Seconds of rest between tokens, because the device was hot or power is saved.
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
    rested_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One step of a generation.

    Attributes:
        text: The new text of ``channel``, in whole characters; there may be none yet.
        token_id: The token; None in records that only bring held-back text or the end.
        channel: ``thinking`` or ``answer``.
        finish_reason: In the last record: ``stop`` (by an end token or stop string), ``length`` or ``cancelled``.
        stats: What the generation took, in the last record.
        notice: What happened here: ``turns_dropped`` in a record before the first token, when the prompt leaves out the
            oldest turns of a conversation; ``loop_closed`` with the first token that closes thinking which repeats
            itself; ``context_full`` in the last record, when nothing more fits into the context; ``timed_out`` in that
            of a generation that ``timeout`` ended.
        tool_call: A call that is complete with this record; its text is not among the answer's.
        logprob: The natural logarithm of the token's probability, where ``GenerationConfig.logprobs`` asks for it: by
            the model alone, before temperature, filters, penalties, biases and whatever restricts the answer.
        top_logprobs: The ids of the likeliest tokens by the model alone, with their logarithms, the likeliest first.
    """

    text: str
    token_id: int | None
    channel: Channel
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None
    notice: Notice | None = None
    tool_call: ToolCall | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
