"""How a model is cut for NPUs: which layers a piece has, and for which windows and context it is compiled.

This module knows sizes only, and no graph.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from mimo_mobile.errors import QuantizationError
from mimo_mobile.layout import DEFAULT_CONTEXT
from mimo_mobile.mimo7b import MimoConfig

SESSION_BYTES = 3_000_000_000
"""Weights and cache of one piece; activations get the rest of a Hexagon session's address space of 3.75 GB."""

WINDOWS = (64, 2, 1)
"""The windows that each layer is compiled for: a prompt's, that of a draft which is verified, and one token."""

HEAD_WINDOWS = (2, 1)
"""The head computes the rows of a draft that is verified, or one; of a prompt it reads the last row only."""

COMPILER_BYTES, FIRST_WINDOW, FIRST_WINDOW_8_BITS, FURTHER_WINDOW = 300_000_000, 6.0, 5.0, 3.2
"""What compiling a piece takes: the compiler itself, and its weights so many times for the first window, where they
have 4 or 8 bits, and for each further one with the same copy. Layers of MiMo-7B's shapes in windows of 64, 2 and 1
tokens took 0.97, 1.34 and 1.77 GB (one layer of 111 MB), 1.57, 2.28 and 3.05 GB (two), and 3.02, 4.45 and 5.91 GB
(four). In 8 bits its head (699 MB) took 3.71 and 5.84 GB in windows of 2 and 1, and its MTP layer (237 MB) 1.50, 2.31
and 3.03 GB."""

SHARE_OF_MACHINE = 0.75
"""Compiling may take so much of a machine's memory, if nobody says otherwise."""


ADDED = 1.2
"""How much larger binaries are than their weights at most: 1.18 times with MiMo-nano, 0.99 with MiMo-7B's shapes."""


def compile_bytes(weights_bytes: int, windows: int, bits: float = 4.0) -> int:
    """About the memory that compiling a piece takes, whose weights have so many bits, for windows with one copy."""
    first = FIRST_WINDOW if bits < 8 else FIRST_WINDOW_8_BITS
    return round(COMPILER_BYTES + weights_bytes * (first + FURTHER_WINDOW * (windows - 1)))


@dataclass(frozen=True, slots=True)
class Cut:
    """How a model is cut, and what its pieces are compiled for.

    Attributes:
        context_length: Tokens of prompt and answer, for which the caches have room.
        windows: Tokens of one run: a prompt's, and 2 and 1 where the NPU computes tokens, too.
        shared: Whether the windows of a piece have one copy of its weights.
        memory_bytes: What compiling one piece may take; None is a share of this machine's memory.
        session_bytes: What weights and cache of a piece may take on the NPU; None is what its sessions have.
    """

    context_length: int
    windows: tuple[int, ...] = WINDOWS
    shared: bool = False
    memory_bytes: int | None = None
    session_bytes: int | None = None

    @property
    def computes_tokens(self) -> bool:
        """Whether the NPU computes tokens, with head and MTP layer; else prompts alone."""
        return len(self.windows) > 1

    def parts(self, config: MimoConfig, layer_bytes: int) -> list[range]:
        """The trunk's layers in parts of equal length that each fit an NPU's session and the memory to compile.

        Raises:
            QuantizationError: One layer takes more memory to compile.
        """
        # Keys and values in float16, once as input and once as output.
        layer = layer_bytes + 2 * 2 * 2 * self.context_length * config.num_key_value_heads * config.head_dim
        memory = machine_bytes() if self.memory_bytes is None else self.memory_bytes
        together = len(self.windows) if self.shared else 1
        compiled = (memory - COMPILER_BYTES) // (compile_bytes(layer_bytes, together) - COMPILER_BYTES)
        if compiled < 1:
            raise QuantizationError(
                f"compiling takes about {compile_bytes(layer_bytes, together) / 1e9:.1f} GB of memory for one layer,"
                f" and may take {memory / 1e9:.1f} GB here; allow more with --compile-memory, or take another machine"
            )
        most = max(1, min((self.session_bytes or SESSION_BYTES) // layer, compiled))
        count = config.num_hidden_layers
        edges = [round(count * part / math.ceil(count / most)) for part in range(math.ceil(count / most) + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def machine_bytes() -> int:
    """What compiling may take of this machine: of its whole memory, so that a run goes on with the pieces it began."""
    return int(SHARE_OF_MACHINE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def checked(
    context_length: int | None,
    windows: Sequence[int],
    most: int,
    *,
    shared: bool = False,
    memory_bytes: int | None = None,
    session_bytes: int | None = None,
) -> Cut:
    """The cut with a context and windows; a context of None is the model's ``most``, at most ``DEFAULT_CONTEXT``.

    Raises:
        QuantizationError: Context or windows do not fit the model or each other.
    """
    chosen = context_length or min(most, DEFAULT_CONTEXT)
    if not windows or (len(windows) > 1 and tuple(windows[1:]) != HEAD_WINDOWS):
        raise QuantizationError(
            f"--windows {','.join(map(str, windows))}: a prompt's window alone expected, such as 64, or with those of"
            " tokens, as in 64,2,1"
        )
    if not 2 < windows[0] < chosen <= most:
        raise QuantizationError(
            f"--context {chosen} with windows of {windows[0]}: a context up to {most} and smaller windows expected"
        )
    return Cut(chosen, tuple(windows), shared, memory_bytes, session_bytes)
