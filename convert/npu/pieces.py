"""How a model is cut for NPUs: which layers a piece has, and for which windows and context it is compiled.

This module knows sizes only, and no graph.
"""

from __future__ import annotations

import itertools
import math

from mimo_mobile.errors import QuantizationError
from mimo_mobile.layout import DEFAULT_CONTEXT
from mimo_mobile.mimo7b import MimoConfig

SESSION_BYTES = 3_000_000_000
"""Weights and cache of one piece; activations get the rest of a Hexagon session's address space of 3.75 GB."""


HEAD_WINDOWS = (2, 1)
"""The head computes the rows of a draft that is verified, or one; of a prompt it reads the last row only."""


def checked_context(context_length: int | None, chunk: int, most: int) -> int:
    """The context to compile for; None is the model's ``most``, at most ``DEFAULT_CONTEXT``.

    Raises:
        QuantizationError: It does not fit the model or the chunk.
    """
    chosen = context_length or min(most, DEFAULT_CONTEXT)
    if not 2 < chunk < chosen <= most:
        raise QuantizationError(
            f"--context {chosen} with chunks of {chunk}: a context up to {most} and smaller chunks expected"
        )
    return chosen


def windows_of(chunk: int) -> tuple[int, ...]:
    """The windows that each layer is compiled for: a prompt's, that of a draft which is verified, and one token."""
    return (chunk, 2, 1)


def split(config: MimoConfig, layer_bytes: int, context_length: int, session_bytes: int | None = None) -> list[range]:
    """The layers in parts of equal length that each fit ``session_bytes``; None is what an NPU's session has."""
    # Keys and values in float16, once as input and once as output.
    layer = layer_bytes + 2 * 2 * 2 * context_length * config.num_key_value_heads * config.head_dim
    count = config.num_hidden_layers
    parts = math.ceil(count / max(1, (session_bytes or SESSION_BYTES) // layer))
    edges = [round(count * part / parts) for part in range(parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]
