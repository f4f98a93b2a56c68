"""MiMo Mobile: convert, quantize and run MiMo-7B on phones.

Names are imported when they are first used, so that ``import mimo_mobile`` costs nothing.
"""

from __future__ import annotations

from mimo_mobile import lazy

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing's, whose import would take longer than all that is imported here

if TYPE_CHECKING:
    from mimo_mobile.convert.model import convert_checkpoint
    from mimo_mobile.errors import MimoMobileError
    from mimo_mobile.progress import Progress
    from mimo_mobile.quantize.pipeline import quantize_checkpoint
    from mimo_mobile.runtime.backend import Backend
    from mimo_mobile.runtime.decode.conversation import Conversation
    from mimo_mobile.runtime.decode.exchange import Turn
    from mimo_mobile.runtime.decode.session import Session
    from mimo_mobile.runtime.endpoint import Endpoint
    from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig, GenerationStats
    from mimo_mobile.runtime.load_config import LoadConfig
    from mimo_mobile.runtime.loading import load
    from mimo_mobile.runtime.model import Model
    from mimo_mobile.runtime.planning import plan
    from mimo_mobile.runtime.structure import Structure
    from mimo_mobile.runtime.text.chat_template import Message
    from mimo_mobile.runtime.text.tools import ToolCall

__all__ = [  # noqa: RUF022  (grouped by stage)
    # convert, quantize
    "convert_checkpoint", "quantize_checkpoint",
    # load
    "load", "LoadConfig", "plan", "Model", "Endpoint", "Backend",
    # generate
    "Session", "Conversation", "Turn", "Message", "GenerationConfig", "Structure", "GeneratedToken",
    "GenerationStats", "ToolCall",
    # shared
    "MimoMobileError", "Progress", "__version__",
]  # fmt: skip

__getattr__ = lazy.getter(
    __name__,
    {
        "mimo_mobile.convert.model": ("convert_checkpoint",),
        "mimo_mobile.errors": ("MimoMobileError",),
        "mimo_mobile.progress": ("Progress",),
        "mimo_mobile.quantize.pipeline": ("quantize_checkpoint",),
        "mimo_mobile.runtime": (
            "load", "LoadConfig", "plan", "Model", "Endpoint", "Backend",
            "Session", "Conversation", "Turn", "Message",
            "GenerationConfig", "Structure", "GeneratedToken", "GenerationStats", "ToolCall",
        ),
    },
)  # fmt: skip
