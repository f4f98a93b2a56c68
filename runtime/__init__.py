"""Quantized file → session → tokens.

>>> from mimo_mobile.runtime import GenerationConfig, Message, load  # doctest: +SKIP
>>> with load("out/mimo-nano") as session:
...     for token in session.generate([Message("user", "What is 348 + 27 * 6?")]):
...         print(token.text, end="")
"""

from mimo_mobile.runtime.decode.session import Session
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig, GenerationStats
from mimo_mobile.runtime.loading import load
from mimo_mobile.runtime.text.chat_template import Message

__all__ = ["GeneratedToken", "GenerationConfig", "GenerationStats", "Message", "Session", "load"]
