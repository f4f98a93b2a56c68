"""What drafts may change: the rounding of rows that are computed together, and by how much."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.runtime import GenerationConfig, Message, Model, load
from mimo_mobile.runtime.backend import Backend

TEXT = "What is 348 + 27 * 6? Solve 7x + 12 = 3x + 52. 3 + 4 = 7, 5 + 9 = 14, 12 * 12 = 144, 99 - 45 = 54. "
MOST_LOGIT, MOST_VARIATION = 0.5, 0.03
"""Three times what docs/mtp.md tells of x86-64, since other CPUs have other kernels."""


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    made: NDArray[np.float64] = weights / weights.sum(-1, keepdims=True)
    return made


def in_rows_of(backend: Backend, ids: list[int], rows: int) -> NDArray[np.float32]:
    """The logits after each id but the first four, computed so many at a time."""
    never, made = threading.Event(), []
    backend.decode(ids[:4], 0, never)
    for start in range(4, len(ids) - rows + 1, rows):
        made.append(backend.decode(ids[start : start + rows], start, never, rows).copy())
    return np.concatenate(made)


@pytest.mark.parametrize(
    ("kind", "kv_dtype"), [("gguf", None), ("gguf", "int8"), ("gguf", "f32"), ("onnx", None), ("onnx", "int8")]
)
def test_rows_that_are_computed_together_differ_by_rounding_only(
    nano_q4: dict[str, Path], kind: str, kv_dtype: Any
) -> None:
    with load(nano_q4[kind], threads=1, speculate="off", kv_dtype=kv_dtype) as model, model.exclusive() as backend:
        ids = model.tokenizer.encode(TEXT)
        alone = in_rows_of(backend, ids, 1)
        assert np.array_equal(in_rows_of(backend, ids, 1), alone)
        for rows in (2, 3, 8):
            together = in_rows_of(backend, ids, rows)
            one = alone[: len(together)]
            assert np.abs(together - one).max() <= MOST_LOGIT
            assert np.abs(probabilities(together) - probabilities(one)).sum(-1).max() / 2 <= MOST_VARIATION
            best = np.sort(one)[:, -2:]
            flipped = together.argmax(-1) != one.argmax(-1)
            assert (best[flipped, 1] - best[flipped, 0] <= 2 * MOST_LOGIT).all()


def sampled(model: Model, seed: int) -> list[int | None]:
    config = GenerationConfig(temperature=0.8, seed=seed, max_tokens=40)
    tokens = model.session().generate([Message("user", f"What is {seed} + 27 * 6?")], config)
    return [token.token_id for token in tokens]


@pytest.mark.parametrize("kind", ["gguf", "onnx"])
@pytest.mark.parametrize("speculate", ["off", "mtp", "ngram"])
def test_the_same_seed_gives_the_same_text_again(nano_q4: dict[str, Path], kind: str, speculate: Any) -> None:
    texts = []
    for _ in range(2):
        with load(nano_q4[kind], threads=1, speculate=speculate) as model:
            texts.append([sampled(model, seed) for seed in range(10, 500, 120)])
    assert texts[0] == texts[1] and len({tuple(text) for text in texts[0]}) >= 3
