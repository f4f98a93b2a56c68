"""How likely tokens were, by OpenAI's own client: whole and in a stream, in both of OpenAI's forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.runtime import GenerationConfig, Model
from tests.runtime.server.conftest import Served
from tests.runtime.server.test_server import ASKED, QUESTION

ROUNDING: Any = {"atol": 0.02, "rtol": 0.01}


def predicted(model: Model, prompt: list[int], ids: list[int]) -> NDArray[np.float64]:
    """The logarithms of all probabilities [T, V] where each of ``ids`` came, by the model's logits."""
    rows = model.logits([*prompt, *ids])[len(prompt) - 1 : -1, : model.tokenizer.size].astype(np.float64)
    return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)


def test_each_token_of_an_answer_is_told_with_its_bytes_and_the_likeliest_others(served: Served, model: Model) -> None:
    found = served.client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=3)
    choice, config = found.choices[0], GenerationConfig(temperature=0)
    assert choice.logprobs is not None and choice.logprobs.content is not None and choice.logprobs.refusal is None
    told: list[Any] = choice.logprobs.content
    assert bytes(byte for each in told for byte in each.bytes).decode() == choice.message.content == "510"
    before: list[Any] = choice.logprobs.model_dump()["reasoning_content"]
    text = b"".join(bytes(each["bytes"]) for each in before).decode()
    assert text.split("</think>")[0].strip().removeprefix("<think>").strip() == choice.message.reasoning_content  # type: ignore[attr-defined]
    assert found.usage is not None and len(told) + len(before) == found.usage.completion_tokens
    ids = [each.token_id for each in model.session().generate(QUESTION, config) if each.token_id is not None]
    rows = predicted(model, model.encode_prompt(QUESTION, config), ids)
    np.testing.assert_allclose(
        [each["logprob"] for each in before], rows[range(len(before)), ids[: len(before)]], **ROUNDING
    )
    for each, row in zip(told, rows[len(before) :], strict=True):
        np.testing.assert_allclose([other.logprob for other in each.top_logprobs], np.sort(row)[:-4:-1], **ROUNDING)
        assert (each.token, each.logprob) == (each.top_logprobs[0].token, each.top_logprobs[0].logprob)

    stream = served.client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=3, stream=True)
    chunks = [each.choices[0].logprobs for each in stream]
    streamed = [token for each in chunks if each is not None for token in each.content or []]
    assert [each.token for each in streamed] == [each.token for each in told]
    np.testing.assert_allclose([each.logprob for each in streamed], [each.logprob for each in told], **ROUNDING)


def test_a_classifier_reads_the_likeliest_first_tokens_of_an_answer_without_thinking(served: Served) -> None:
    extra: Any = {"chat_template_kwargs": {"enable_thinking": False}}
    found = served.client.chat.completions.create(
        **ASKED, logprobs=True, top_logprobs=20, max_tokens=1, extra_body=extra
    )
    assert found.choices[0].logprobs is not None and found.choices[0].logprobs.content is not None
    (first,) = found.choices[0].logprobs.content
    assert first.token == found.choices[0].message.content and len(first.top_logprobs) == 20
    assert 0.9 < sum(np.exp(each.logprob) for each in first.top_logprobs) <= 1 + 1e-9


def test_nothing_is_told_that_was_not_asked_for(served: Served) -> None:
    found = served.client.chat.completions.create(**ASKED, max_tokens=3, logprobs=True)
    assert found.choices[0].logprobs is not None
    assert {len(each["top_logprobs"]) for each in found.choices[0].logprobs.model_dump()["reasoning_content"]} == {0}
    for asked in ({}, {"logprobs": False, "top_logprobs": 0}):
        assert served.client.chat.completions.create(**ASKED, **asked, max_tokens=3).choices[0].logprobs is None  # type: ignore[call-overload]


@pytest.mark.parametrize("prompt", ["12 + 30 = ", "Größe: "])
def test_the_continuation_of_a_text_tells_its_tokens_in_lists(served: Served, model: Model, prompt: str) -> None:
    body: Any = {"model": "nano", "prompt": prompt, "max_tokens": 24, "logprobs": 2, "temperature": 1.5, "seed": 3}
    choice = served.client.completions.create(**body).choices[0]
    assert choice.logprobs is not None
    told: Any = choice.logprobs
    config = GenerationConfig(temperature=1.5, seed=3, max_tokens=24)
    prompted = model.tokenizer.encode(prompt)
    steps = [each for each in model.session().continuation(prompted, config) if each.token_id is not None]
    ids = [each.token_id for each in steps if each.token_id is not None]
    rows = predicted(model, prompted, ids)
    np.testing.assert_allclose(told.token_logprobs, rows[range(len(ids)), ids], **ROUNDING)
    data = [model.tokenizer.token_bytes(each) for each in ids]
    for place, (token, offset) in enumerate(zip(told.tokens, told.text_offset, strict=True)):
        if token.startswith("bytes:"):  # a part of a character
            assert token == "bytes:" + "".join(f"\\x{byte:02x}" for byte in data[place])
        else:
            assert choice.text[offset : offset + len(token)] == token == data[place].decode()
    for likely, token, own in zip(told.top_logprobs, told.tokens, told.token_logprobs, strict=True):
        assert likely[token] == own and 2 <= len(likely) <= 3 and next(iter(likely.values())) == max(likely.values())
    chunks = [each.choices[0].logprobs for each in served.client.completions.create(**body, stream=True)]
    for name in ("tokens", "text_offset"):
        assert [each for chunk in chunks if chunk for each in getattr(chunk, name)] == getattr(told, name)
