"""The server's description in OpenAPI's form, made of the same records that read the requests."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from mimo_mobile import __version__
from mimo_mobile.runtime.server.bodies import ChatRequest, CompletionRequest
from mimo_mobile.runtime.server.fields import TextRequest

_REFERENCE = "#/components/schemas/{model}"

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": "null"},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

_FAILURES = {
    "400": "The body is wrong, or does not fit into the context.",
    "401": "The API key is missing or wrong.",
    "403": "The request names another host.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "415": "The body is no JSON.",
    "429": "The line is full; Retry-After says when to come again.",
    "500": "The model failed.",
    "503": "The server stops.",
    "504": "The time is up.",
}


def described(model: str) -> dict[str, Any]:
    """The description of a server of ``model``."""
    _, schemas = models_json_schema(
        [(ChatRequest, "validation"), (CompletionRequest, "validation")], ref_template=_REFERENCE
    )
    question = {"model": model, "messages": [{"role": "user", "content": "12 + 30 = ?"}]}
    chat = _answering("Answer a conversation", ChatRequest, question)
    completion = _answering("Continue a text", CompletionRequest, {"model": model, "prompt": "12 +", "max_tokens": 16})
    one = _operation("Describe the model", "application/json")
    one["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"const": model}}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "MiMo Mobile", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/chat/completions": {"post": chat},
            "/v1/completions": {"post": completion},
            "/v1/models": {"get": _operation("List the model", "application/json")},
            "/v1/models/{model}": {"get": one},
            "/health": {"get": _operation("Tell whether the model can answer", "application/json")},
            "/metrics": {"get": _operation("Tell what was done so far, for Prometheus", "text/plain")},
            "/openapi.json": {"get": _operation("Describe all this", "application/json")},
        },
        "components": {
            "schemas": schemas["$defs"] | {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _answering(summary: str, request: type[TextRequest], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(model=request.__name__)}
    content = {"application/json": {"schema": schema, "example": example}}
    operation = _operation(summary, "application/json", "text/event-stream")
    return operation | {"requestBody": {"required": True, "content": content}}


def _operation(summary: str, *media_types: str) -> dict[str, Any]:
    failure = {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")}}}
    responses: dict[str, Any] = {"200": {"description": "It is done.", "content": {kind: {} for kind in media_types}}}
    responses |= {status: {"description": said, "content": failure} for status, said in _FAILURES.items()}
    return {"summary": summary, "responses": responses}
