"""What clients ask for, in OpenAI's form: each request as a typed record, and as what the runtime takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mimo_mobile.runtime.generation_config import LEAST_TEMPERATURE, GenerationConfig
from mimo_mobile.runtime.server.errors import BAD_REQUEST, RequestError
from mimo_mobile.runtime.structure import Structure
from mimo_mobile.runtime.text.chat_template import Message, messages_of
from mimo_mobile.runtime.text.tools import MOST_TOOLS
from mimo_mobile.untrusted import printable

MOST_CHOICES, MOST_STOPS, MOST_MESSAGES = 8, 16, 4096

MOST_PLACE = 200
"""Characters of the name of a wrong field that a message shows."""

IGNORED = frozenset(
    {"metadata", "name", "prompt_cache_key", "refusal", "safety_identifier", "service_tier"}
    | {"store", "user", "verbosity"}
)
"""What clients send along and what changes no answer."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (), "function_call": (), "functions": (), "logprobs": (False,), "modalities": (["text"],),
    "prediction": (), "reasoning_effort": (), "top_logprobs": (0,), "web_search_options": (),
}  # fmt: skip
"""What OpenAI's API has and this server has not, with the values, beside null, that ask for nothing."""

TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]

StopText = Annotated[str, Field(min_length=1)]

Text = Annotated[str, Field(description="Text; special tokens in it are text, too.")]


class _Body(BaseModel):
    """An object whose fields are all known, each of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name in NEUTRAL.keys() & given.keys() - cls.model_fields.keys():
            if given[name] is not None and given[name] not in NEUTRAL[name]:
                raise ValueError(f"{name} is not supported by this server; leave it out")
        passed_over = (NEUTRAL.keys() | IGNORED) - cls.model_fields.keys()
        return {name: value for name, value in given.items() if name not in passed_over}


class TextPart(_Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class CalledFunction(_Body):
    """A function that was called."""

    name: str
    """Its name."""
    arguments: str
    """What it was called with: a JSON object, as a text."""


class CalledTool(_Body):
    """A call that the assistant made."""

    id: str | None = None
    """Its id, which has no effect: results follow calls in their order."""
    type: Literal["function"] = "function"
    function: CalledFunction
    """What was called."""


class Function(_Body):
    """A function that the answer may call."""

    name: str
    """Its name: 1 to 64 letters, digits, _, - and dots."""
    description: str | None = None
    """What it is for."""
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments; by default it has none."""
    strict: bool | None = None
    """Whether a keyword of the schema that no grammar can express is refused; otherwise it is passed over."""


class ToolDefinition(_Body):
    """A tool that the answer may call."""

    type: Literal["function"]
    function: Function
    """What can be called."""


class NamedFunction(_Body):
    """The function that the answer must call."""

    name: str
    """Its name."""


class NamedTool(_Body):
    """The tool that the answer must call."""

    type: Literal["function"]
    function: NamedFunction
    """The function that it is."""


