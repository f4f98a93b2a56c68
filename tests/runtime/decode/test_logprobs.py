"""Probabilities that are told of tokens are those of the model alone, with drafts and without.

The model is in float32, so that a run of one token and one of many give almost the same numbers: llama.cpp rounds the
inputs of quantized weights to 8 bits, where the last digit of a sum moves unlikely tokens by a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.errors import NumericsError
from mimo_mobile.mimo7b import THINK_CLOSE
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message, Model, load
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.text.thinking import ThinkingSplitter

QUESTION = [Message("user", "What is 161 + 107 * 7 + 210?")]
GREEDY = GenerationConfig(temperature=0, max_tokens=40, logprobs=5)


@pytest.fixture(scope="module", params=["nano_gguf", "nano_onnx"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """MiMo-nano in float32 with drafts, for one engine after the other."""
    path: Path = request.getfixturevalue(request.param)
    with load(path, threads=1, speculate="mtp", kv_dtype="f32") as loaded:
        yield loaded


def steps_of(model: Model, config: GenerationConfig) -> list[GeneratedToken]:
    tokens = list(model.generate(QUESTION, config))
    assert tokens[-1].stats is not None and (tokens[-1].stats.accepted_tokens > 0) is config.speculate
    assert all(each.logprob is None and not each.top_logprobs for each in tokens if each.token_id is None)
    return [each for each in tokens if each.token_id is not None]


@pytest.mark.parametrize(
    "config",
    [
        GREEDY,
        replace(GREEDY, speculate=False),
        replace(GREEDY, temperature=1.0, top_k=3, seed=5, logit_bias={22: 12.0}, presence_penalty=1.0),
        replace(GREEDY, thinking_budget=5),  # whose end is forced
    ],
)
def test_probabilities_are_those_of_the_models_logits(model: Model, config: GenerationConfig) -> None:
    steps = steps_of(model, config)
    ids, prompt = [each.token_id for each in steps if each.token_id is not None], model.encode_prompt(QUESTION, config)
    logits = model.logits([*prompt, *ids])[len(prompt) - 1 : -1, : model.tokenizer.size]
    expected = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    tolerance = {"atol": 0.0002, "rtol": 0.0001}  # the rows of one run and those of another differ by rounding
    np.testing.assert_allclose([each.logprob for each in steps], expected[range(len(ids)), ids], **tolerance)
    for step, row in zip(steps, expected, strict=True):
        told = dict(step.top_logprobs)
        assert list(told.values()) == sorted(told.values(), reverse=True) and len(told) == 5
        np.testing.assert_allclose(list(told.values()), np.sort(row)[:-6:-1], **tolerance)
        np.testing.assert_allclose(list(told.values()), row[list(told)], **tolerance)
        assert step.token_id is not None and told.get(step.token_id, step.logprob) == step.logprob
    if config.thinking_budget:
        assert min(expected[range(len(ids)), ids]) < -3 and THINK_CLOSE in model.tokenizer.decode(ids)


def test_no_more_is_told_than_was_asked_for_and_no_token_changes(model: Model) -> None:
    plain, own = (steps_of(model, replace(GREEDY, logprobs=most)) for most in (None, 0))
    assert [each.token_id for each in plain] == [each.token_id for each in own]
    assert {(each.logprob, each.top_logprobs) for each in plain} == {(None, ())}
    assert all(each.logprob is not None and each.logprob <= 0 and each.top_logprobs == () for each in own)


def test_infinite_logits_are_an_error_where_a_token_is_forced_too(model: Model) -> None:
    config = GenerationConfig(thinking_budget=1, logprobs=2)
    generation = Generation(model.tokenizer, config, ThinkingSplitter("thinking"))
    good = np.zeros(model.tokenizer.size, np.float32)
    first = generation.next(good)
    assert first is not None and [each.logprob for each in generation.emit(first)] == [-np.log(len(good))]
    with pytest.raises(NumericsError, match="NaN or infinity for token 2"):
        generation.next(np.full(len(good), np.inf, np.float32))
