"""MiMo Mobile: convert, quantize and run MiMo-7B on phones.

Names are imported when they are first used, so that ``import mimo_mobile`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.convert.model import convert_checkpoint
    from mimo_mobile.errors import MimoMobileError
    from mimo_mobile.hub import Source, resolve
    from mimo_mobile.mimo7b import MIMO_7B, MimoConfig
    from mimo_mobile.progress import Progress
    from mimo_mobile.quantize.pipeline import quantize_checkpoint
    from mimo_mobile.quantize.recipes import RECIPES
    from mimo_mobile.runtime.decode.session import Session
    from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig, GenerationStats
    from mimo_mobile.runtime.loading import load
    from mimo_mobile.runtime.text.chat_template import Message

__all__ = [  # noqa: RUF022  (grouped by stage)
    # checkpoint
    "MIMO_7B", "Checkpoint", "MimoConfig", "Source", "resolve",
    # convert, quantize
    "RECIPES", "convert_checkpoint", "quantize_checkpoint",
    # runtime
    "GeneratedToken", "GenerationConfig", "GenerationStats", "Message", "Session", "load",
    # shared
    "MimoMobileError", "Progress", "__version__",
]  # fmt: skip

_MODULES = {
    "mimo_mobile.convert.checkpoint": ("Checkpoint",),
    "mimo_mobile.convert.model": ("convert_checkpoint",),
    "mimo_mobile.errors": ("MimoMobileError",),
    "mimo_mobile.hub": ("Source", "resolve"),
    "mimo_mobile.mimo7b": ("MIMO_7B", "MimoConfig"),
    "mimo_mobile.progress": ("Progress",),
    "mimo_mobile.quantize.pipeline": ("quantize_checkpoint",),
    "mimo_mobile.quantize.recipes": ("RECIPES",),
    "mimo_mobile.runtime.text.chat_template": ("Message",),
    "mimo_mobile.runtime.loading": ("load",),
    "mimo_mobile.runtime.decode.generation": ("GeneratedToken", "GenerationConfig", "GenerationStats"),
    "mimo_mobile.runtime.decode.session": ("Session",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
