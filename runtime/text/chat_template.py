"""Messages → prompt, by the model's own chat template.

Special tokens are the template's alone: what a message says is text, whatever it says. To tell them apart, each special
token that is written out in the template is replaced by a surrogate, a code point that no text can hold, before the
template sees a message. Templates may then trim, split, compare or join the messages as they like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from mimo_mobile.arguments import check, check_text
from mimo_mobile.errors import BadArgumentError, SessionError
from mimo_mobile.mimo7b import DEFAULT_SYSTEM_PROMPT, THINK_CLOSE, THINK_OPEN
from mimo_mobile.runtime.text.template_language import ChatTemplate
from mimo_mobile.runtime.text.tokenizer import Segment, TextTokenizer
from mimo_mobile.runtime.text.tools import Tool, ToolCall
from mimo_mobile.untrusted import parse_json, printable

NO_THINKING = f"{THINK_OPEN}\n{THINK_CLOSE}\n\n"
"""How the assistant's turn begins when it is not to think: an empty block."""

CLOSE_THINKING = f"\n{THINK_CLOSE}\n\n"
"""What ends thinking when its budget is used up."""

Role = Literal["system", "user", "assistant", "tool"]

_SURROGATES = range(0xD800, 0xE000)

_LONGEST_PROBLEM = 300
"""Characters of a template's own error message that ours shows."""

_TEMPLATES: WeakKeyDictionary[TextTokenizer, tuple[str, ChatTemplate]] = WeakKeyDictionary()
"""Each tokenizer's last template."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who says it; ``tool`` tells what a call came to.
        content: What is said.
        tool_calls: The tools that the assistant called.
    """

    role: Role
    content: str
    tool_calls: Sequence[ToolCall] = ()

    def to_json(self) -> dict[str, Any]:
        """The message as chat templates take it; calls are named only where there are some."""
        said: dict[str, Any] = {"role": self.role, "content": self.content}
        return said | ({"tool_calls": [each.to_json() for each in self.tool_calls]} if self.tool_calls else {})


MessageLike = Message | Mapping[str, Any]
"""A message, or a dict in OpenAI's form: ``{"role": "user", "content": "…"}``."""


@dataclass(frozen=True, slots=True)
class Continued:
    """Messages whose answer was cut off, by ``max_tokens`` or because it was stopped: it goes on where it was cut.

    Attributes:
        messages: The conversation without that answer.
        thinking: What the answer had thought so far.
        answer: What it had said so far; empty when it was cut while it thought, and thinks on.
    """

    messages: Sequence[MessageLike]
    thinking: str
    answer: str = ""

    def __post_init__(self) -> None:
        """Check the types.

        Raises:
            BadArgumentError: A value has another type, or there is no message.
        """
        check_text(check("thinking", self.thinking, str), "thinking")
        check_text(check("answer", self.answer, str), "answer")
        if not messages_of(self.messages):
            raise BadArgumentError("messages: nothing found, at least one message expected")


def messages_of(messages: Sequence[MessageLike]) -> list[Message]:
    """The messages, those in OpenAI's form as ours; a content of several text parts is joined.

    >>> messages_of([{"role": "user", "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]}])
    [Message(role='user', content='2 + 2?')]

    Raises:
        BadArgumentError: One has another role, no text, or a key that would come to nothing.
    """
    return [_message_of(f"messages[{index}]", message) for index, message in enumerate(messages)]


def encode_messages(
    template: str,
    messages: Sequence[MessageLike],
    tokenizer: TextTokenizer,
    *,
    thinking: bool = True,
    tools: Sequence[Tool] = (),
    thought: str = "",
    answer: str = "",
) -> list[int]:
    """Token ids of the prompt for the assistant's next turn, which may have ``thought`` and answered something already.

    Raises:
        SessionError: The template is broken or refuses the messages.
        BadArgumentError: Something among the messages is none.
    """
    given = messages_of(messages)
    segments = render(template, given, tokenizer, tools=tools)
    return tokenizer.encode_segments([*segments, *opening(tokenizer, thinking, thought, answer)])


def render(
    template: str,
    messages: Sequence[Message],
    tokenizer: TextTokenizer,
    *,
    thinking: bool = True,
    tools: Sequence[Tool] = (),
) -> list[Segment]:
    """The prompt for the assistant's next turn, its special tokens apart from its text.

    Without a system message an empty one is put first, as Xiaomi recommends; the template would write its own.

    Raises:
        SessionError: The template is broken or refuses the messages.
    """
    if not messages or messages[0].role != "system":
        messages = [Message("system", DEFAULT_SYSTEM_PROMPT), *messages]
    stand_ins = dict(zip(tokenizer.special_tokens, map(chr, _SURROGATES), strict=False))
    names = {ord(stand_in): name for name, stand_in in stand_ins.items()}
    try:
        compiled = _compiled(template, tokenizer, stand_ins)
        said, described = [each.to_json() for each in messages], [dict(each.described) for each in tools]
        segments = _rendered(compiled, said, described, names)
        if _names_in(segments, tokenizer):
            # A message or a tool wrote them, and they are text; or the template did, from parts, and should not.
            neutral = [_neutral(each) | {"role": each["role"]} for each in said]
            if built := _names_in(_rendered(compiled, neutral, _neutral(described), names), tokenizer):
                raise ValueError(f"it puts {built[0]} together from parts, which nothing tells from what messages say")
    except Exception as error:  # a template is a program from elsewhere, which may fail in any way
        problem = printable(str(error).translate(names) or type(error).__name__)
        problem = problem if len(problem) <= _LONGEST_PROBLEM else f"{problem[:_LONGEST_PROBLEM]}…"
        raise SessionError(f"chat template: {problem}; convert the checkpoint again or use a raw prompt") from error
    return [*segments, *opening(tokenizer, thinking)]


