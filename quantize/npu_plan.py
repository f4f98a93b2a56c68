"""What a model would take on an NPU, in pieces, sessions and memory: before anything is compiled or loaded.

The sums are made from a configuration's shapes alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mimo_mobile.convert.draft_vocabulary import LEARNT_TOKENS
from mimo_mobile.convert.npu.pieces import ADDED, HEAD_WINDOWS, WINDOWS, Cut, checked, compile_bytes
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.npu_memory import ADDRESS_BYTES, KV_BYTES, Piece, Plan
from mimo_mobile.phones import DEVICES, Device
from mimo_mobile.quantize.choice import PREPACKED, RUNTIME_BYTES
from mimo_mobile.quantize.recipes import Recipe
from mimo_mobile.quantize.report import gb
from mimo_mobile.quantize.sizes import ADDED_TOKENS, stored_bytes

PHONES = tuple(DEVICES[name] for name in ("phone-8gb", "phone-12gb", "phone-16gb"))
"""The phones that a plan is held against."""

STAGED_LAYERS = 2
"""With prompts in stages so many layers are on the NPU at a time: as many as a phone has room for beside the CPU's."""

LEAST_CONTEXT = 512
"""A phone's context is halved down to so many tokens until the model fits."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a plan; the rest is chosen.

    Attributes:
        context_length: Tokens of prompt and answer; None is the model's, at most 4096, or what fits a phone.
        windows: Tokens of one run: a prompt's, and 2 and 1 where the NPU computes tokens, too.
        shared: Whether the windows of a piece have one copy of its weights.
        memory_bytes: What compiling a piece may take; None is a share of this machine's memory.
    """

    context_length: int | None = None
    windows: tuple[int, ...] = WINDOWS
    shared: bool = True
    memory_bytes: int | None = None

    def cut(self, config: MimoConfig, context_length: int | None = None) -> Cut:
        """How a model is cut then, with another context if one is given.

        Raises:
            QuantizationError: Context or windows do not fit the model.
        """
        return checked(
            context_length or self.context_length,
            self.windows,
            config.max_position_embeddings,
            shared=self.shared,
            memory_bytes=self.memory_bytes,
        )


