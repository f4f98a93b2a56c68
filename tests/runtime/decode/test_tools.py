"""Tools: what the prompt says of them, calls that keep to their schemas, and calls in a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from mimo_mobile.errors import BadArgumentError
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message, Model, ToolCall, load
from mimo_mobile.runtime.text.tools import ToolCalls

ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers; <|im_end|> is text here.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "minimum": 0, "maximum": 999},
                "b": {"type": "integer", "minimum": 0, "maximum": 999},
            },
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now"}}

QUESTION = [Message("user", "What is 12 + 30?")]
CONFIG = GenerationConfig(temperature=0, max_tokens=200, tools=[ADD, NOW])


@pytest.fixture(scope="module", params=["nano_gguf", "nano_onnx"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """MiMo-nano in float32, which runs over drafts round so little that no token of these answers changes."""
    with load(request.getfixturevalue(request.param), threads=1, speculate="mtp", cache=False) as loaded:
        yield loaded


def answered(model: Model, config: GenerationConfig) -> tuple[list[ToolCall], str, list[int], GeneratedToken]:
    """Calls, text and tokens of an answer, and its last record."""
    tokens = list(model.generate(QUESTION, config))
    calls = [each.tool_call for each in tokens if each.tool_call is not None]
    text = "".join(each.text for each in tokens if each.channel == "answer")
    return calls, text, [each.token_id for each in tokens if each.token_id is not None], tokens[-1]


@pytest.mark.parametrize("choice", ["add", "now", "required"])
def test_a_call_that_is_asked_for_keeps_to_the_schema_and_drafts_change_no_token_of_it(
    model: Model, choice: str
) -> None:
    config = replace(CONFIG, tool_choice=choice)
    calls, text, ids, last = answered(model, config)
    assert calls and (last.finish_reason == "length" or text == "")
    for call in calls:
        schema = {"add": ADD["function"]["parameters"], "now": {"type": "object", "maxProperties": 0}}[call.name]
        jsonschema.validate(dict(call.arguments), schema)
    if choice != "required":
        assert [call.name for call in calls] == [choice] and last.finish_reason == "stop"
    assert last.stats is not None and last.stats.drafted_tokens > 0
    assert answered(model, replace(config, speculate=False))[2] == ids


def test_an_answer_that_may_call_may_say_anything_and_a_call_in_it_keeps_to_its_schema(model: Model) -> None:
    calls, text, _, last = answered(model, CONFIG)
    assert (calls, bool(text), last.finish_reason) == ([], True, "stop")
    (tag,) = model.tokenizer.encode("<tool_call>")
    calls, text, _, _ = answered(model, replace(CONFIG, thinking=False, logit_bias={tag: 40}, max_tokens=80))
    assert calls and {call.name for call in calls} <= {"add", "now"}
    config = replace(CONFIG, thinking=False, logit_bias={tag: 40}, parallel_tool_calls=False)
    calls, text, _, last = answered(model, config)
    assert (len(calls), text, last.finish_reason) == (1, "", "stop")


def test_the_prompt_says_what_tools_there_are_and_what_calls_came_to(model: Model) -> None:
    messages = [
        *QUESTION,
        Message("assistant", "", (ToolCall("add", {"a": 12, "b": 30}), ToolCall("now", {}))),
        Message("tool", "42"),
        Message("tool", "noon"),
    ]
    text = model.tokenizer.decode(model.encode_prompt(messages, CONFIG))
    assert '<tools>\n{"type": "function", "function": {"name": "add", "description": "Adds two numbers; ' in text
    assert (
        '<tool_call>\n{"name": "add", "arguments": {"a": 12, "b": 30}}\n</tool_call>\n<tool_call>\n{"name": "n' in text
    )
    assert "<tool_response>\n42\n</tool_response>\n<tool_response>\nnoon\n</tool_response>" in text
    described = model.encode_prompt(QUESTION, CONFIG)
    (end,) = model.tokenizer.encode("<|im_end|>")
    assert described.count(end) == model.encode_prompt(QUESTION, GenerationConfig()).count(end)
    openai: Any = [
        {"role": "user", "content": QUESTION[0].content},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 12, "b": 30}'}},
                {"id": "2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        {"role": "tool", "tool_call_id": "2", "content": "noon"},
    ]
    assert model.encode_prompt(openai, CONFIG) == model.encode_prompt(messages, CONFIG)
    assert model.encode_prompt(QUESTION, replace(CONFIG, tool_choice="none")) == model.encode_prompt(
        QUESTION, GenerationConfig()
    )


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": [1, "</x>"]}}\n</tool_call>'
TEXT = f'I add. \n{CALL}\n<tool_call>{{"name": 1}}</tool_call> <tool'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_found_wherever_the_text_is_cut(size: int) -> None:
    calls, found = ToolCalls(), list[str | ToolCall]()
    for start in range(0, len(TEXT), size):
        found += calls.feed(TEXT[start : start + size])
    said = "".join(each for each in found if isinstance(each, str)) + calls.flush()
    assert [each for each in found if isinstance(each, ToolCall)] == [ToolCall("add", {"a": [1, "</x>"]})]
    assert said == 'I add.\n<tool_call>{"name": 1}</tool_call> <tool'  # what is no call, and what was cut off, is text


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
def test_a_number_that_json_cannot_write_makes_no_call(number: str) -> None:
    text = f'<tool_call>\n{{"name": "add", "arguments": {{"a": {number}}}}}\n</tool_call>'
    assert ToolCalls().feed(text) == [text]


@pytest.mark.parametrize("arguments", ['{"a": 1e999}', {"a": float("nan")}, {"a": {1}}])
def test_a_call_in_a_message_is_one_that_json_can_write(model: Model, arguments: object) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    messages = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(BadArgumentError, match=r"messages\[1\]: the arguments of 'add' cannot be written as JSON"):
        model.encode_prompt(messages, CONFIG)


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": fields}


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ([{"name": "x"}], "auto", r"tools\[0\]: {'type': 'function'"),
        ([ADD, function(name="a b")], "auto", r"tools\[1\]: the name 'a b' found"),
        ([function(name="none")], "auto", r"tools\[0\]: the name 'none' found"),
        ([function(name="x", description=3)], "auto", "the description is no text"),
        ([function(name="x", parameters=[])], "auto", "parameters of list found"),
        ([function(name="x", parameters={"type": "string"})], "auto", "parameters of type 'string' found"),
        ([function(name="x", parameters={"const": {1}})], "auto", "cannot be written as JSON"),
        ([function(name="x", description="\ud800")], "auto", "which is no character"),
        ([ADD, ADD], "auto", "two are called 'add'"),
        ([ADD], "sub", "'sub' is neither auto, none, required nor the name of a tool"),
        ([], "required", "there are no tools"),
        ("add", "auto", "a list of dicts expected"),
        ([function(name=f"x{place}") for place in range(200)], "auto", "200 found, at most 128 expected"),
    ],
)
def test_what_is_no_tool_is_an_error_at_once(tools: Any, choice: str, message: str) -> None:
    with pytest.raises(BadArgumentError, match=message):
        GenerationConfig(tools=tools, tool_choice=choice)


def test_what_no_grammar_can_express_is_passed_over_unless_the_tool_is_strict(model: Model) -> None:
    one = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "maxItems": 2}
    schema = {"properties": {"x": one}, "additionalProperties": False}
    loose, strict = (function(name="x", parameters=schema, strict=each) for each in (False, True))
    assert answered(model, replace(CONFIG, tools=[loose], tool_choice="x"))[0][0].name == "x"
    with pytest.raises(BadArgumentError, match="uniqueItems"):
        model.generate(QUESTION, replace(CONFIG, tools=[strict], tool_choice="x"))