def opening(tokenizer: TextTokenizer, thinking: bool, thought: str = "", answer: str = "") -> list[Segment]:
    """How a turn begins that has ``thought`` and answered so much, and may go on ``thinking`` or not."""
    if not thought:
        begun = [] if thinking else tokenizer.segments(NO_THINKING)
    else:
        closed = tokenizer.segments(CLOSE_THINKING) if answer or not thinking else []
        begun = [*tokenizer.segments(f"{THINK_OPEN}\n"), Segment(thought), *closed]
    return [*begun, Segment(answer)] if answer else begun


def _compiled(source: str, tokenizer: TextTokenizer, stand_ins: Mapping[str, str]) -> ChatTemplate:
    """The template, as it was made for this tokenizer's last prompt: making it takes longer than most prompts."""
    kept = _TEMPLATES.get(tokenizer)
    if kept is None or kept[0] != source:
        kept = source, ChatTemplate(source, lambda text: _with_stand_ins(text, tokenizer, stand_ins))
        _TEMPLATES[tokenizer] = kept
    return kept[1]


def _with_stand_ins(text: str, tokenizer: TextTokenizer, stand_ins: Mapping[str, str]) -> str:
    """A text of the template with stand-ins for the special tokens in it."""
    return "".join(stand_ins.get(name, name) if special else name for name, special in tokenizer.segments(text))


def _neutral(value: Any) -> Any:
    """The same with other texts: what a template makes of it is the template's own."""
    if isinstance(value, dict):
        return {"0" if "<" in key else key: _neutral(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_neutral(each) for each in value]
    return "0" if isinstance(value, str) else value


def _rendered(
    template: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]], names: Mapping[int, str]
) -> list[Segment]:
    prompt = template.render(messages, add_generation_prompt=True, **({"tools": tools} if tools else {}))
    parts = re.split("([\ud800-\udfff])", prompt)  # text and stand-ins, in turns
    return [
        Segment(names[ord(part)], special=True) if index % 2 else Segment(part)
        for index, part in enumerate(parts)
        if part
    ]


def _names_in(segments: Sequence[Segment], tokenizer: TextTokenizer) -> list[str]:
    """Special tokens whose names stand in the text of a prompt."""
    found = [each for segment in segments if not segment.special for each in tokenizer.segments(segment.text)]
    return [each.text for each in found if each.special]


def _message_of(place: str, given: object) -> Message:
    if not isinstance(given, Message | Mapping):
        raise BadArgumentError(
            f"{place}: {type(given).__name__} found, a Message or a dict with role and content expected"
        )
    if isinstance(given, Message):
        fields: Mapping[str, Any] = {"role": given.role, "content": given.content}
        calls = tuple(check("tool_calls", given.tool_calls, Sequence[ToolCall]))
    else:
        fields = {name: value for name, value in given.items() if name not in ("tool_calls", "tool_call_id")}
        calls = tuple(_call_of(place, each) for each in given.get("tool_calls") or ())
    if fields.keys() != {"role", "content"} and not (calls and fields.keys() == {"role"}):
        raise BadArgumentError(f"{place}: {', '.join(map(str, fields)) or 'nothing'} found, role and content expected")
    role, content = fields["role"], fields.get("content")
    if calls and role != "assistant":
        raise BadArgumentError(f"{place}: tool calls of the role {role!r:.60} found; the assistant alone calls tools")
    if calls and content is None:
        content = ""
    if role not in get_args(Role):
        raise BadArgumentError(f"{place}: role {role!r} found, one of {', '.join(get_args(Role))} expected")
    if isinstance(content, str):
        text = content
    elif isinstance(content, list | tuple):
        text = "".join(_text_of(place, part) for part in content)
    else:
        raise BadArgumentError(
            f"{place}: content of {type(content).__name__} found, a text or a list of text parts expected"
        )
    check_text(text, place)
    for each in calls:
        try:
            check_text(each.name + each.text, place)
        except BadArgumentError:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise BadArgumentError(
                f"{place}: the arguments of {each.name!r:.80} cannot be written as JSON: {error}"
            ) from error
    return Message(role, text, calls)


def _call_of(place: str, given: object) -> ToolCall:
    if isinstance(given, ToolCall):
        return given
    match given:
        case {"function": {"name": str(name), "arguments": str(text)}}:
            try:
                arguments = parse_json(text)
            except ValueError as error:
                raise BadArgumentError(f"{place}: the arguments of {name!r:.80} are no JSON: {error}") from error
        case {"function": {"name": str(name), "arguments": arguments}}:
            pass
        case _:
            raise BadArgumentError(f"{place}: call {given!r:.60} found, one in OpenAI's form expected")
    if not isinstance(arguments, Mapping):
        raise BadArgumentError(f"{place}: the arguments of {name!r:.80} are no JSON object")
    return ToolCall(name, arguments)


def _text_of(place: str, part: object) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    raise BadArgumentError(f"{place}: part {part!r:.60} found, {{'type': 'text', 'text': '…'}} expected")