def to_json(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """A plan as plain JSON values, with the sums."""
    sums = {name: getattr(plan, name) for name in ("sessions", "npu_bytes", "npu_cache_bytes", "memory_bytes")}
    pieces = [dataclasses.asdict(each) | {"address_bytes": each.address_bytes} for each in plan.pieces]
    fits = {each.name: plan.fits(each.available_bytes) for each in PHONES}
    return {"recipe": recipe.name} | dataclasses.asdict(plan) | {"pieces": pieces, **sums, "fits": fits}


def plans(recipe: Recipe, config: MimoConfig, asked: Asked = Asked()) -> list[Plan]:
    """Every way to run a recipe's model with a context: all on the NPU, or prompts alone; what was asked for is first.

    Prompts in stages, which nothing here runs, are the last.

    Raises:
        QuantizationError: Context or windows do not fit the model.
    """
    full = asked.windows if len(asked.windows) > 1 else (asked.windows[0], *HEAD_WINDOWS)
    ways = [(full, True), (full, False), (full[:1], False)]
    first = (asked.windows, asked.shared and len(asked.windows) > 1)
    ways.sort(key=lambda way: way != first)
    cuts = [dataclasses.replace(asked, windows=windows, shared=shared).cut(config) for windows, shared in ways]
    prompts = dataclasses.replace(asked, windows=full[:1], shared=False).cut(config)
    return [*(plan(recipe, config, cut) for cut in cuts), plan(recipe, config, prompts, staged=True)]


def plan(recipe: Recipe, config: MimoConfig, cut: Cut, *, staged: bool = False) -> Plan:
    """One way to run a recipe's model; ``staged`` has few of the layers on the NPU at a time.

    Raises:
        QuantizationError: Compiling one layer takes more memory than is allowed.
    """
    shapes, count = config.tensor_shapes(), config.num_hidden_layers

    def weights(prefix: str) -> int:
        return sum(stored_bytes(recipe, name, shapes[name], count) for name in shapes if name.startswith(prefix))

    def piece(name: str, prefixes: Sequence[str], layers: int, cache_bytes: int, windows: tuple[int, ...]) -> Piece:
        size = sum(map(weights, prefixes))
        bits = 8 * size / sum(math.prod(shapes[each]) for each in shapes if each.startswith(tuple(prefixes)))
        memory = compile_bytes(size, len(windows) if cut.shared else 1, bits)
        return Piece(name, layers, size, cache_bytes, windows, memory)

    layer_cache = 2 * cut.context_length * config.num_key_value_heads * config.head_dim * KV_BYTES
    parts = (
        [range(first, min(first + STAGED_LAYERS, count)) for first in range(0, count, STAGED_LAYERS)]
        if staged
        else cut.parts(config, weights("model.layers.0."))
    )
    pieces = [
        piece(
            f"layers-{index}",
            [f"model.layers.{layer}." for layer in which],
            len(which),
            2 * len(which) * layer_cache,
            cut.windows,
        )
        for index, which in enumerate(parts)
    ]
    drafts, mtp_layers = LEARNT_TOKENS + ADDED_TOKENS, config.num_nextn_predict_layers
    draft_head = stored_bytes(recipe, "lm_head.weight", (drafts, config.hidden_size), count)
    trunk, on_cpu = sum(each.weights_bytes for each in pieces), 0
    head = piece("head", ["lm_head.", "model.norm."], 0, 0, HEAD_WINDOWS)
    if not cut.computes_tokens:
        on_cpu = trunk + head.weights_bytes + (weights("model.mtp_layers.") + draft_head if mtp_layers else 0)
    else:
        pieces.append(head)
        if mtp_layers:
            pieces.append(piece("mtp", ["model.mtp_layers."], 1, 2 * layer_cache, cut.windows))
            pieces.append(Piece("draft_head", 0, draft_head, 0, (1,), compile_bytes(draft_head, 1)))
    return Plan(
        "npu" if cut.computes_tokens else "staged" if staged else "split",
        cut.shared,
        cut.context_length,
        tuple(pieces),
        round(PREPACKED * on_cpu),
        weights("model.embed_tokens."),
        (count + mtp_layers) * layer_cache,
        RUNTIME_BYTES,
    )


def binaries_bytes(recipe: Recipe, config: MimoConfig, asked: Asked) -> int:
    """The most that a recipe's model, compiled for one chip, takes of the disk.

    Raises:
        QuantizationError: Context or windows do not fit the model, or compiling takes more memory than is allowed.
    """
    return round(ADDED * plan(recipe, config, asked.cut(config)).npu_bytes)


def check(recipe: Recipe, found: Plan) -> None:
    """See that every piece finds a session of an NPU that can hold it.

    Raises:
        BadArgumentError: One does not: it would be compiled, and loaded nowhere.
    """
    for piece in found.pieces:
        if piece.address_bytes > ADDRESS_BYTES:
            raise BadArgumentError(
                f"{recipe.name}: {piece}: more than the {gb(ADDRESS_BYTES)} that a session has; take a shorter"
                " --context, or fewer bits"
            )


def choose(recipe: Recipe, config: MimoConfig, device: Device, asked: Asked = Asked()) -> Plan:
    """The plan with the longest context that fits on a phone.

    Raises:
        BadArgumentError: None fits.
        QuantizationError: Context or windows do not fit the model.
    """
    context = asked.cut(config).context_length
    while not (found := plan(recipe, config, asked.cut(config, context))).fits(device.available_bytes):
        if asked.context_length is not None or context // 2 < LEAST_CONTEXT:
            copies = (
                "prompts there and tokens on the CPU"
                if found.mode == "split"
                else "one copy of the weights"
                if found.shared
                else "a copy of the weights for each window"
            )
            raise BadArgumentError(
                f"{recipe.name} does not fit on the NPU of {device.name}: with {copies} and a context of {context} it"
                f" takes {gb(found.memory_bytes)}, and an app may take {gb(device.available_bytes)}; take a phone with"
                " more memory, or fewer bits"
            )
        context //= 2
    return found


WEIGHTS = {"split": "one window", "staged": "one piece"}
"""How weights are kept by the modes that have one way to do so."""

COLUMNS = ("mode", "weights", "binaries", "NPU", "NPU caches", "CPU", "app caches", "memory", *(p.name for p in PHONES))


def rows(found: Sequence[Plan]) -> list[tuple[str, ...]]:
    """One row for each plan, in the order of ``COLUMNS``."""
    return [
        (
            each.mode,
            WEIGHTS.get(each.mode, "one copy" if each.shared else "each window"),
            str(each.sessions),
            *(gb(part) for part in (each.npu_bytes, each.npu_cache_bytes, each.cpu_bytes, each.cache_bytes)),
            gb(each.memory_bytes),
            *("fits" if each.fits(phone.available_bytes) else "no" for phone in PHONES),
        )
        for each in found
    ]


PIECE_COLUMNS = (
    "piece",
    "layers",
    "windows",
    "weights",
    "cache in, out",
    "address space",
    "of a session",
    "to compile",
)


def piece_rows(found: Plan) -> list[tuple[str, ...]]:
    """One row for each piece, in the order of ``PIECE_COLUMNS``."""
    return [
        (
            each.name,
            str(each.layers or ""),
            ", ".join(map(str, each.windows)),
            *(gb(part) for part in (each.weights_bytes, each.cache_bytes, each.address_bytes)),
            f"{100 * each.address_bytes / ADDRESS_BYTES:.0f} %",
            f"about {gb(each.compile_bytes)}",
        )
        for each in found.pieces
    ]
