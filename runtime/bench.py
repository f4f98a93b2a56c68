"""Prefill and decode speed of a loaded model, as medians of several runs."""

from __future__ import annotations

import platform
import threading
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from mimo_mobile.errors import ContextFullError
from mimo_mobile.runtime.session import Session, peak_rss_bytes


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What a model does on this machine.

    Attributes:
        machine: Architecture and system.
        prompt_tokens: Of each prefill.
        generate_tokens: Of each decode.
        repeats: Runs, of which the figures are medians.
        prefill_tps: Prompt tokens per second.
        decode_tps: Tokens per second after the prompt.
        decode_tps_slowest: Of the slowest run, to show how noisy the machine is.
        decode_tps_fastest: Of the fastest run.
        time_to_first_token_s: From an empty cache.
        kv_bytes_per_token: Memory of one token in the KV cache.
        peak_rss_bytes: Of this process.
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


def bench(session: Session, *, prompt_tokens: int = 128, generate_tokens: int = 64, repeats: int = 5) -> BenchResult:
    """Measure a session on random tokens; a first run warms up and is not counted.

    Raises:
        ContextFullError: The tokens do not fit the session's context.
        SessionError: The session is closed or busy.
    """
    if prompt_tokens + generate_tokens > session.context_length:
        raise ContextFullError(
            f"{prompt_tokens} + {generate_tokens} tokens asked for, the context holds {session.context_length}"
        )
    random = np.random.Generator(np.random.PCG64(0))
    ids = random.integers(0, session.tokenizer.size, prompt_tokens + generate_tokens).tolist()
    prefills, decodes = [], []
    never = threading.Event()
    with session.exclusive() as backend:
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
