"""Quantized file → model → session → tokens.

>>> from mimo_mobile.runtime import GenerationConfig, Message, load  # doctest: +SKIP
>>> with load("out/mimo-nano") as model:
...     for token in model.generate([Message("user", "What is 348 + 27 * 6?")]):
...         print(token.text, end="")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimo_mobile import lazy

if TYPE_CHECKING:
    from mimo_mobile.runtime.backend import Backend
    from mimo_mobile.runtime.decode.constraint import Constraint
    from mimo_mobile.runtime.decode.conversation import Conversation
    from mimo_mobile.runtime.decode.exchange import Turn
    from mimo_mobile.runtime.decode.session import Session
    from mimo_mobile.runtime.endpoint import Endpoint
    from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig, GenerationStats
    from mimo_mobile.runtime.load_config import LoadConfig
    from mimo_mobile.runtime.loading import load
    from mimo_mobile.runtime.model import Model
    from mimo_mobile.runtime.planning import Plan, plan
    from mimo_mobile.runtime.structure import Structure
    from mimo_mobile.runtime.text.chat_template import Continued, Message
    from mimo_mobile.runtime.text.tools import ToolCall

__all__ = [  # noqa: RUF022  (grouped as mimo_mobile's are)
    "load", "LoadConfig", "plan", "Plan", "Model", "Endpoint", "Backend",
    "Session", "Conversation", "Turn", "Message", "Continued", "GenerationConfig", "Structure", "Constraint",
    "GeneratedToken", "GenerationStats", "ToolCall",
]  # fmt: skip

__getattr__ = lazy.getter(
    __name__,
    {
        "mimo_mobile.runtime.backend": ("Backend",),
        "mimo_mobile.runtime.decode.constraint": ("Constraint",),
        "mimo_mobile.runtime.decode.conversation": ("Conversation",),
        "mimo_mobile.runtime.decode.exchange": ("Turn",),
        "mimo_mobile.runtime.decode.session": ("Session",),
        "mimo_mobile.runtime.endpoint": ("Endpoint",),
        "mimo_mobile.runtime.generation_config": ("GeneratedToken", "GenerationConfig", "GenerationStats"),
        "mimo_mobile.runtime.load_config": ("LoadConfig",),
        "mimo_mobile.runtime.loading": ("load",),
        "mimo_mobile.runtime.model": ("Model",),
        "mimo_mobile.runtime.planning": ("plan", "Plan"),
        "mimo_mobile.runtime.structure": ("Structure",),
        "mimo_mobile.runtime.text.chat_template": ("Continued", "Message"),
        "mimo_mobile.runtime.text.tools": ("ToolCall",),
    },
)
