"""``mimo serve`` beside ``Endpoint``: the same code gets the same from a loaded model and from a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_mobile.errors import EndpointError
from mimo_mobile.runtime import Endpoint, GenerationConfig, Message, Model, Structure, load
from tests.runtime.server.conftest import Served, serving

ASKED = [Message("user", "What is 348 + 27 * 6?")]


def answered(asked: Model | Endpoint, config: GenerationConfig) -> tuple[str, str, str | None]:
    tokens = list(asked.generate(ASKED, config))
    texts = ["".join(each.text for each in tokens if each.channel == name) for name in ("thinking", "answer")]
    return texts[0], texts[1], tokens[-1].finish_reason


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(temperature=0),
        GenerationConfig(temperature=0, max_tokens=20),
        GenerationConfig(temperature=0.8, seed=5, top_k=8, min_p=0.05, stop=["16"]),
        GenerationConfig(temperature=0, structure=Structure.schema({"enum": ["about 500", 500]})),
    ],
)
def test_the_same_code_gets_the_same_from_a_model_and_from_a_server(
    served: Served, model: Model, config: GenerationConfig
) -> None:
    with Endpoint(served.url) as endpoint:
        assert answered(endpoint, config) == answered(model, config)


def test_a_server_tells_what_a_generation_took(served: Served) -> None:
    with Endpoint(served.url) as endpoint:
        stats = list(endpoint.generate(ASKED, GenerationConfig(temperature=0)))[-1].stats
    assert stats is not None and stats.generated_tokens > 50 and stats.prompt_tokens > 20
    assert 0 < stats.accepted_tokens <= stats.drafted_tokens


def test_a_server_tells_its_notices(nano_q4: dict[str, Path]) -> None:
    with load(nano_q4["gguf"], context_length=64) as small, serving(small) as there, Endpoint(there.url) as endpoint:
        (six,) = small.tokenizer.encode("6")
        endless = GenerationConfig(temperature=0, logit_bias={six: 100})
        for asked in (small, endpoint):
            assert [each.notice for each in asked.generate(ASKED, endless) if each.notice] == ["context_full"]


def test_a_server_that_wants_a_key_gets_it(model: Model) -> None:
    with serving(model, api_key="k" * 32) as there:
        assert answered(Endpoint(there.url, key="k" * 32), GenerationConfig(temperature=0))[1] == "510"
        with pytest.raises(EndpointError, match="the server does not accept the key"):
            answered(Endpoint(there.url, key="another"), GenerationConfig())
