"""Prefill and decode speed of a loaded model, as medians of several runs."""

from __future__ import annotations

import platform
import threading
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from mimo_mobile.errors import ContextFullError, SessionError
from mimo_mobile.runtime.decode.decoder import peak_rss_bytes
from mimo_mobile.runtime.endpoint import Endpoint
from mimo_mobile.runtime.generation_config import GenerationConfig
from mimo_mobile.runtime.model import Model
from mimo_mobile.runtime.text.chat_template import Message

QUESTIONS = ("What is 348 + 27 * 6?", "Solve 7x + 12 = 3x + 52.", "Calculate 819 + 751 + 77 * 8.", "What is 779 - 343?")
"""Drafting is measured on these questions, since after random tokens no draft would be right."""


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What a model does on this machine.

    Attributes:
        machine: The machine's architecture and operating system.
        prompt_tokens: How many tokens each prefill has.
        generate_tokens: How many tokens each decoding has.
        repeats: How many times prefill and decoding were measured; the figures are medians.
        prefill_tps: How many prompt tokens are computed per second.
        decode_tps: How many tokens are computed per second after the prompt.
        decode_tps_slowest: The same in the slowest decoding, which shows how noisy the machine is.
        decode_tps_fastest: The same in the fastest decoding.
        time_to_first_token_s: The time from an empty cache to the first token.
        kv_bytes_per_token: How much memory one token takes in the KV cache.
        peak_rss_bytes: The most memory that this process had resident.
    """

    machine: str
    prompt_tokens: int
    generate_tokens: int
    repeats: int
    prefill_tps: float
    decode_tps: float
    decode_tps_slowest: float
    decode_tps_fastest: float
    time_to_first_token_s: float
    kv_bytes_per_token: int
    peak_rss_bytes: int


def bench(model: Model, *, prompt_tokens: int = 128, generate_tokens: int = 64, repeats: int = 5) -> BenchResult:
    """Measure a model on random tokens; a first run warms up and is not counted.

    Raises:
        ContextFullError: The tokens do not fit the model's context.
        SessionError: The model is closed or busy.
    """
    if prompt_tokens + generate_tokens > model.context_length:
        raise ContextFullError(
            f"{prompt_tokens} + {generate_tokens} tokens asked for, the context holds {model.context_length}"
        )
    random = np.random.Generator(np.random.PCG64(0))
    ids = random.integers(0, model.tokenizer.size, prompt_tokens + generate_tokens).tolist()
    prefills, decodes = [], []
    never = threading.Event()
    with model.exclusive() as backend:
        for _ in range(repeats + 1):
            started = time.perf_counter()
            backend.decode(ids[:prompt_tokens], 0, never)
            prefilled = time.perf_counter()
            for position in range(prompt_tokens, len(ids)):
                backend.decode(ids[position : position + 1], position, never)
            decodes.append(time.perf_counter() - prefilled)
            prefills.append(prefilled - started)
    prefills, decodes = prefills[1:], decodes[1:]
    return BenchResult(
        machine=f"{platform.machine()} {platform.system()}",
        prompt_tokens=prompt_tokens,
        generate_tokens=generate_tokens,
        repeats=repeats,
        prefill_tps=prompt_tokens / median(prefills),
        decode_tps=generate_tokens / median(decodes),
        decode_tps_slowest=generate_tokens / max(decodes),
        decode_tps_fastest=generate_tokens / min(decodes),
        time_to_first_token_s=median(prefills),
        kv_bytes_per_token=backend.kv_bytes_per_token,
        peak_rss_bytes=peak_rss_bytes(),
    )


@dataclass(frozen=True, slots=True)
class SpeculationResult:
    """How fast decoding is on this machine with drafts, and without them in the same process.

    Attributes:
        step_ms: How long a run of 1, 2, … rows takes.
        draft_ms: How long one draft of the MTP layer takes.
        acceptance: The share of verified tokens that were right, for each place in a draft.
        tokens_per_run: How many tokens one run of the trunk gives.
        decode_tps: How many tokens are generated per second with drafts.
        plain_decode_tps: How many tokens are generated per second without drafts.
        speedup: The median of the ratios of two neighbouring answers, one with drafts and one without.
    """

    step_ms: tuple[float, ...]
    draft_ms: float
    acceptance: tuple[float, ...]
    tokens_per_run: float
    decode_tps: float
    plain_decode_tps: float
    speedup: float


def bench_speculation(model: Model, *, generate_tokens: int = 64, repeats: int = 5) -> SpeculationResult | None:
    """Answer questions greedily with drafts and without, alternately.

    Returns None when the model ends its answers at once, as random weights may.

    Raises:
        ContextFullError: A question does not fit the model's context.
        SessionError: The model was loaded with ``speculate="off"``, or it is closed or busy.
    """
    drafting = GenerationConfig(temperature=0, max_tokens=generate_tokens)
    plain = GenerationConfig(temperature=0, max_tokens=generate_tokens, speculate=False)
    pairs, generated, accepted = [], 0, 0
    for number in range(repeats + 1):
        question = QUESTIONS[number % len(QUESTIONS)]
        prompt = [Message("user", question)] if model.has_chat_template else question
        speeds = []
        for config in (drafting, plain):
            stats = list(model.generate(prompt, config))[-1].stats
            assert stats is not None
            speeds.append(stats.decode_tps)
            if config is drafting:
                generated, accepted = generated + stats.generated_tokens, accepted + stats.accepted_tokens
        pairs.append((speeds[0], speeds[1]))
    speculator = model.speculator
    if speculator is None:
        raise SessionError("nothing drafts with this model; load it with another speculate than off")
    pairs = [pair for pair in pairs[1:] if min(pair) > 0]
    if not pairs:
        return None
    return SpeculationResult(
        step_ms=tuple(round(1e3 * seconds, 3) for seconds in speculator.costs.rows_s),
        draft_ms=1e3 * speculator.costs.draft_s,
        acceptance=tuple(round(right / verified, 3) for verified, right in speculator.counts if verified),
        tokens_per_run=generated / max(1, generated - accepted),
        decode_tps=median(pair[0] for pair in pairs),
        plain_decode_tps=median(pair[1] for pair in pairs),
        speedup=median(first / second for first, second in pairs),
    )


@dataclass(frozen=True, slots=True)
class EndpointResult:
    """How fast a server's answers arrive here, with all that is on the way: a queue, a network, other users.

    Attributes:
        endpoint: The server's address.
        model: The model's name there.
        repeats: How many questions were measured, one after the other; the figures are medians.
        prompt_tokens: How many tokens the prompt of a question has, as the server counts them.
        generated_tokens: How many tokens an answer has, as the server counts them.
        client_time_to_first_token_s: The time from the question to the first text.
        client_decode_tps: How many tokens arrive per second after the first text.
        client_decode_tps_slowest: The same in the slowest answer.
        client_decode_tps_fastest: The same in the fastest answer.
    """

    endpoint: str
    model: str
    repeats: int
    prompt_tokens: int
    generated_tokens: int
    client_time_to_first_token_s: float
    client_decode_tps: float
    client_decode_tps_slowest: float
    client_decode_tps_fastest: float


def bench_endpoint(endpoint: Endpoint, *, generate_tokens: int = 64, repeats: int = 5) -> EndpointResult:
    """Ask a server questions that it has not been asked before, greedily; a first one warms up and is not counted.

    Raises:
        EndpointError: The server cannot be reached, or refuses.
        SessionError: It does not say how many tokens its answers have, or gives them all at once.
    """
    config = GenerationConfig(temperature=0, max_tokens=generate_tokens)
    found = []
    for number in range(repeats + 1):  # another question each time, which no server has kept
        stats = list(endpoint.generate([Message("user", f"What is {number + 348} + 27 * 6?")], config))[-1].stats
        if stats is None:
            raise SessionError(f"{endpoint.name}: it does not say how many tokens an answer has, so speed is unknown")
        found.append(stats)
    speeds = [each.decode_tps for each in found[1:]]
    if not all(speeds):
        raise SessionError(f"{endpoint.name}: an answer came all at once, so the speed of its tokens is unknown")
    return EndpointResult(
        endpoint=endpoint.name,
        model=endpoint.model,
        repeats=repeats,
        prompt_tokens=int(median(each.prompt_tokens for each in found[1:])),
        generated_tokens=int(median(each.generated_tokens for each in found[1:])),
        client_time_to_first_token_s=median(each.time_to_first_token_s for each in found[1:]),
        client_decode_tps=median(speeds),
        client_decode_tps_slowest=min(speeds),
        client_decode_tps_fastest=max(speeds),
    )
