"""What models answer on the simulator of an NPU, and on the CPU."""

from __future__ import annotations

from pathlib import Path

from mimo_mobile.runtime import GenerationConfig, Message, Model, load

CONTEXT = 320
"""Tokens that MiMo-nano is compiled for."""

GREEDY = GenerationConfig(temperature=0, max_tokens=12)


def ids_of(session: Model, question: str, config: GenerationConfig = GREEDY) -> list[int]:
    tokens = session.generate([Message("user", question)], config)
    return [token.token_id for token in tokens if token.token_id is not None]


def expected(model: Path, question: str, config: GenerationConfig = GREEDY) -> list[int]:
    with load(model, ep="cpu", speculate="off") as session:
        return ids_of(session, question, config)


def verdicts(cache: Path) -> list[Path]:
    """What the cache keeps of the NPU's self-tests."""
    return [file for file in cache.glob("selftest/*.json") if not file.name.startswith("cpu-")]
