"""Chooses recipes by what must not be exceeded: a size of the files, or the memory of a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mimo_mobile.entries import Effort
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.layout import DEFAULT_CONTEXT
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.phones import Device
from mimo_mobile.quantize.catalog import Described
from mimo_mobile.quantize.report import gb
from mimo_mobile.quantize.sizes import ModelSize

RUNTIME_BYTES = 300_000_000
"""App, engine and its buffers: 0.2 GB of them were measured with 1,024 tokens of context (docs/performance.md)."""

PREPACKED = 1.2
"""How much larger ONNX Runtime's rearranged matrices are than the file's."""

KV_BYTES = 2
"""Bytes of a number in the KV cache, which is float16."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What must not be exceeded: a size of files, or a phone's memory.

    Attributes:
        size_bytes: The largest size of what is loaded, a GGUF file or an ONNX folder; None when a device is named.
        device: A phone.
    """

    size_bytes: int | None = None
    device: Device | None = None

    @property
    def most_bytes(self) -> int:
        """So much must not be exceeded."""
        if self.device is not None:
            return self.device.available_bytes
        assert self.size_bytes is not None
        return self.size_bytes

    def needed(self, found: Described, config: MimoConfig) -> int | None:
        """What a recipe takes of it; None when its size is not known."""
        if found.size is None:
            return None
        return (
            memory_needed(found, found.size, config) if self.device else found.size.model_bytes + found.size.other_bytes
        )

    def __str__(self) -> str:
        """The limit in words."""
        if self.device is None:
            return f"{gb(self.most_bytes)} of files"
        context = f"{DEFAULT_CONTEXT:,} tokens of context"
        return (
            f"the {gb(self.most_bytes)} that an app may take of {self.device.name}'s memory (weights without the"
            f" embedding, of which few rows are read, a float16 KV cache for {context}, and {gb(RUNTIME_BYTES)} for"
            " app and engine)"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The best recipe for one file format.

    Attributes:
        recipe: The recipe's name.
        reason: Why it was chosen, in a sentence.
    """

    recipe: str
    reason: str


def memory_needed(found: Described, size: ModelSize, config: MimoConfig) -> int:
    """What a recipe's model takes of a phone's memory, without drafts."""
    matrices = size.model_bytes - size.embedding_bytes
    weights = round(PREPACKED * matrices) if found.recipe.target == "onnx" else matrices
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * KV_BYTES
    return weights + min(DEFAULT_CONTEXT, config.max_position_embeddings) * per_token + RUNTIME_BYTES


def choose(recipes: Sequence[Described], limit: Limit, config: MimoConfig, effort: Effort = "normal") -> list[Choice]:
    """The best recipe of each file format that stays within a limit.

    The best is the one that lost least where all that fit were measured, and else the one with most bits. Recipes for
    GPUs are not chosen, since they are slow where there is none that can be used.

    Raises:
        BadArgumentError: None stays within the limit.
    """
    needed = {each.recipe.name: each_needed for each in recipes if (each_needed := limit.needed(each, config))}
    known = [each for each in recipes if each.recipe.name in needed and not each.recipe.for_gpus]
    made = []
    for target in ("gguf", "onnx"):
        fitting = [
            each for each in known if each.recipe.target == target and needed[each.recipe.name] <= limit.most_bytes
        ]
        if fitting:
            made.append(_best(fitting, limit, needed, effort))
    if not made:
        least = min(known, key=lambda each: needed[each.recipe.name], default=None)
        told = f"; {least.recipe.name} takes least, {gb(needed[least.recipe.name])}" if least else ""
        raise BadArgumentError(f"no recipe fits in {limit}{told}")
    return made


def _best(fitting: Sequence[Described], limit: Limit, needed: dict[str, int], effort: str) -> Choice:
    def bits(each: Described) -> float:
        return each.size.bits_per_weight if each.size else 0.0

    losses = {each.recipe.name: loss for each in fitting if (loss := each.kld(effort)) is not None}
    if len(losses) == len(fitting):
        best = min(fitting, key=lambda each: (losses[each.recipe.name], needed[each.recipe.name]))
        why = f"it lost least, {losses[best.recipe.name]:.3f} of KL divergence on {best.measured[0].model}"
    else:
        best = max(fitting, key=bits)
        why = f"it has the most bits a weight, {bits(best):.2f}"
    target = best.recipe.target.upper()
    rivals = (
        f"of the {len(fitting)} {target} recipes that fit {why}"
        if len(fitting) > 1
        else f"no other {target} recipe fits"
    )
    taken = needed[best.recipe.name]
    return Choice(best.recipe.name, f"{best.recipe.name}: {gb(taken)} of {gb(limit.most_bytes)}; {rivals}")
