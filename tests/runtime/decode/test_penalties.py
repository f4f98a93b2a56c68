"""Penalties and logit biases do what transformers, llama.cpp and OpenAI do, with drafts and without."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.errors import BadArgumentError
from mimo_mobile.runtime import GenerationConfig, Message, Model
from mimo_mobile.runtime.decode.penalties import Penalties

SIZE = 40
PROMPT, TEXT = [3, 5, 5, 39], [7, 3, 0, 7, 7]
BIASED = GenerationConfig(repetition_penalty=1.3, logit_bias={5: -2.5, 6: 4.0, 0: 100.0})


def logits() -> NDArray[np.float32]:
    found = np.random.Generator(np.random.PCG64(11)).normal(0, 4, SIZE).astype(np.float32)
    found[[3, 7]] = 0.0, -1.5
    return found


def by_llama_cpp(logits: NDArray[np.float32], config: GenerationConfig) -> NDArray[np.float32]:
    """What llama.cpp's own samplers make of the logits, in the order of its common/sampling.cpp.

    Its penalties count the prompt, too; OpenAI's, which are subtracted, do not, so they are a sampler of their own.
    """
    biases = config.logit_bias or {}
    pairs = (llama_cpp.llama_logit_bias * len(biases))(*biases.items())
    frequency, presence = config.frequency_penalty, config.presence_penalty
    samplers = [
        (llama_cpp.llama_sampler_init_logit_bias(SIZE, len(biases), pairs), PROMPT + TEXT),
        (llama_cpp.llama_sampler_init_penalties(SIZE, 1000, config.repetition_penalty, 0.0, 0.0), PROMPT + TEXT),
        (llama_cpp.llama_sampler_init_penalties(SIZE, 1000, 1.0, frequency, presence), TEXT),
    ]
    data = (llama_cpp.llama_token_data * SIZE)(*((token, value, 0.0) for token, value in enumerate(logits)))
    array = llama_cpp.llama_token_data_array(data, SIZE, -1, False)
    for sampler, seen in samplers:
        for token in seen:
            llama_cpp.llama_sampler_accept(sampler, token)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        llama_cpp.llama_sampler_free(sampler)
    found = {data[place].id: data[place].logit for place in range(SIZE)}
    return np.array([found[token] for token in range(SIZE)], np.float32)


def by_formula(logits: NDArray[np.float32], config: GenerationConfig) -> list[float]:
    """What transformers' SequenceBiasLogitsProcessor and RepetitionPenaltyLogitsProcessor say, one token at a time.

    OpenAI's formula comes after them: μ[j] - c[j]·frequency - (c[j] > 0)·presence, where c counts what was sampled.
    """
    scores = [float(value) + (config.logit_bias or {}).get(token, 0.0) for token, value in enumerate(logits)]
    for token in {*PROMPT, *TEXT}:
        score, penalty = scores[token], config.repetition_penalty
        scores[token] = score * penalty if score < 0 else score / penalty
    for token in set(TEXT):
        scores[token] -= TEXT.count(token) * config.frequency_penalty + config.presence_penalty
    return scores


@pytest.mark.parametrize(
    "config",
    [
        BIASED,
        replace(BIASED, logit_bias=None),
        replace(BIASED, repetition_penalty=1.0),
        replace(BIASED, repetition_penalty=0.6),
        GenerationConfig(presence_penalty=1.5),
        GenerationConfig(frequency_penalty=-0.7),
        replace(BIASED, presence_penalty=-2.0, frequency_penalty=1.1),
    ],
)
def test_logits_are_changed_as_transformers_and_llama_cpp_change_them(config: GenerationConfig) -> None:
    penalties = Penalties(config, PROMPT, SIZE)
    for token in TEXT:
        penalties.accept(token)
    found = penalties.apply(logits())
    assert found.dtype == np.float32 and not np.array_equal(found, logits())
    np.testing.assert_allclose(found, by_formula(logits(), config), rtol=1e-6)
    np.testing.assert_allclose(found, by_llama_cpp(logits(), config), rtol=1e-6)
    ids = np.array([39, 0, 5, 6, 8])
    assert np.array_equal(penalties.apply(logits()[ids], ids), found[ids])


def test_without_penalty_and_bias_logits_are_as_they_were() -> None:
    given = logits()
    assert Penalties(GenerationConfig(), PROMPT, SIZE).apply(given) is given


def ids_of(model: Model, config: GenerationConfig) -> list[int]:
    tokens = list(model.generate([Message("user", "What is 161 + 107 * 7 + 210?")], config))
    assert tokens[-1].stats is not None and (tokens[-1].stats.drafted_tokens > 0) is config.speculate
    return [token.token_id for token in tokens if token.token_id is not None]


def test_drafts_change_no_token_under_penalties(model: Model) -> None:
    seven = model.tokenizer.encode("7")[0]
    greedy = GenerationConfig(temperature=0, max_tokens=60, repetition_penalty=3.0, logit_bias={seven: 14.0})
    plain = ids_of(model, replace(greedy, repetition_penalty=1.0, logit_bias=None))
    subtracted = GenerationConfig(temperature=0, max_tokens=60, presence_penalty=1.0, frequency_penalty=2.0)
    for config in (greedy, replace(greedy, temperature=1.0, seed=5), subtracted):
        found = ids_of(model, config)
        assert found == ids_of(model, replace(config, speculate=False)) != plain


def test_a_bias_forbids_a_token_or_gives_no_other(model: Model) -> None:
    seven, config = model.tokenizer.encode("7")[0], GenerationConfig(temperature=0, max_tokens=40)
    assert seven in ids_of(model, config)
    assert seven not in ids_of(model, replace(config, logit_bias={seven: -100}))
    assert set(ids_of(model, replace(config, logit_bias={seven: 100}))) == {seven}


def test_a_bias_of_a_token_that_is_none_is_refused_before_the_stream_begins(model: Model) -> None:
    with pytest.raises(BadArgumentError, match=r"^logit_bias names token 9999; the model's are 0 to 1045$"):
        model.generate("1", GenerationConfig(logit_bias={9999: 1}))
