"""Tools that an answer may call: what the prompt says of them, the grammar of calls, and calls in a text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mimo_mobile.arguments import check_text
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.mimo7b import TOOL_CALL_CLOSE, TOOL_CALL_OPEN
from mimo_mobile.runtime.structure import Structure
from mimo_mobile.runtime.text.stop_strings import overlap
from mimo_mobile.untrusted import parse_json

CHOICES = ("auto", "none", "required")
"""What ``tool_choice`` may be beside the name of a tool."""

MOST_TOOLS = 128

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")

_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The template writes calls so when they are part of a later prompt, which the KV cache then has."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool in an answer.

    Attributes:
        name: The tool, which is one of those that were given.
        arguments: What it is called with, as its schema says.
    """

    name: str
    arguments: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The call as chat templates take it."""
        return {"type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}

    @property
    def text(self) -> str:
        """The arguments as JSON.

        Raises:
            TypeError: One is nothing that JSON knows.
            ValueError: One is NaN or infinite.
        """
        return json.dumps(dict(self.arguments), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, as ``tools_of`` reads it.

    Attributes:
        name: Its name.
        schema: The JSON schema of its arguments.
        described: All that the prompt says of it.
    """

    name: str
    schema: Mapping[str, Any]
    described: Mapping[str, Any]

    def rule(self) -> Mapping[str, Any]:
        """The schema for a grammar; keywords that no grammar can express are passed over unless the tool is strict."""
        return {**self.schema, "x-guidance": {**_LAYOUT, "lenient": not self.described["function"].get("strict")}}


def tools_of(given: Sequence[Mapping[str, object]]) -> list[Tool]:
    """The tools that a list in OpenAI's form describes.

    Raises:
        BadArgumentError: One is none, or its name is another's, too.
    """
    if len(given) > MOST_TOOLS:
        raise BadArgumentError(f"tools: {len(given)} found, at most {MOST_TOOLS} expected")
    tools = [_tool(f"tools[{place}]", each) for place, each in enumerate(given)]
    names = [each.name for each in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadArgumentError(f"tools: two are called {twice!r}; give each a name of its own")
    return tools


def chosen(given: Sequence[Mapping[str, object]], choice: str) -> list[Tool]:
    """The tools that an answer may call.

    Raises:
        BadArgumentError: One is none, or ``choice`` names none of them.
    """
    tools = tools_of(given)
    if choice in CHOICES:
        if choice == "required" and not tools:
            raise BadArgumentError("tool_choice is required, and there are no tools; give some")
        return [] if choice == "none" else tools
    found = [each for each in tools if each.name == choice]
    if not found:
        raise BadArgumentError(f"tool_choice {choice!r:.80} is neither {', '.join(CHOICES)} nor the name of a tool")
    return found


def structure_of(tools: Sequence[Tool], choice: str, *, several: bool = True) -> Structure:
    """What an answer with these tools must be: one call or ``several``, or with ``auto`` any text.

    Raises:
        BadArgumentError: The schemas are too long.
    """
    body = 'body: "\\n{\\"name\\": " (' + " | ".join(f"tool_{place}" for place in range(len(tools))) + ") "
    opened = json.dumps(TOOL_CALL_OPEN)
    more = f'("\\n" {opened} body)*' if several else ""
    starts = {
        "auto": f"TEXT | trigger body {more}\ntrigger[lazy]: /(.|\\n)*{TOOL_CALL_OPEN}/\nTEXT: /(.|\\n)*/",
        "required": f"{opened} body {more}",
    }
    rules = [
        "%llguidance {}",
        f"start: {starts.get(choice, f'{opened} body')}",
        body + json.dumps("}\n" + TOOL_CALL_CLOSE),
    ]
    for place, each in enumerate(tools):
        named = f'{json.dumps(each.name)}, "arguments": '
        rules.append(f"tool_{place}: {json.dumps(named)} arguments_{place}")
        rules.append(f"arguments_{place}: %json {json.dumps(each.rule(), ensure_ascii=False)}")
    try:
        return Structure.grammar("\n".join(rules))
    except BadArgumentError as error:
        raise BadArgumentError(f"tools: {error}") from error


class ToolCalls:
    """Text in; text and calls out. Text that may be the beginning of a call is held back."""

    def __init__(self) -> None:
        """Wait for the first call."""
        self._held = ""

    def feed(self, text: str) -> list[str | ToolCall]:
        """The text before a call, and the calls, that are certain now."""
        self._held += text
        found = list[str | ToolCall]()
        while True:
            before, opened, call = self._held.partition(TOOL_CALL_OPEN)
            inside, closed, rest = call.partition(TOOL_CALL_CLOSE)
            if not closed:
                break
            made = _call(inside)
            text = before.rstrip() if made else before + opened + inside + closed
            found += [each for each in (text, made) if each]
            self._held = rest
        certain = before[: len(before) - (0 if opened else overlap(before, TOOL_CALL_OPEN))].rstrip()
        self._held = self._held[len(certain) :]
        return [*found, certain] if certain else found

    def flush(self) -> str:
        """What was held back, at the end: a call that was cut off is text."""
        text, self._held = self._held, ""
        return text


def _call(text: str) -> ToolCall | None:
    try:
        match parse_json(text):
            case {"name": str(name), "arguments": dict(arguments)}:
                call = ToolCall(name, arguments)
                _ = call.text  # raises where there is none: 1e999 is a number of JSON, and infinite to Python
                return call
    except ValueError:
        pass
    return None


def _tool(place: str, given: Mapping[str, object]) -> Tool:
    match given:
        case {"type": "function", "function": Mapping() as function}:
            pass
        case _:
            raise BadArgumentError(f"{place}: {{'type': 'function', 'function': {{…}}}} expected, as OpenAI has it")
    name, schema = function.get("name"), function.get("parameters")
    if not (isinstance(name, str) and _NAME.fullmatch(name)) or name in CHOICES:
        raise BadArgumentError(f"{place}: the name {name!r:.80} found; 1 to 64 letters, digits, _, - and . expected")
    if not isinstance(function.get("description", ""), str | None):
        raise BadArgumentError(f"{place}: the description is no text")
    if schema is None:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(schema, Mapping):
        raise BadArgumentError(f"{place}: parameters of {type(schema).__name__} found, a JSON schema expected")
    try:
        described = json.loads(json.dumps(dict(given), allow_nan=False))
        check_text(json.dumps(described, ensure_ascii=False), place)
    except BadArgumentError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgumentError(f"{place}: it cannot be written as JSON: {error}") from error
    if schema.get("type", "object") != "object":
        raise BadArgumentError(f"{place}: parameters of type {schema['type']!r:.80} found, object expected")
    return Tool(name, {"type": "object", **schema}, described)
