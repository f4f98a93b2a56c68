"""Tools, by OpenAI's own client: calls whole and in a stream, and their results as messages."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from mimo_mobile.runtime import GenerationConfig, Model
from tests.runtime.decode.test_tools import ADD, NOW
from tests.runtime.server.conftest import Served
from tests.runtime.server.test_server import ASKED, QUESTION

TOOLS: Any = [ADD, NOW]
FORCED: Any = {"type": "function", "function": {"name": "add"}}


def test_a_tool_that_must_be_called_is_called_as_its_schema_says(served: Served, model: Model) -> None:
    found = served.client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice=FORCED)
    (call,) = found.choices[0].message.tool_calls or []
    assert (found.choices[0].finish_reason, found.choices[0].message.content) == ("tool_calls", "")
    assert call.type == "function" and call.function.name == "add" and call.id.startswith("call_")
    jsonschema.validate(json.loads(call.function.arguments), ADD["function"]["parameters"])
    config = GenerationConfig(temperature=0, tools=TOOLS, tool_choice="add")
    (own,) = [each.tool_call for each in model.session().generate(QUESTION, config) if each.tool_call]
    assert json.loads(call.function.arguments) == own.arguments

    stream = served.client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice=FORCED, stream=True)
    chunks = [each.choices[0] for each in stream]
    (streamed,) = [call for each in chunks for call in each.delta.tool_calls or []]
    assert (streamed.index, streamed.function) is not None and streamed.index == 0
    assert streamed.function is not None and streamed.function.arguments == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls" and not any(each.delta.content for each in chunks)


def test_openais_client_gathers_the_calls_of_a_stream(served: Served) -> None:
    with served.client.chat.completions.stream(**ASKED, tools=TOOLS, tool_choice=FORCED) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls and message.tool_calls[0].function.name == "add"


def test_a_result_goes_back_as_a_message(served: Served, model: Model) -> None:
    first = served.client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice=FORCED).choices[0].message
    (call,) = first.tool_calls or []
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "42"}
    messages: Any = [*QUESTION, first.model_dump(exclude_none=True), result]
    body = ASKED | {"messages": messages, "tools": TOOLS, "max_tokens": 8}
    found = served.http.post("/v1/chat/completions", json=body).json()
    ours: Any = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]},
        {"role": "tool", "content": "42"},
    ]
    prompt = model.encode_prompt(ours, GenerationConfig(tools=TOOLS))
    assert found["usage"]["prompt_tokens"] == len(prompt)
    text = model.tokenizer.decode(prompt)
    assert '<tool_call>\n{"name": "add", "arguments": {' in text and "<tool_response>\n42\n</tool_response>" in text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function: "),
        ({"tools": [ADD, ADD]}, "two are called 'add'"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "nor the name of a tool"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": [ADD], "response_format": {"type": "json_object"}}, "structure and tools both say"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": 3}}}]}, "tools[0]: "),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}]},
            "are no JSON",
        ),
        ({"messages": [{"role": "user", "tool_calls": [{"function": {"name": "x", "arguments": "{}"}}]}]}, "alone"),
    ],
)
def test_what_is_no_tool_or_no_call_is_refused(extra: dict[str, Any], message: str, served: Served) -> None:
    found = served.http.post("/v1/chat/completions", json=ASKED | extra)
    assert found.status_code == 400 and message in found.json()["error"]["message"]


def test_tools_that_may_not_be_called_change_nothing(served: Served) -> None:
    found = served.client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice="none")
    assert found.choices[0].message.content == "510" and found.choices[0].message.tool_calls is None
