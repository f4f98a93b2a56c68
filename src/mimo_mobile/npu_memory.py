"""What a model takes on an NPU: its pieces, their sessions, and memory; planned, or of binaries that are there.

How Hexagon and Android count it is assumed, as docs/devices.md says: no phone was measured. This module computes sums,
and loads nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mimo_mobile import graph_file
from mimo_mobile.layout import NpuSettings

ADDRESS_BYTES = 3_750_000_000
"""The address space of one session of a Hexagon."""

KV_BYTES = 2
"""Bytes of a number in an NPU's KV cache, which is float16."""

Mode = Literal["npu", "split", "staged", "cpu"]
"""``npu`` computes prompts and tokens on the NPU, ``split`` prompts there and tokens on the CPU, ``cpu`` both on it.
``staged`` is split with one piece at a time on the NPU; it is planned only, as nothing here runs it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the model on the NPU.

    Attributes:
        name: What its files' names begin with.
        layers: How many layers of the trunk it has.
        weights_bytes: One copy of its weights.
        cache_bytes: Its KV cache in float16, once as input and once as output.
        windows: The windows that it is compiled for.
        compile_bytes: About the memory that compiling it takes; 0 when it is compiled.
    """

    name: str
    layers: int
    weights_bytes: int
    cache_bytes: int
    windows: tuple[int, ...]
    compile_bytes: int = 0

    @property
    def address_bytes(self) -> int:
        """What one binary takes of a session's address space, without activations."""
        return self.weights_bytes + self.cache_bytes

    def __str__(self) -> str:
        """The piece in words."""
        layers = f"{self.layers} layers, " if self.layers > 1 else ""
        windows = ", ".join(map(str, self.windows))
        return (
            f"{self.name}: {layers}windows of {windows}; {gb(self.weights_bytes)} of weights and"
            f" {gb(self.cache_bytes)} of caches, {100 * self.address_bytes / ADDRESS_BYTES:.0f} % of a session"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run a model on an NPU.

    Attributes:
        mode: What computes where.
        shared: Whether the windows of a piece have one copy of its weights.
        context_length: Tokens of prompt and answer.
        pieces: The pieces on the NPU.
        cpu_bytes: Weights that the CPU computes with, without the embedding, of which few rows are read.
        embedding_bytes: The embedding, which is on the CPU in each mode.
        cache_bytes: The app's KV caches, in float16.
        runtime_bytes: App, engine and its buffers.
    """

    mode: Mode
    shared: bool
    context_length: int
    pieces: tuple[Piece, ...]
    cpu_bytes: int
    embedding_bytes: int
    cache_bytes: int
    runtime_bytes: int = 0

    @property
    def loaded(self) -> tuple[Piece, ...]:
        """The pieces that are on the NPU at the same time."""
        if self.mode == "staged":
            return (max(self.pieces, key=lambda each: each.address_bytes),)
        return self.pieces

    @property
    def sessions(self) -> int:
        """How many binaries are loaded, each in a session of its own."""
        return sum(1 if self.shared else len(each.windows) for each in self.loaded)

    @property
    def npu_bytes(self) -> int:
        """Weights on the NPU, in as many copies as there are."""
        return sum(each.weights_bytes * (1 if self.shared else len(each.windows)) for each in self.loaded)

    @property
    def npu_cache_bytes(self) -> int:
        """The NPU's copies of the caches; the windows of a piece never run at once, and have one in common."""
        return sum(each.cache_bytes for each in self.loaded)

    @property
    def memory_bytes(self) -> int:
        """What all of it takes of a phone's memory."""
        return self.npu_bytes + self.npu_cache_bytes + self.cpu_bytes + self.cache_bytes + self.runtime_bytes

    def fits(self, available_bytes: int) -> bool:
        """Whether so much memory has room for it, and a session for each piece."""
        return self.memory_bytes <= available_bytes and all(each.address_bytes <= ADDRESS_BYTES for each in self.pieces)

    def __str__(self) -> str:
        """The sums in words."""
        cpu = f", {gb(self.cpu_bytes)} of weights for the CPU" if self.cpu_bytes else ""
        return (
            f"{self.sessions} binaries for {self.context_length} tokens of context: {gb(self.npu_bytes)} on the NPU,"
            f" {gb(self.npu_cache_bytes)} of caches there and {gb(self.cache_bytes)} here{cpu}"
        )


def compiled(folder: Path, settings: NpuSettings, cpu_bytes: int = 0, runtime_bytes: int = 0) -> Plan:
    """What a folder of binaries takes; ``cpu_bytes`` are the weights of a CPU that computes tokens beside the NPU.

    Raises:
        ModelLoadError: A graph cannot be read.
    """
    named = [(f"layers-{index}", layers, settings.windows) for index, layers in enumerate(settings.layers)]
    if settings.computes_tokens:
        named.append(("head", 0, (2, 1)))
    if settings.mtp:
        named += [("mtp", 1, settings.windows), ("draft_head", 0, (1,))]
    sizes = {name: [settings.sizes.get(f"{name}.{window}", 0) for window in windows] for name, _, windows in named}
    # A shared binary is counted once, for its last window; the other graphs are small references.
    shared = any(len(each) > 1 and max(each) > 2 * min(each) for each in sizes.values())
    pieces, caches = [], 0
    for name, layers, windows in named:
        cache = _caches(folder / f"{name}.{windows[0]}.onnx") if layers else 0
        caches += cache
        weights = sum(sizes[name]) if shared else max(sizes[name])
        pieces.append(Piece(name, layers, weights, 2 * cache, windows))
    mode: Mode = "npu" if settings.computes_tokens else "split"
    cpu_bytes = 0 if settings.computes_tokens else cpu_bytes
    return Plan(
        mode,
        shared,
        settings.context_length,
        tuple(pieces),
        cpu_bytes,
        settings.embedding_bytes,
        caches,
        runtime_bytes,
    )


def _caches(model: Path) -> int:
    """Bytes of the caches that a graph reads."""
    inputs = graph_file.read(model).inputs.items()
    shapes = [each.shape for name, each in inputs if name.startswith("past_key_values.")]
    return sum(KV_BYTES * math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)


def gb(size: int) -> str:
    """A size in GB for messages."""
    return f"{size / 1e9:.2f} GB"