class ChatMessage(_Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who says it; ``developer`` is ``system``."""
    content: Text | list[TextPart] | None = None
    """What is said."""
    reasoning_content: str | None = None
    """What the assistant thought; the prompt leaves it out, as MiMo was trained."""
    tool_calls: list[CalledTool] | None = None
    """What the assistant called."""
    tool_call_id: str | None = None
    """Which call a tool answers, which has no effect: results follow calls in their order."""

    def message(self) -> Message:
        """The message as the chat template takes it.

        Raises:
            BadArgumentError: The arguments of a call are no JSON object.
        """
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or []]
        said = {"role": "system" if self.role == "developer" else self.role, "content": "".join(parts)}
        calls = [each.model_dump() for each in self.tool_calls or []]
        return messages_of([said | ({"tool_calls": calls} if calls else {})])[0]


class StreamOptions(_Body):
    """What a stream tells beside the text."""

    include_usage: bool | None = None
    """Whether a last chunk without choices tells the usage."""
    include_obfuscation: bool | None = None
    """It has no effect: nothing is padded."""


class TemplateOptions(_Body):
    """What vLLM and SGLang hand to the chat template."""

    enable_thinking: bool | None = None
    """Whether the model thinks before it answers."""


class JsonSchema(_Body):
    """A JSON schema that the answer must keep to."""

    name: str
    """A name, which has no effect."""
    description: str | None = None
    """A description, which has no effect."""
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    """The schema: Draft 2020-12, without what no grammar can express, which is refused."""
    strict: bool | None = None
    """It has no effect: the answer keeps to the schema in any case."""


class ResponseFormat(_Body):
    """What the answer must be; the thinking before it stays free."""

    type: Literal["text", "json_object", "json_schema"]
    """``text`` is anything, ``json_object`` is any JSON object."""
    json_schema: JsonSchema | None = None
    """The schema, where ``type`` says that there is one."""

    @model_validator(mode="after")
    def _has_what_it_says(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema goes with the type json_schema, and only with it")
        return self

    def structure(self) -> Structure | None:
        """The same as the runtime takes it.

        Raises:
            BadArgumentError: The schema is too long.
        """
        if self.type == "text":
            return None
        return Structure.schema({"type": "object"} if self.json_schema is None else self.json_schema.json_schema)


class ChatRequest(_Body):
    """A request for the next message of a conversation."""

    model: str
    """The name of the model, as /v1/models tells it."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    """The conversation so far."""
    stream: bool | None = None
    """Whether the text is sent as it comes."""
    stream_options: StreamOptions | None = None
    """What a stream tells beside the text."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """How many answers to give."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """How many tokens thinking and answer may have together; by default what the context leaves."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of ``max_completion_tokens``."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """How freely tokens are sampled; 0 takes the most likely one each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the most likely tokens that together reach this probability are sampled from."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Only so many of the most likely tokens are sampled from; 0 is off."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only tokens at least this share as likely as the most likely one are sampled from."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """The same seed draws the same random numbers."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    """The answer ends before any of these texts."""
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    """Logits of tokens that were said are divided by this where they are above 0, and else multiplied with it."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """What is subtracted from the logits of tokens that the answer or its thinking holds already."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """What is subtracted from them as often as the token occurs there."""
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """What is added to the logits of tokens, by their ids."""
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    """After how many tokens the thinking is closed, so that the answer follows."""
    response_format: ResponseFormat | None = None
    """What the answer must be, such as JSON of a schema."""
    tools: Annotated[list[ToolDefinition], Field(max_length=MOST_TOOLS)] | None = None
    """What the answer may call."""
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    """Whether it calls any, or which one it must call."""
    parallel_tool_calls: bool | None = None
    """Whether it may make several calls."""
    chat_template_kwargs: TemplateOptions | None = None
    """``{"enable_thinking": false}`` lets the model answer without thinking."""

    def configs(self, most_tokens: int | None) -> list[GenerationConfig]:
        """How to generate each of the answers.

        Raises:
            BadArgumentError: A value is out of its range.
        """
        asked = self.max_completion_tokens or self.max_tokens
        temperature = self.temperature
        if temperature is not None and temperature < LEAST_TEMPERATURE:
            temperature = 0.0  # which a smaller one comes to
        given: dict[str, Any] = {
            "temperature": temperature, "top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p,
            "max_tokens": min(filter(None, (asked, most_tokens)), default=None),
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop, "thinking_budget": self.thinking_budget,
            "repetition_penalty": self.repetition_penalty, "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(token): float(bias) for token, bias in (self.logit_bias or {}).items()} or None,
            "structure": self.response_format.structure() if self.response_format else None,
            "tools": [each.model_dump(exclude_none=True) for each in self.tools or []],
            "parallel_tool_calls": self.parallel_tool_calls,
            "tool_choice": choice.function.name if isinstance(choice := self.tool_choice, NamedTool) else choice,
            "thinking": self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None,
        }  # fmt: skip
        given = {name: float(value) if name in _FLOATS else value for name, value in given.items() if value is not None}
        seeds = [None if self.seed is None else self.seed + place for place in range(self.n or 1)]
        return [GenerationConfig(**given, seed=seed) for seed in seeds]


_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def chat_request(value: object) -> ChatRequest:
    """The request that a JSON value stands for.

    Raises:
        RequestError: It is none; the message names the first field that is wrong.
    """
    try:
        return ChatRequest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        said = {"extra_forbidden": "there is no such field; /openapi.json lists those that there are"}.get(
            first["type"], first["msg"].removeprefix("Value error, ")
        )
        place = printable(".".join(map(str, first["loc"]))[:MOST_PLACE])
        raise RequestError(BAD_REQUEST, f"{place}: {said}" if place else said, "invalid_value") from error
