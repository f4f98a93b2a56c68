"""A server behind OpenAI's API, asked over a real socket: what it may say, and each way in which it may misbehave."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mimo_mobile import http_client
from mimo_mobile.errors import BadArgumentError, EndpointError, SessionError
from mimo_mobile.runtime import Endpoint, GenerationConfig, Message, Structure
from mimo_mobile.runtime.endpoint import AT_ONCE_S, KEY_VARIABLE
from tests.served import HTML, Request, chat, json_reply, paused, reply, server, stream, wait_for_the_end

ASKED = [Message("user", "2 + 2?")]
KEY = "sk-very-secret-1"
USAGE = {"prompt_tokens": 12, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}


@pytest.fixture(autouse=True)
def no_key_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def answered(endpoint: Endpoint, prompt: Any = ASKED, **config: Any) -> tuple[str, str, str | None]:
    text, reason = {"thinking": "", "answer": ""}, None
    for token in endpoint.generate(prompt, GenerationConfig(**config)):
        assert reason is None, "nothing comes after the last record"
        text[token.channel] += token.text
        reason = token.finish_reason
    return text["thinking"], text["answer"], reason


def of(answer: Any, **config: Any) -> tuple[str, str, str | None]:
    with server(answer) as there, Endpoint(there.url) as endpoint:
        return answered(endpoint, **config)


def fault(answer: Any, **options: Any) -> EndpointError:
    with server(answer) as there, Endpoint(there.url, "mimo", **options) as endpoint:
        with pytest.raises(EndpointError) as found:
            answered(endpoint)
        assert str(found.value).startswith(there.url)
        return found.value


SAID = [
    # text with tags, cut anywhere
    chat({"content": "<thi"}, {"content": "nk>\nIt is "}, {"content": "4.\n</think>\n"}, {"content": "\n4"}),
    # the form of DeepSeek, llama-server, SGLang and vLLM
    chat({"reasoning_content": "\nIt is "}, {"reasoning_content": "4.\n"}, {"content": "\n\n"}, {"content": "4"}),
    # vLLM's newer name
    chat({"reasoning": "It is 4."}, {"content": "4"}),
    # both in one event
    chat({"reasoning_content": "It is 4.", "content": None}, {"reasoning_content": None, "content": "4"}),
]


@pytest.mark.parametrize("events", SAID)
def test_thinking_and_answer_are_told_apart_in_every_usual_form(events: list[Any]) -> None:
    assert of(stream(*events)) == ("It is 4.", "4", "stop")


def test_stream_of_events_may_have_comments_other_fields_and_no_end_mark() -> None:
    first, *others = chat({"content": "4"})
    events = [b": keep-alive\r\n\r\n", b"event: message\r\n", b"data:" + json.dumps(first).encode() + b"\r\n\r\n"]
    assert of(stream(*events, *others, done=False)) == ("", "4", "stop")


def test_tokens_and_times_are_in_the_last_record_when_the_server_tells_them() -> None:
    whole = stream(*chat({"content": "4"}, {"content": "2"}, reason="length", usage=USAGE))
    with server(paused(whole, b'"2"')) as there:
        last = list(Endpoint(there.url).generate(ASKED))[-1]
    assert last.finish_reason == "length" and last.stats is not None
    assert (last.stats.prompt_tokens, last.stats.cached_tokens, last.stats.generated_tokens) == (12, 2, 7)
    assert last.stats.time_to_first_token_s > 0 and 0 < last.stats.decode_tps <= 6 / 0.05
    with server(whole) as there:
        stats = list(Endpoint(there.url).generate(ASKED))[-1].stats
    assert stats is not None and stats.decode_tps <= 6 / AT_ONCE_S  # and not tens of thousands, as of a cable
    with server(stream(*chat({"content": "4"}))) as there:
        assert list(Endpoint(there.url).generate(ASKED))[-1].stats is None


def test_all_of_a_config_is_asked_for_in_the_servers_words() -> None:
    with server(stream(*chat({"content": "4"}))) as there, Endpoint(there.url) as endpoint:
        answered(endpoint, seed=3, stop=["x"], max_tokens=5)
        answered(endpoint, temperature=0)
        answered(endpoint, top_k=8, min_p=0.05, logit_bias={7: -2.5}, presence_penalty=-1, frequency_penalty=0.5)
        first, greedy, third = (each.body for each in there.requests if each.method == "POST")
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "2 + 2?"}]
    plain = {"model": "mimo", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    sampled = {"temperature": 0.6, "top_p": 0.95, "top_k": 2**30, "min_p": 0.0}
    assert first == plain | sampled | {"seed": 3, "stop": ["x"], "max_tokens": 5}
    assert greedy == plain | {"temperature": 0}
    penalties = {"presence_penalty": -1, "frequency_penalty": 0.5}
    assert third == plain | sampled | penalties | {"top_k": 8, "min_p": 0.05, "logit_bias": {"7": -2.5}}
    assert [each.path for each in there.requests] == ["/v1/models"] + 3 * ["/v1/chat/completions"]


def noticed(events: list[Any], notice: object, place: int) -> list[tuple[str, str, str | None, str | None]]:
    """The records of a stream in whose event at ``place`` there is a notice."""
    events[place]["choices"][0]["notice"] = notice
    with server(stream(*events)) as there, Endpoint(there.url) as endpoint:
        return [(each.text, each.channel, each.notice, each.finish_reason) for each in endpoint.generate(ASKED)]


def test_notices_of_a_server_are_told_also_where_there_is_no_text() -> None:
    thought, said = {"reasoning_content": "4 4 4"}, {"content": "4"}
    before, after = ("4 4 4", "thinking", None, None), ("4", "answer", None, None)
    end = ("", "answer", None, "length")
    full = [before, after, ("", "answer", "context_full", "length")]
    assert noticed(chat(thought, said, reason="length"), "context_full", 3) == full
    closed = [before, ("", "thinking", "loop_closed", None), after, end]
    assert noticed(chat(thought, {}, said, reason="length"), "loop_closed", 2) == closed
    closed = [before, ("4", "answer", "loop_closed", None), end]
    assert noticed(chat(thought, said, reason="length"), "loop_closed", 2) == closed
    for unknown in ("rate_limited", ["loop_closed"], {}, 4, None):
        assert noticed(chat(thought, said, reason="length"), unknown, 2) == [before, after, end]


def test_texts_and_ids_are_continued_as_they_stand() -> None:
    events = [
        {"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in (" <think>", "a</th", "ink>\nb ")
    ]
    events.append({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    with server(stream(*events)) as there, Endpoint(f"{there.url}/api/v3/", "other") as endpoint:
        assert answered(endpoint, "1 +") == ("", " <think>a</think>\nb ", "length")
        assert answered(endpoint, [1, 2]) == ("", " <think>a</think>\nb ", "length")
    assert [(each.path, each.body["prompt"], each.body["model"]) for each in there.requests] == [
        ("/api/v3/completions", "1 +", "other"),
        ("/api/v3/completions", [1, 2], "other"),
    ]


def test_only_model_is_taken_and_several_are_listed() -> None:
    with server(b"", names=["a", "b\x1b[2J"]) as there, pytest.raises(EndpointError) as found:
        answered(Endpoint(there.url))
    assert str(found.value) == f"{there.url}/v1/models: 2 models found; name one with --endpoint-model: a, b\\x1b[2J"


def test_key_comes_from_the_environment_goes_as_bearer_token_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    caplog.set_level(logging.DEBUG)
    said = json_reply({"error": {"message": f"Incorrect API key provided: {KEY}."}}, "401 Unauthorized")
    with server(said) as there, pytest.raises(EndpointError) as found:
        answered(Endpoint(there.url, "mimo"))
    assert there.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert str(found.value).endswith(
        "/chat/completions: the server does not accept the key (status 401): Incorrect API key provided: …."
    )
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\r\nX: y")
    with pytest.raises(BadArgumentError) as wrong:
        Endpoint(there.url)
    assert KEY not in str(wrong.value) + str(found.value) + caplog.text and wrong.value.__cause__ is None
    Endpoint("http://192.0.2.1", key=KEY), Endpoint("https://192.0.2.1", key=KEY)
    assert caplog.messages == [
        "http://192.0.2.1/v1: the key goes there unencrypted, so that others on the way can read it"
    ]


REFUSALS = [
    (json_reply({"error": {"message": "no key"}}, "401 Unauthorized"), "the server wants a key (status 401): no key"),
    (
        json_reply({"object": "error", "message": "The model `x` does not exist."}, "404 Not Found"),
        "there is no such path or model (status 404): The model `x` does not exist.",
    ),
    (json_reply({"detail": "Not Found"}, "404 Not Found"), "there is no such path or model (status 404): Not Found"),
    (
        json_reply({"error": "slow down"}, "429 Too Many Requests"),
        "the server has too much to do, or the quota is used up (status 429): slow down",
    ),
    (
        json_reply({}, "429 Too Many Requests", "Retry-After: 86400"),
        "it is busy, and asks to come again in 86400 s",
    ),
    (reply(b"oops", "text/plain", "500 Internal Server Error"), "the server failed (status 500)"),
    (
        json_reply({"error": {"message": "Loading \x1b[31mmodel"}}, "503 Service Unavailable"),
        "the server failed (status 503): Loading \\x1b[31mmodel",
    ),
    (json_reply({"error": {"message": "bad"}}, "400 Bad Request"), "refuses what was asked (status 400): bad"),
    (reply(b"", HTML, "302 Found", "Location: http://evil/"), "sends to http://evil/; give that address"),
    (reply(b"<!doctype html><html>", HTML), "a web page came, JSON expected; the URL must be that of the API"),
    (json_reply({"choices": []}), "one JSON value came, a stream of events expected"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP that we read came (BadStatusLine)"),
    (b"", "the server ended the connection before its answer was whole"),
    (b"HTTP/1.1 200 OK\r\n" + 200 * b"X: y\r\n", "no HTTP that we read came (HTTPException)"),
    (b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"y", "no HTTP that we read came (LineTooLong)"),
    (stream(*chat({"content": "4"}, reason=None), done=False), "the stream ended before the answer did"),
    (stream(*chat({"content": "4"}, reason=None)), "the stream ended before the answer did"),
    (stream(*chat({"content": "4"}, reason="abort")), "finish_reason abort, so that the answer is not whole"),
    (stream({"error": {"message": "out of memory"}}), "the server failed: out of memory"),
    (stream(b'error: {"code": 500, "message": "x"}\n\n', {"error": {"code": 1}}), "the stream ended|without a message"),
    (stream(b"data: {\n\n"), "no JSON came"),
    (stream(b"data: " + 2_000_000 * b"x"), "the stream brings more than any answer has"),
    (stream(b"data: " + 70 * b"[" + 70 * b"]" + b"\n"), "nested more than 64 deep"),
    (stream(b"data: \xff\n"), "not UTF-8"),
    (stream({"choices": 4}), "choices: an array expected, 4 found"),
    (stream({"choices": [{"delta": {"content": 4}}]}), "delta.content: a string expected, 4 found"),
    (stream({"choices": [{}, {}]}), "at most 1 elements expected, 2 found"),
    (
        stream(*chat({"content": "4"}, usage={"prompt_tokens": -1, "completion_tokens": 1})),
        "the numbers of tokens are none: usage.prompt_tokens",
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"ffff\r\ndata: {\"choices\": []}\n\n",
        "the server ended the connection before its answer was whole",
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "the stream ended before the answer did",
    ),
    (
        reply(b"x", "text/event-stream", "200 OK", "Content-Encoding: gzip"),
        "the answer is compressed, which was not asked for",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "message"), REFUSALS)
def test_a_server_that_misbehaves_is_an_error_that_says_how(answer: bytes, message: str) -> None:
    found = str(fault(answer))
    assert any(each in found for each in message.split("|")), found
    assert found.isprintable() and len(found) < 700


def test_json_answers_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MOST_BYTES", 1000)
    with server(json_reply({"x": 2000 * "y"})) as there, Endpoint(there.url) as endpoint:
        with pytest.raises(EndpointError, match=r"/props: more than 0\.001 MB came, which no such answer has$"):
            endpoint.ask("/props")
        assert endpoint.models() == ["mimo"]
    with server(b"", names=[]) as there, Endpoint(there.url) as endpoint:
        with pytest.raises(EndpointError, match="/models: 0 models found"):
            answered(endpoint)


def test_a_stream_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MOST_STREAM_BYTES", 100_000)

    def endless(_: Request, connection: socket.socket) -> None:
        connection.sendall(stream(done=False))
        while True:
            connection.sendall(1000 * b": nothing to say\n")

    assert "brings more than any answer has" in str(fault(endless))


def test_a_busy_server_is_asked_again_when_it_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    busy = json_reply({}, "429 Too Many Requests", "Retry-After: 0")
    loading = json_reply({}, "503 Service Unavailable", "Retry-After: 1")
    assert of([busy, loading, stream(*chat({"content": "4"}))]) == ("", "4", "stop")
    assert [each.split(": ")[1] for each in caplog.messages] == [
        "it is busy, and asked again in 0 s", "it is busy, and asked again in 1 s"
    ]  # fmt: skip
    with server(busy) as there, pytest.raises(EndpointError, match="status 429"):
        answered(Endpoint(there.url, "mimo"))
    assert len(there.requests) == http_client.MOST_TRIES


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(EndpointError, match=rf"^http://127.0.0.1:{port}/v1: cannot be reached: Connection refused; is"):
        answered(Endpoint(f"http://127.0.0.1:{port}"))
    with pytest.raises(EndpointError, match=r"^http://nosuch\.invalid/v1: cannot be reached: "):
        answered(Endpoint("http://nosuch.invalid"))


def test_https_asks_for_a_certificate() -> None:
    with server(b"") as there, pytest.raises(EndpointError, match=r"/v1: no secure connection: .* is it https"):
        answered(Endpoint(there.url.replace("http", "https")))


def test_silence_is_an_error_after_a_while() -> None:
    def silent(_: Request, connection: socket.socket) -> None:
        connection.sendall(stream(*chat({"content": "4"}, reason=None), done=False))
        wait_for_the_end(connection)

    assert "nothing came for 0.2 s" in str(fault(silent, timeout_s=0.2))


@pytest.mark.parametrize("chunked", [False, True])
def test_cancel_from_another_thread_closes_the_connection_and_ends_the_stream(chunked: bool) -> None:
    gone = threading.Event()

    def thinking(_: Request, connection: socket.socket) -> None:
        event = b'data: {"choices": [{"delta": {"content": "<think>4"}}]}\n\n'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        body = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event) if chunked else b"\r\n" + event
        connection.sendall(head + body)
        wait_for_the_end(connection)
        gone.set()

    with server(thinking) as there, Endpoint(there.url) as endpoint:
        tokens = endpoint.generate(ASKED)
        assert next(tokens).text == "4"
        threading.Timer(0.1, endpoint.cancel).start()
        (last,) = tokens
        assert (last.finish_reason, last.channel, last.stats) == ("cancelled", "thinking", None)
        assert gone.wait(60)
        gone.clear()
        tokens = endpoint.generate(ASKED)  # cancel means what was under way
        assert next(tokens).text == "4"
        tokens.close()
        assert gone.wait(60)
    with pytest.raises(SessionError, match="the endpoint is closed"):
        answered(endpoint)


def test_cancel_ends_the_wait_for_a_busy_server() -> None:
    busy = json_reply({}, "429 Too Many Requests", "Retry-After: 100")
    with server(busy) as there, Endpoint(there.url, "mimo") as endpoint:
        timer = threading.Timer(0.2, endpoint.cancel)
        timer.start()
        assert answered(endpoint)[2] == "cancelled"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host", "'ftp://host' found; http://HOST:PORT or https://HOST/v1 expected"),
        ("host:8080", "found; http://HOST:PORT"),
        ("http://", "found; http"),
        ("http://host:99999", "Port out of range"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://host/v1?x=y", "found; http"),
        ("http://host/a b", "found; http"),
        ("http://host/\r\nX: y", r"found; http"),
        ("http://user:secret@host", "a user name or password in the URL found"),
    ],
)
def test_urls_that_are_none_are_refused(url: str, message: str) -> None:
    with pytest.raises(BadArgumentError) as found:
        Endpoint(url)
    assert message in str(found.value) and "secret" not in str(found.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda endpoint: endpoint.generate(ASKED, GenerationConfig(thinking=False)),
        lambda endpoint: endpoint.generate(ASKED, GenerationConfig(thinking_budget=5)),
        lambda endpoint: endpoint.generate(ASKED, GenerationConfig(repetition_penalty=1.1)),
        lambda endpoint: endpoint.generate(ASKED, GenerationConfig(logprobs=0)),
        lambda endpoint: endpoint.generate(ASKED, GenerationConfig(structure=Structure.regex("a"))),
        lambda endpoint: endpoint.generate(ASKED[0]),
        lambda endpoint: endpoint.generate(["x"]),
        lambda endpoint: endpoint.generate(ASKED, {"seed": 1}),
        lambda endpoint: Endpoint(endpoint.name, 4),
        lambda endpoint: Endpoint(endpoint.name, timeout_s=0),
    ],
)
def test_arguments_that_come_to_nothing_are_refused(call: Callable[[Endpoint], object]) -> None:
    with pytest.raises(BadArgumentError):
        call(Endpoint("http://127.0.0.1:1"))
