"""What clients ask for, in OpenAI's form: each request as a typed record, and as what the runtime takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mimo_mobile.runtime.generation_config import MOST_LOGPROBS, GenerationConfig
from mimo_mobile.runtime.server.fields import Body, TextRequest
from mimo_mobile.runtime.structure import Structure
from mimo_mobile.runtime.text.chat_template import Message, messages_of
from mimo_mobile.runtime.text.tools import MOST_TOOLS

MOST_MESSAGES, MOST_PROMPTS = 4096, 64

PromptText = Annotated[str, Field(min_length=1)]

PromptTokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]

Text = Annotated[str, Field(description="Text; special tokens in it are text, too.")]


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class CalledFunction(Body):
    """A function that was called."""

    name: str
    """Its name."""
    arguments: str
    """What it was called with: a JSON object, as a text."""


class CalledTool(Body):
    """A call that the assistant made."""

    id: str | None = None
    """Its id, which has no effect: results follow calls in their order."""
    type: Literal["function"] = "function"
    function: CalledFunction
    """What was called."""


class Function(Body):
    """A function that the answer may call."""

    name: str
    """Its name: 1 to 64 letters, digits, _, - and dots."""
    description: str | None = None
    """What it is for."""
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments; by default it has none."""
    strict: bool | None = None
    """Whether a keyword of the schema that no grammar can express is refused; otherwise it is passed over."""


class ToolDefinition(Body):
    """A tool that the answer may call."""

    type: Literal["function"]
    function: Function
    """What can be called."""


class NamedFunction(Body):
    """The function that the answer must call."""

    name: str
    """Its name."""


class NamedTool(Body):
    """The tool that the answer must call."""

    type: Literal["function"]
    function: NamedFunction
    """The function that it is."""


class ChatMessage(Body):
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


class TemplateOptions(Body):
    """What vLLM and SGLang hand to the chat template."""

    enable_thinking: bool | None = None
    """Whether the model thinks before it answers."""


class JsonSchema(Body):
    """A JSON schema that the answer must keep to."""

    name: str
    """A name, which has no effect."""
    description: str | None = None
    """A description, which has no effect."""
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    """The schema: Draft 2020-12, without what no grammar can express, which is refused."""
    strict: bool | None = None
    """It has no effect: the answer keeps to the schema in any case."""


class ResponseFormat(Body):
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


class ChatRequest(TextRequest):
    """A request for the next message of a conversation."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """How many tokens thinking and answer may have together; by default what the context leaves."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of ``max_completion_tokens``."""
    logprobs: bool | None = None
    """Whether the probabilities of tokens are told, by the model alone."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """How many of the likeliest tokens are told of each place."""
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

    @model_validator(mode="after")
    def _tells_what_it_asks_for(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs; send logprobs: true, too")
        return self

    def configs(self, most_tokens: int | None) -> list[GenerationConfig]:
        """How to generate each of the answers.

        Raises:
            BadArgumentError: A value is out of its range.
        """
        asked, choice = self.max_completion_tokens or self.max_tokens, self.tool_choice
        return self.generation_configs(
            min(filter(None, (asked, most_tokens)), default=None),
            thinking_budget=self.thinking_budget,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            structure=self.response_format.structure() if self.response_format else None,
            tools=[each.model_dump(exclude_none=True) for each in self.tools or []],
            parallel_tool_calls=self.parallel_tool_calls,
            tool_choice=choice.function.name if isinstance(choice, NamedTool) else choice,
            thinking=self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None,
        )


class CompletionRequest(TextRequest):
    """A request for what follows a text, or each of several."""

    prompt: (
        PromptText
        | PromptTokens
        | Annotated[list[PromptText], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[PromptTokens], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    """The text, or the ids of its tokens, or several; special tokens that a text names are real ones."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """How many tokens may follow; by default what the context leaves."""
    echo: bool | None = None
    """Whether a text is repeated before what follows it."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """How many of the likeliest tokens are told of each place, with their probabilities by the model alone."""

    @property
    def prompts(self) -> list[str | list[int]]:
        """All texts that go on, as they were given."""
        parts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        ids = [each for each in parts if isinstance(each, int)]
        return [ids] if ids else [each for each in parts if not isinstance(each, int)]

    @model_validator(mode="after")
    def _tells_of_what_follows(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs exclude each other, since nothing is told of the prompt's tokens")
        return self

    def configs(self, most_tokens: int | None) -> list[GenerationConfig]:
        """How to generate each of the texts.

        Raises:
            BadArgumentError: A value is out of its range.
        """
        most = min(filter(None, (self.max_tokens, most_tokens)), default=None)
        return self.generation_configs(most, logprobs=self.logprobs)
