"""A server with OpenAI's API on a model that our own runtime loaded, in the form of vLLM or llama-server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from mimo_mobile.quantize.measures import log_softmax
from mimo_mobile.runtime import GenerationConfig, Model
from tests.served import Request, Server, chat, json_reply, server, stream

Form = Literal["vllm", "llama", "plain"]
"""vllm tells what it predicts for a prompt, llama what comes next, plain gives no ids."""


@contextmanager
def model_server(model: Model, form: Form) -> Iterator[Server]:
    turns = threading.Lock()

    def answer(request: Request, connection: socket.socket) -> None:
        with turns:
            if not request.body.get("stream"):
                made = json_reply(_predicted(model, form, request.body))
            elif "messages" in request.body:
                made = _chatted(model, form, request.body)
            else:
                made = _continued(model, request.body)
        connection.sendall(made)

    with server(answer) as there:
        yield there


def _config(body: dict[str, Any]) -> GenerationConfig:
    sampled = {"top_p": body["top_p"], "seed": body["seed"]} if body["temperature"] else {}
    return GenerationConfig(temperature=body["temperature"], max_tokens=body["max_tokens"], loop_guard=False, **sampled)


def _chatted(model: Model, form: Form, body: dict[str, Any]) -> bytes:
    names = {"thinking": "reasoning" if form == "vllm" else "reasoning_content", "answer": "content"}
    tokens = list(model.generate(body["messages"], _config(body)))
    usage = {"prompt_tokens": tokens[-1].stats.prompt_tokens, "completion_tokens": tokens[-1].stats.generated_tokens}
    return stream(
        *chat(*({names[each.channel]: each.text} for each in tokens), reason=tokens[-1].finish_reason, usage=usage)
    )


def _continued(model: Model, body: dict[str, Any]) -> bytes:
    tokens = list(model.generate(body["prompt"], _config(body)))
    text = model.tokenizer.decode([each.token_id for each in tokens if each.token_id is not None])
    return stream({"choices": [{"index": 0, "text": text, "finish_reason": tokens[-1].finish_reason}]})


def _predicted(model: Model, form: Form, body: dict[str, Any]) -> dict[str, Any]:
    prompt = body["prompt"]
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    rows = log_softmax(model.logits(ids))
    choice: dict[str, Any] = {"index": 0, "text": "x", "finish_reason": "length"}
    if form == "vllm":
        most = body["prompt_logprobs"]
        told: list[Any] = [None]
        for row, after in zip(rows[:-1], ids[1:], strict=True):
            likeliest = dict.fromkeys([*np.argsort(-row)[:most].tolist(), after])
            told.append({str(each): {"logprob": row[each], "rank": 1, "decoded_token": "x"} for each in likeliest})
        choice["prompt_logprobs"] = told
    elif form == "llama":
        top = [{"id": each, "logprob": rows[-1][each]} for each in np.argsort(-rows[-1])[: body["logprobs"]].tolist()]
        bias = body.get("logit_bias", {})  # it decides what is sampled, and leaves the predictions alone
        sampled = max(range(len(rows[-1])), key=lambda each: rows[-1][each] + bias.get(str(each), 0))
        # A part of a character makes llama-server go on to the next token, and tell of that alone.
        whole = model.tokenizer.token_bytes(sampled).isascii()
        content = [{"id": sampled, "top_logprobs": top if whole else top[::-1]}]
        choice["logprobs"] = {"content": content}
    else:
        choice["logprobs"] = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}]}
    return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}
