"""``response_format``: answers that are JSON, by OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from tests.runtime.server.conftest import Served
from tests.runtime.server.test_server import ASKED, QUESTION

SCHEMA = {
    "type": "object",
    "properties": {"result": {"type": "integer", "minimum": 1, "maximum": 999}, "kind": {"enum": ["sum", "other"]}},
    "required": ["result", "kind"],
    "additionalProperties": False,
}


def formatted(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}}


def test_a_schema_is_kept_to_whole_and_in_a_stream(served: Served) -> None:
    found = served.client.chat.completions.create(**ASKED, **formatted(SCHEMA))
    content = found.choices[0].message.content or ""
    jsonschema.validate(json.loads(content), SCHEMA)
    assert found.choices[0].finish_reason == "stop" and found.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    assert found.usage is not None and found.usage.accepted_tokens > 0  # type: ignore[attr-defined]
    chunks = list(served.client.chat.completions.create(**ASKED, **formatted(SCHEMA), stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == content


def test_openais_client_reads_an_answer_as_a_record(served: Served) -> None:
    class Answer(BaseModel):
        result: int = Field(ge=1, le=999)
        kind: Literal["sum", "other"]

    found = served.client.chat.completions.parse(
        model="nano", messages=QUESTION, temperature=0, response_format=Answer, n=2
    )
    assert [isinstance(each.message.parsed, Answer) for each in found.choices] == [True, True]


def test_any_json_object_can_be_asked_for(served: Served) -> None:
    body = ASKED | {"response_format": {"type": "json_object"}, "logit_bias": {"92": 100}}  # of "}", so that it ends
    body |= {"chat_template_kwargs": {"enable_thinking": False}}
    content = served.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content), dict)
    text = served.client.chat.completions.create(**ASKED, response_format={"type": "text"})
    assert text.choices[0].message.content == "510"


def test_a_schema_that_gets_too_complicated_on_the_way_is_the_clients_fault(served: Served) -> None:
    many = {"type": "object", "properties": {f"p{place}": {"type": "integer"} for place in range(2000)}}
    body = ASKED | formatted(many) | {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": 20}
    found = served.http.post("/v1/chat/completions", json=body)
    assert found.status_code == 200 or "make it simpler" in found.json()["error"]["message"]
    assert found.status_code in (200, 400)


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        (formatted({"properties": {"x": {"type": "strin"}}})["response_format"], "at #/properties/x: "),
        (formatted({"type": "string", "enum": ["a" * 70_000]})["response_format"], "from 1 to 65536 expected"),
        (formatted({"not": {}})["response_format"], "Unimplemented keys"),
        (formatted([])["response_format"], "response_format.json_schema.schema: "),
        ({"type": "json_schema"}, "json_schema goes with the type json_schema"),
        ({"type": "xml"}, "response_format.type: "),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_format_is_told_before_a_stream_begins(
    response_format: Any, message: str, stream: bool, served: Served
) -> None:
    body = ASKED | {"response_format": response_format, "stream": stream}
    found = served.http.post("/v1/chat/completions", json=body)
    assert found.status_code == 400 and message in found.json()["error"]["message"]
