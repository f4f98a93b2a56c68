"""Messages → prompt, by the model's own chat template in jinja2's sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mimo_mobile.errors import SessionError
from mimo_mobile.mimo7b import DEFAULT_SYSTEM_PROMPT, THINK_CLOSE, THINK_OPEN

NO_THINKING = f"{THINK_OPEN}\n{THINK_CLOSE}\n\n"
"""How the assistant's turn begins when it is not to think: an empty block."""

CLOSE_THINKING = f"\n{THINK_CLOSE}\n\n"
"""What ends thinking when its budget is used up."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


def render(template: str, messages: Sequence[Message], *, thinking: bool = True) -> str:
    """The prompt for the assistant's next turn.

    Without a system message an empty one is put first, as Xiaomi recommends; the template would write its own.

    Raises:
        SessionError: The template is broken or refuses the messages.
    """
    if not messages or messages[0].role != "system":
        messages = [Message("system", DEFAULT_SYSTEM_PROMPT), *messages]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    try:
        prompt = environment.from_string(template).render(
            messages=[asdict(message) for message in messages], add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise SessionError(f"chat template: {error}; convert the checkpoint again or use a raw prompt") from error
    return prompt if thinking else prompt + NO_THINKING


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
