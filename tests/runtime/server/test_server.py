"""``mimo serve`` as clients see it: OpenAI's own client, and requests that are wrong on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from openai import OpenAI

from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Model
from tests.runtime.server.conftest import Gate, Served, serving

QUESTION: Any = [{"role": "user", "content": "What is 348 + 27 * 6?"}]
ASKED = {"model": "nano", "messages": QUESTION, "temperature": 0}


def own_answer(model: Model, config: GenerationConfig, messages: Any = QUESTION) -> tuple[str, str, str | None]:
    """Thinking, answer and the reason for the end, by the runtime itself."""
    tokens: list[GeneratedToken] = list(model.session().generate(messages, config))
    texts = ["".join(each.text for each in tokens if each.channel == name) for name in ("thinking", "answer")]
    return texts[0], texts[1], tokens[-1].finish_reason


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread is about to do."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_openais_client_gets_the_answer_that_the_runtime_gives(served: Served, model: Model) -> None:
    found = served.client.chat.completions.create(**ASKED)
    thinking, answer, reason = own_answer(model, GenerationConfig(temperature=0))
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == (answer, reason) == ("510", "stop")
    assert found.choices[0].message.reasoning_content == thinking  # type: ignore[attr-defined]
    assert found.usage is not None and found.usage.completion_tokens_details is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert 0 < (found.usage.completion_tokens_details.reasoning_tokens or 0) < found.usage.completion_tokens
    assert [each.id for each in served.client.models.list()] == ["nano"] == [served.client.models.retrieve("nano").id]


def test_a_stream_says_the_same_piece_by_piece_for_each_of_several_answers(served: Served, model: Model) -> None:
    settings = {"temperature": 0.8, "seed": 5, "max_completion_tokens": 40, "stop": ["2+"], "n": 2}
    chunks = list(
        served.client.chat.completions.create(
            model="nano", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **settings
        )
    )
    for place in range(2):
        config = GenerationConfig(temperature=0.8, seed=5 + place, max_tokens=40, stop=["2+"])
        deltas = [each.choices[0].delta for each in chunks[:-1] if each.choices[0].index == place]
        texts = [
            "".join(delta.model_dump().get(name) or "" for delta in deltas) for name in ("reasoning_content", "content")
        ]
        ends = [each.choices[0].finish_reason for each in chunks[:-1] if each.choices[0].index == place]
        assert (*texts, ends[-1]) == own_answer(model, config)
        assert deltas[0].role == "assistant" and set(ends[:-1]) == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 20


def test_thinking_is_left_out_and_cut_as_the_client_says(served: Served, model: Model) -> None:
    extra: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 1}
    found = served.client.chat.completions.create(model="nano", messages=QUESTION, extra_body=extra, max_tokens=8)
    expected = own_answer(model, GenerationConfig(top_k=1, thinking=False, max_tokens=8))
    message = found.choices[0].message
    assert (message.reasoning_content, message.content) == expected[:2]  # type: ignore[attr-defined]
    found = served.client.chat.completions.create(**ASKED, extra_body={"thinking_budget": 6})
    assert found.usage is not None and found.usage.completion_tokens_details is not None
    assert (found.usage.completion_tokens_details.reasoning_tokens or 0) < 12


def test_penalties_and_biases_are_those_of_the_runtime(served: Served, model: Model) -> None:
    five = model.tokenizer.encode("5")[0]
    changed: dict[str, Any] = {"presence_penalty": 1.5, "frequency_penalty": 2.0, "max_tokens": 40}
    asked = {**ASKED, **changed, "extra_body": {"repetition_penalty": 3.0}, "logit_bias": {str(five): -100}}
    found = served.client.chat.completions.create(**asked).choices[0].message
    config = GenerationConfig(temperature=0, repetition_penalty=3.0, logit_bias={five: -100.0}, **changed)
    expected = own_answer(model, config)
    assert (found.reasoning_content, found.content) == expected[:2]  # type: ignore[attr-defined]
    assert "5" not in expected[0] + expected[1]
    for other in (GenerationConfig(temperature=0), replace(config, presence_penalty=0.0, frequency_penalty=0.0)):
        assert expected != own_answer(model, other)


def test_conversations_that_alternate_each_go_on_where_they_were(served: Served, model: Model) -> None:
    first: list[Any] = [{"role": "user", "content": "What is 5 + 5 + 5 + 5?"}]
    second: list[Any] = [{"role": "system", "content": "Answer in words."}, {"role": "user", "content": "7 * 8 = ?"}]
    for turn in range(3):
        for messages in (first, second):
            found = served.client.chat.completions.create(model="nano", messages=messages, temperature=0)
            assert found.usage is not None and found.usage.prompt_tokens_details is not None
            cached = found.usage.prompt_tokens_details.cached_tokens or 0
            if turn:
                assert cached > found.usage.prompt_tokens / 2
            expected = own_answer(model, GenerationConfig(temperature=0), messages)[1]
            assert found.choices[0].message.content == expected
            messages += [{"role": "assistant", "content": expected}, {"role": "user", "content": "12 + 30 = ?"}]


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": ({"model": "gpt-5"}, 404, "this server has 'nano'"),
    "no messages": ({"messages": []}, 400, "messages: List should have at least 1 item"),
    "a text in place of messages": ({"messages": "hello"}, 400, "messages: Input should be a valid list"),
    "another role": ({"messages": [{"role": "robot", "content": "a"}]}, 400, "messages.0.role"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content"),
    "a field that is misspelt": ({"max_token": 5}, 400, "max_token: there is no such field"),
    "a bias of no token": ({"logit_bias": {"a": 1}}, 400, "logit_bias.a"),
    "a bias beyond the vocabulary": ({"logit_bias": {"99999": 1}}, 400, "99999"),
    "no number of logprobs": ({"logprobs": 5}, 400, "logprobs: Input should be a valid boolean"),
    "too many logprobs": ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs: Input should be less than"),
    "the likeliest tokens alone": ({"top_logprobs": 2}, 400, "send logprobs: true, too"),
    "a temperature below zero": ({"temperature": -1}, 400, "temperature"),
    "a number in words": ({"temperature": "0.5"}, 400, "temperature: Input should be a valid number"),
    "a penalty beyond OpenAI's": ({"presence_penalty": 2.5}, 400, "presence_penalty: Input should be less than"),
    "an empty stop text": ({"stop": [""]}, 400, "stop"),
    "a hundred stop texts": ({"stop": ["a"] * 100}, 400, "stop"),
    "too many answers": ({"n": 100}, 400, "n: Input should be less than"),
    "a prompt that is too long": ({"messages": [{"role": "user", "content": "1 " * 9000}]}, 400, "the context holds"),
    "half a surrogate pair": ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "surrogate"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(name: str, served: Served) -> None:
    change, status, said = WRONG[name]
    found = served.http.post(
        "/v1/chat/completions", content=json.dumps(ASKED | change), headers={"Content-Type": "application/json"}
    )
    error = found.json()["error"]
    assert found.status_code == status and said in error["message"], error
    assert set(error) == {"message", "type", "param", "code"}


def test_what_asks_for_nothing_is_passed_over(served: Served) -> None:
    extra: dict[str, Any] = {
        "temperature": 1e-9,
        "user": "me",
        "tools": [],
        "response_format": {"type": "text"},
        "logprobs": False,
        "presence_penalty": 0,
    }
    found = served.http.post("/v1/chat/completions", json=ASKED | extra | {"logit_bias": None, "max_tokens": 2})
    assert found.status_code == 200 and found.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/json"}, b"{", 400),
        ({"Content-Type": "application/json"}, b"\xff", 400),
        ({"Content-Type": "application/json"}, b"[" * 100_000, 400),
        ({"Content-Type": "application/json"}, b" " * 8_000_001, 413),
        ({"Content-Type": "application/json", "Host": "attacker.example"}, b"{}", 403),
    ],
)
def test_a_body_that_is_no_request_is_refused_before_it_is_used(
    headers: dict[str, str], content: bytes, status: int, served: Served
) -> None:
    found = served.http.post("/v1/chat/completions", headers=headers, content=content)
    assert found.status_code == status and found.json()["error"]["message"]


def test_what_is_not_there_is_said_to_be_so(served: Served) -> None:
    assert [served.http.get(path).status_code for path in ("/nothing", "/v1/models/other", "/v1/models/a/b")] == [
        404
    ] * 3
    assert served.http.get("/v1/chat/completions").status_code == 405
    assert served.http.get("/health").json() == {"status": "ok"}


def test_a_key_is_asked_for_when_there_is_one(model: Model) -> None:
    with serving(model, api_key="wéi", local=False) as running:
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "wéi".encode()}):
            assert running.http.get("/v1/models", headers=headers).status_code == 401  # type: ignore[arg-type]
            assert running.http.post("/v1/chat/completions", headers=headers).status_code == 401  # type: ignore[arg-type]
        right = {b"Authorization": "Bearer wéi".encode(), b"Host": b"phone.lan"}
        assert running.http.get("/v1/models", headers=right).status_code == 200  # type: ignore[arg-type]
        assert running.http.get("/health").status_code == 200  # who watches services has no key


def test_who_comes_to_a_full_line_is_told_when_to_come_again(model: Model, gate: Gate) -> None:
    with serving(model, queue=1) as running, ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.client.chat.completions.create, **ASKED)
        until(gate.reached.is_set)
        second = pool.submit(running.client.chat.completions.create, **ASKED)
        until(lambda: running.metric("mimo_requests_waiting") == 1)
        with pytest.raises(openai.RateLimitError, match="1 requests wait already") as caught:
            running.client.chat.completions.create(**ASKED)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        gate.open()
        assert [each.result().choices[0].message.content for each in (first, second)] == ["510", "510"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_ends_its_generation_or_gives_its_place_away(stream: bool, model: Model, gate: Gate) -> None:
    with serving(model, queue=1) as running:
        gone = []
        for _ in range(2):  # the first one's request runs, the second one's waits
            http = httpx.Client(base_url=running.url)
            request = http.build_request("POST", "/v1/chat/completions", json=ASKED | {"stream": stream})
            thread = threading.Thread(target=_sent_until_closed, args=(http, request))
            thread.start()
            gone.append((http, thread))
            until(gate.reached.is_set)
        until(lambda: running.metric("mimo_requests_waiting") == 1)
        for http, thread in gone:
            _close(http)
            thread.join()
        until(lambda: running.metric("mimo_requests_waiting") == running.metric("mimo_requests_running") == 0)
        gate.open()
        assert running.client.chat.completions.create(**ASKED).choices[0].message.content == "510"


def _sent_until_closed(http: httpx.Client, request: httpx.Request) -> None:
    try:
        http.send(request).read()
    except (httpx.TransportError, OSError):
        pass


def _close(http: httpx.Client) -> None:
    """Close the connection as the system does when a program dies."""
    pool = http._transport._pool  # type: ignore[attr-defined]
    for connection in pool.connections:
        connection._connection._network_stream._sock.shutdown(2)


def test_a_request_that_takes_too_long_is_ended_and_says_so(model: Model, gate: Gate) -> None:
    with serving(model, timeout=0.3) as running:
        with pytest.raises(openai.InternalServerError, match=r"not done within 0\.3 seconds") as caught:
            running.client.chat.completions.create(**ASKED)
        assert caught.value.status_code == 504
        with pytest.raises(openai.APIError, match=r"not done within 0\.3 seconds"):
            list(running.client.chat.completions.create(**ASKED, stream=True))
        until(lambda: running.metric("mimo_requests_running") == 0)


def test_numbers_count_what_was_done(model: Model) -> None:
    with serving(model) as running:
        used = [running.client.chat.completions.create(**ASKED).usage for _ in range(2)]
        running.http.get("/v1/models/other")
        assert all(used)
        assert running.metric('mimo_requests_total{status="200"}') >= 2
        assert running.metric('mimo_requests_total{status="404"}') == 1
        found = {kind: running.metric(f'mimo_tokens_total{{kind="{kind}"}}') for kind in ("prompt", "generated")}
        assert found == {
            "prompt": sum(each.prompt_tokens for each in used if each),
            "generated": sum(each.completion_tokens for each in used if each),
        }
        assert running.metric("mimo_time_to_first_token_seconds_count") == 2


def test_its_description_is_openapi_and_its_example_is_answered(served: Served) -> None:
    described = served.http.get("/openapi.json").json()
    for path, wrong in (("/v1/chat/completions", {"messages": []}), ("/v1/completions", {"prompt": ""})):
        post = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        jsonschema.validate(post["example"], {**post["schema"], "components": described["components"]})
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, {**post["schema"], "components": described["components"]})
        assert served.http.post(path, json=post["example"]).status_code == 200


def started(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mimo_mobile", "serve", *map(str, arguments)],
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def command(nano_q4: dict[str, Path]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, as a user would start it, and its address."""
    with started(nano_q4["gguf"], "--port", "0", "--host", "0.0.0.0", "--name", "mine", MIMO_API_KEY="k") as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[3].replace("0.0.0.0", "127.0.0.1")
        process.kill()


