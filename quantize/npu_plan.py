"""What a model takes on an NPU, in pieces, sessions and memory: before anything is compiled or loaded.

The sums are made from a configuration's shapes alone. How Hexagon and Android count them is assumed, as docs/devices.md
says: no phone was measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mimo_mobile.convert.draft_vocabulary import LEARNT_TOKENS
from mimo_mobile.convert.npu.pieces import HEAD_WINDOWS, checked_context, split, windows_of
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.quantize.choice import DEVICES, KV_BYTES, PREPACKED, RUNTIME_BYTES, Device
from mimo_mobile.quantize.recipes import Recipe
from mimo_mobile.quantize.report import gb
from mimo_mobile.quantize.sizes import ADDED_TOKENS, stored_bytes

ADDRESS_BYTES = 3_750_000_000
"""The address space of one session of a Hexagon."""

PHONES = tuple(DEVICES[name] for name in ("phone-8gb", "phone-12gb", "phone-16gb"))
"""The phones that a plan is held against."""

LEAST_CONTEXT = 512
"""A phone's context is halved down to so many tokens until the model fits."""

Mode = Literal["npu", "split"]
"""``npu`` computes prompts and tokens on the NPU, ``split`` prompts there and tokens on the CPU."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the model on the NPU.

    Attributes:
        name: What its files' names begin with.
        layers: How many layers of the trunk it has.
        weights_bytes: One copy of its weights.
        cache_bytes: Its KV cache in float16, once as input and once as output.
        windows: The windows that it is compiled for.
    """

    name: str
    layers: int
    weights_bytes: int
    cache_bytes: int
    windows: tuple[int, ...]

    @property
    def address_bytes(self) -> int:
        """What one binary takes of a session's address space, without activations."""
        return self.weights_bytes + self.cache_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run a model on an NPU.

    Attributes:
        recipe: The recipe's name.
        mode: What computes where.
        shared: Whether the windows of a piece have one copy of its weights.
        context_length: Tokens of prompt and answer.
        pieces: The pieces on the NPU.
        cpu_bytes: Weights that the CPU computes with, without the embedding, of which few rows are read.
        embedding_bytes: The embedding, which is on the CPU in either mode.
        cache_bytes: The app's KV caches, in float16.
    """

    recipe: str
    mode: Mode
    shared: bool
    context_length: int
    pieces: tuple[Piece, ...]
    cpu_bytes: int
    embedding_bytes: int
    cache_bytes: int

    @property
    def sessions(self) -> int:
        """How many binaries are loaded, each in a session of its own."""
        return sum(1 if self.shared else len(each.windows) for each in self.pieces)

    @property
    def npu_bytes(self) -> int:
        """Weights on the NPU, in as many copies as there are."""
        return sum(each.weights_bytes * (1 if self.shared else len(each.windows)) for each in self.pieces)

    @property
    def npu_cache_bytes(self) -> int:
        """The NPU's copies of the caches; the windows of a piece never run at once, and have one in common."""
        return sum(each.cache_bytes for each in self.pieces)

    @property
    def memory_bytes(self) -> int:
        """What all of it takes of a phone's memory."""
        return self.npu_bytes + self.npu_cache_bytes + self.cpu_bytes + self.cache_bytes + RUNTIME_BYTES

    def fits(self, device: Device) -> bool:
        """Whether a phone has room for it, and a session for each piece."""
        return self.memory_bytes <= device.available_bytes and all(
            each.address_bytes <= ADDRESS_BYTES for each in self.pieces
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values, with the sums."""
        sums = {name: getattr(self, name) for name in ("sessions", "npu_bytes", "npu_cache_bytes", "memory_bytes")}
        pieces = [dataclasses.asdict(each) | {"address_bytes": each.address_bytes} for each in self.pieces]
        fits = {each.name: self.fits(each) for each in PHONES}
        return dataclasses.asdict(self) | {"pieces": pieces, **sums, "runtime_bytes": RUNTIME_BYTES, "fits": fits}


def plans(recipe: Recipe, config: MimoConfig, context_length: int | None = None, chunk: int = 64) -> list[Plan]:
    """Every way to run a recipe's model.

    Args:
        recipe: An ONNX recipe.
        config: The model's configuration.
        context_length: Tokens of prompt and answer; None is the model's, at most 4096.
        chunk: Tokens of a prompt in one run.

    Raises:
        QuantizationError: ``context_length`` or ``chunk`` do not fit the model.
    """
    context_length = checked_context(context_length, chunk, config.max_position_embeddings)
    ways: tuple[tuple[Mode, bool], ...] = (("npu", True), ("npu", False), ("split", False))
    return [plan(recipe, config, mode, shared, context_length, chunk) for mode, shared in ways]


def plan(recipe: Recipe, config: MimoConfig, mode: Mode, shared: bool, context_length: int, chunk: int = 64) -> Plan:
    """One way to run a recipe's model."""
    shapes, count = config.tensor_shapes(), config.num_hidden_layers

    def weights(prefix: str) -> int:
        return sum(stored_bytes(recipe, name, shapes[name], count) for name in shapes if name.startswith(prefix))

    layer_cache = 2 * context_length * config.num_key_value_heads * config.head_dim * KV_BYTES
    windows = windows_of(chunk) if mode == "npu" else (chunk,)
    pieces = [
        Piece(
            f"layers-{index}",
            len(which),
            sum(weights(f"model.layers.{layer}.") for layer in which),
            2 * len(which) * layer_cache,
            windows,
        )
        for index, which in enumerate(split(config, weights("model.layers.0."), context_length))
    ]
    drafts, mtp_layers = LEARNT_TOKENS + ADDED_TOKENS, config.num_nextn_predict_layers
    head = weights("lm_head.") + weights("model.norm.")
    draft_head = stored_bytes(recipe, "lm_head.weight", (drafts, config.hidden_size), count)
    mtp = weights("model.mtp_layers.")
    trunk = sum(each.weights_bytes for each in pieces)
    if mode == "npu":
        pieces.append(Piece("head", 0, head, 0, HEAD_WINDOWS))
        if mtp_layers:
            pieces += [Piece("mtp", 1, mtp, 2 * layer_cache, windows), Piece("draft_head", 0, draft_head, 0, (1,))]
    on_cpu = trunk + head + (mtp + draft_head if mtp_layers else 0) if mode == "split" else 0
    return Plan(
        recipe.name,
        mode,
        shared,
        context_length,
        tuple(pieces),
        round(PREPACKED * on_cpu),
        weights("model.embed_tokens."),
        (count + mtp_layers) * layer_cache,
    )


def choose(
    recipe: Recipe, config: MimoConfig, device: Device, context_length: int | None = None, shared: bool = True
) -> Plan:
    """The plan with the longest context that fits on a phone, with prompts and tokens on the NPU.

    Raises:
        BadArgumentError: None fits.
        QuantizationError: ``context_length`` does not fit the model.
    """
    most = checked_context(context_length, 64, config.max_position_embeddings)
    while not (found := plan(recipe, config, "npu", shared, most)).fits(device):
        if context_length is not None or most // 2 < LEAST_CONTEXT:
            copies = "one copy of the weights" if shared else "a copy of the weights for each window"
            raise BadArgumentError(
                f"{recipe.name} does not fit on the NPU of {device.name}: with {copies} and a context of {most} it"
                f" takes {gb(found.memory_bytes)}, and an app may take {gb(device.available_bytes)}; take a phone with"
                " more memory, or fewer bits"
            )
        most //= 2
    return found


COLUMNS = ("mode", "weights", "binaries", "NPU", "NPU caches", "CPU", "app caches", "memory", *(p.name for p in PHONES))


def rows(found: Sequence[Plan]) -> list[tuple[str, ...]]:
    """One row for each plan, in the order of ``COLUMNS``."""
    return [
        (
            each.mode,
            "one copy" if each.shared else "one window" if each.mode == "split" else "each window",
            str(each.sessions),
            *(gb(part) for part in (each.npu_bytes, each.npu_cache_bytes, each.cpu_bytes, each.cache_bytes)),
            gb(each.memory_bytes),
            *("fits" if each.fits(phone) else "no" for phone in PHONES),
        )
        for each in found
    ]


PIECE_COLUMNS = ("piece", "layers", "windows", "weights", "cache in, out", "address space", "of a session")


def piece_rows(found: Plan) -> list[tuple[str, ...]]:
    """One row for each piece, in the order of ``PIECE_COLUMNS``."""
    return [
        (
            each.name,
            str(each.layers or ""),
            ", ".join(map(str, each.windows)),
            *(gb(part) for part in (each.weights_bytes, each.cache_bytes, each.address_bytes)),
            f"{100 * each.address_bytes / ADDRESS_BYTES:.0f} %",
        )
        for each in found.pieces
    ]
