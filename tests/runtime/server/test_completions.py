"""``/v1/completions``: texts go on as they stand, by OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mimo_mobile.runtime import Endpoint, GenerationConfig, Model
from tests.runtime.server.conftest import Served

PROMPT = "<|im_start|>user\n12 + 30 = ?<|im_end|>\n<|im_start|>assistant\n"
ASKED: Any = {"model": "nano", "prompt": PROMPT, "temperature": 0}


def own_text(model: Model, prompt: str, config: GenerationConfig) -> str:
    """What follows a prompt, by its tokens alone."""
    steps = model.session().generate(prompt, config)
    return model.tokenizer.decode([each.token_id for each in steps if each.token_id is not None])


def test_what_follows_a_text_comes_character_for_character(served: Served, model: Model) -> None:
    found = served.client.completions.create(**ASKED)
    expected = own_text(model, PROMPT, GenerationConfig(temperature=0))
    assert found.choices[0].text == expected and expected.startswith("<think>\n") and "\n</think>\n\n" in expected
    assert (found.object, found.choices[0].finish_reason, found.choices[0].logprobs) == (
        "text_completion",
        "stop",
        None,
    )
    assert found.id.startswith("cmpl-") and found.usage is not None
    assert found.usage.prompt_tokens == len(model.tokenizer.encode(PROMPT)) and found.usage.completion_tokens > 20
    ids = served.client.completions.create(**ASKED | {"prompt": model.tokenizer.encode(PROMPT)})
    assert ids.choices[0].text == expected


def test_a_stream_brings_the_same_and_the_usage_at_its_end(served: Served) -> None:
    settings: Any = ASKED | {"temperature": 3, "top_p": 1, "seed": 7, "max_tokens": 20, "n": 2, "echo": True}
    whole = served.client.completions.create(**settings)
    chunks = list(served.client.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    for place, choice in enumerate(whole.choices):
        pieces = [each.choices[0] for each in chunks[:-1] if each.choices[0].index == place]
        assert "".join(each.text for each in pieces) == choice.text and choice.text.startswith(PROMPT)
        assert len(pieces) > 5 and pieces[-1].finish_reason == choice.finish_reason == "length"
    assert whole.choices[0].text != whole.choices[1].text
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 40


def test_several_texts_go_on_each_by_itself_in_their_order(served: Served, model: Model) -> None:
    texts, settings = [PROMPT, "1 + 1 ="], {"max_tokens": 6, "temperature": 3, "top_p": 1, "seed": 5, "n": 2}
    for prompts in (texts, [model.tokenizer.encode(each) for each in texts]):
        found = served.client.completions.create(model="nano", prompt=prompts, **settings)  # type: ignore[call-overload]
        configs = [GenerationConfig(max_tokens=6, temperature=3, top_p=1, seed=seed) for seed in (5, 6)]
        assert [each.text for each in found.choices] == [
            own_text(model, text, each) for text in texts for each in configs
        ]
        assert [each.index for each in found.choices] == [0, 1, 2, 3]
        assert found.usage.prompt_tokens == sum(len(model.tokenizer.encode(each)) for each in texts)
    assert served.client.completions.create(**ASKED | {"prompt": [PROMPT]}).choices[0].text.startswith("<think>")


def test_it_ends_before_a_stop_text_wherever_that_stands(served: Served, model: Model) -> None:
    text = own_text(model, PROMPT, GenerationConfig(temperature=0))
    for stop in ("\n", "</think>", ["nothing", "\n\n"]):
        found = served.client.completions.create(**ASKED, stop=stop).choices[0]
        assert (found.text, found.finish_reason) == (
            text.partition(stop if isinstance(stop, str) else stop[1])[0],
            "stop",
        )


def test_our_client_continues_a_text(served: Served, model: Model) -> None:
    config = GenerationConfig(temperature=0, max_tokens=30)
    with Endpoint(served.url) as endpoint:
        found = [(each.channel, each.text) for each in endpoint.generate(PROMPT, config)]
    text = "".join(text for _, text in found)
    assert text == own_text(model, PROMPT, config) and text.startswith("<think>")
    assert {channel for channel, _ in found} == {"answer"}


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": ({"model": "davinci"}, 404, "this server has 'nano'"),
    "an empty text": ({"prompt": ""}, 400, "prompt"),
    "no tokens": ({"prompt": []}, 400, "prompt"),
    "too many texts": ({"prompt": ["a"] * 65}, 400, "prompt"),
    "an empty text among several": ({"prompt": ["a", ""]}, 400, "prompt"),
    "texts and tokens": ({"prompt": ["a", [5]]}, 400, "prompt"),
    "a token that is none": ({"prompt": [99999]}, 400, "token id 99999 found"),
    "a text that is too long": ({"prompt": "1 " * 9000}, 400, "the context holds"),
    "half a surrogate pair": ({"prompt": "\ud800"}, 400, "surrogate"),
    "messages": ({"messages": []}, 400, "messages: there is no such field"),
    "a suffix": ({"suffix": "b"}, 400, "suffix is not supported"),
    "the best of several": ({"best_of": 3}, 400, "best_of is not supported"),
    "probabilities of the prompt": ({"echo": True, "logprobs": 1}, 400, "echo and logprobs exclude each other"),
    "no tokens to come": ({"max_tokens": 0}, 400, "max_tokens: Input should be greater"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(name: str, served: Served) -> None:
    change, status, said = WRONG[name]
    found = served.http.post(
        "/v1/completions", content=json.dumps(ASKED | change), headers={"Content-Type": "application/json"}
    )
    assert found.status_code == status and said in found.json()["error"]["message"], found.json()