def test_the_command_serves_until_it_is_told_to_stop(command: tuple[subprocess.Popen[str], str]) -> None:
    process, url = command
    with OpenAI(base_url=url, api_key="k", max_retries=0) as client:
        found = client.chat.completions.create(model="mine", messages=QUESTION, temperature=0)
        assert found.choices[0].message.content == "510"
        stream = client.chat.completions.create(model="mine", messages=QUESTION, temperature=0, stream=True)
        next(iter(stream))
        process.send_signal(signal.SIGTERM)
        assert "".join(each.choices[0].delta.content or "" for each in stream) == "510"  # it answers to the end
    assert process.wait(timeout=60) == 143


def test_the_command_refuses_what_it_cannot_do_and_makes_a_key_up(command: Any, nano_q4: dict[str, Path]) -> None:
    port = command[1].rsplit(":", 1)[1].removesuffix("/v1")
    with started(nano_q4["gguf"], "--port", port) as second:
        assert second.wait(timeout=60) == 1
        assert second.stderr is not None and "Address already in use" in second.stderr.read()
    unset = {name: value for name, value in os.environ.items() if name != "MIMO_API_KEY"}
    for environment in (unset, unset | {"MIMO_API_KEY": ""}):
        with subprocess.Popen(
            [sys.executable, "-m", "mimo_mobile", "serve", str(nano_q4["gguf"]), "--host", "0.0.0.0", "--port", "0"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as third:  # fmt: skip
            assert third.stdout is not None and third.stderr is not None
            address = third.stdout.readline().split()[3].replace("0.0.0.0", "127.0.0.1")
            status = httpx.get(f"{address}/models").status_code
            third.kill()
            assert status == 401 and "clients need an API key: " in third.stderr.read()
