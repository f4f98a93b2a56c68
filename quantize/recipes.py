"""Recipes: which format each tensor of a checkpoint gets.

A recipe is a table of rules over Hugging Face tensor names. It is read from the top, and the first rule that matches a
name decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mimo_mobile.convert.formats import F16, F32, MatMulFormat, PlainFormat, RowFormat
from mimo_mobile.errors import QuantizationError
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat

PLUS = "_plus"
"""What the names of recipes end in that give the tensors 8 or 6 bits in which an error costs most. A real plus would be
a blank in some addresses: Amazon's S3, for one, takes it for that."""

UNITS, EMBEDDING = "_units", r"embed_tokens"
"""What the names of formats end in whose scales are multiples of a unit; and the matrix that NPUs leave to the CPU."""

Choice = Callable[[int, int], str]
"""Turns (layer, number of layers) into the name of a format, for recipes that treat layers differently."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize a checkpoint.

    Attributes:
        name: The name that users type, e.g. ``q4_k_m``.
        target: The file format that it is for.
        summary: One line that says whom the recipe serves.
        rules: Pairs of a regular expression for tensor names and either a format's name or a choice by layer.
        activations: The type in which an ONNX graph computes between its matrices.
        in_units: Whether the scales of a row's int4 blocks are 1 to 15 times a unit, as NPUs with quantized activations
            want them.
    """

    name: str
    target: Literal["gguf", "onnx"]
    summary: str
    rules: tuple[tuple[str, str | Choice], ...]
    activations: PlainFormat = F32
    in_units: bool = False

    @property
    def file_type(self) -> str:
        """What a GGUF file calls itself: llama.cpp has a number for each of its own mixtures, and none for ours."""
        return self.name.removesuffix(PLUS).upper()

    @property
    def for_gpus(self) -> bool:
        """Whether it computes in float16 throughout, which is slow on CPUs."""
        return self.activations is F16

    @property
    def int4(self) -> bool:
        """Whether the recipe gives matrices 4 bits in blocks of MatMulNBits."""
        return any(isinstance(chosen, str) and chosen.startswith("int4") for _, chosen in self.rules)

    def format_of(self, name: str, num_hidden_layers: int) -> str:
        """The name of the format for a tensor.

        Raises:
            QuantizationError: No rule matches the tensor's name.
        """
        for pattern, choice in self.rules:
            if re.search(pattern, name):
                layer = re.search(r"layers\.(\d+)\.", name)
                number = int(layer.group(1)) if layer else 0
                chosen = choice if isinstance(choice, str) else choice(number, num_hidden_layers)
                on_npu = self.in_units and chosen.startswith("int4") and not re.search(EMBEDDING, name)
                return f"{chosen}{UNITS}" if on_npu else chosen
        raise QuantizationError(f"recipe {self.name}: no rule for tensor {name}")


def recipe_named(name: str) -> Recipe:
    """The recipe with a name.

    Raises:
        QuantizationError: No recipe has the name.
    """
    if name not in RECIPES:
        raise QuantizationError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def unquantized(dtype: PlainFormat) -> Recipe:
    """What ``mimo convert --to onnx`` writes, as a recipe: every weight in one type."""
    return Recipe(dtype.name.lower(), "onnx", "", ((r"", dtype.name),), activations=dtype)


def more_bits(above: str, below: str) -> Choice:
    """A choice of ``above`` for the first and last eighth of the layers and every third between them, else ``below``.

    Source: use_more_bits, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/src/llama-quant.cpp#L452
    """

    def choose(layer: int, layers: int) -> str:
        eighth = layers // 8
        more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        return above if more else below

    return choose


def at_ends(count: int, ends: str, between: str) -> Choice:
    """A choice of ``ends`` for the first and last ``count`` layers, and of ``between`` for all others."""
    return lambda layer, layers: ends if layer < count or layer >= layers - count else between


def fitting(name: str, columns: int) -> str:
    """The format itself, or the one that llama-quantize takes instead when rows do not fill its blocks.

    >>> fitting("Q4_K", 4096), fitting("Q4_K", 576)
    ('Q4_K', 'Q5_0')

    Source: tensor_type_fallback, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/src/llama-quant.cpp
    """
    return _SMALLER_BLOCKS.get(name, name) if columns % K_BLOCK else name


K_BLOCK = 256
"""Weights in a block of the formats whose names end in ``_K``."""

_SMALLER_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}

_VECTORS = (r"norm|bias", "F32")
_MTP = (r"mtp_layers", "Q8_0")
"""The MTP layer keeps 8 bits until drafting is measured: heads in 4 bits are reported to draft badly."""


def _gguf(name: str, summary: str, *rules: tuple[str, str | Choice]) -> Recipe:
    return Recipe(name, "gguf", summary, (_VECTORS, _MTP, *rules))


def _mixed(name: str, summary: str, most: str) -> Recipe:
    """A recipe like llama.cpp's ``_K_M`` mixtures, which give more bits to tensors in which an error costs most."""
    some = more_bits("Q6_K", most)
    return _gguf(name, summary, (r"lm_head", "Q6_K"), (r"v_proj|down_proj", some), (r"", most))


def _onnx(
    name: str, summary: str, block_size: int, *finer: tuple[str, str | Choice], activations: PlainFormat = F32
) -> Recipe:
    """An ONNX recipe: the trunk gets 4-bit blocks, MTP layer and head get 8 bits, as they choose drafts and tokens.

    ``finer`` are rules for tensors of the trunk that get more.
    """
    rules = (_VECTORS, (r"mtp_layers|lm_head", "int8_b32"), *finer, (r"", f"int4_b{block_size}"))
    return Recipe(name, "onnx", summary, rules, activations)


_PLUS = ((r"v_proj", "int8_b32"), (r"down_proj", at_ends(2, "int8_b32", "int4_b32")))
"""Values in all layers, and what the outer layers add: 4 % of the weights, in which an error costs most."""


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _gguf("q4_0", "4.5 bits; every ARM kernel and NPU backend of llama.cpp can run it; the fastest", (r"", "Q4_0")),
        _gguf(
            f"q4_0{PLUS}",
            "4.8 bits: q4_0 with more for head, v_proj and four down_proj",
            (r"lm_head", "Q6_K"),
            (r"v_proj", "Q8_0"),
            (r"down_proj", at_ends(2, "Q6_K", "Q4_0")),
            (r"", "Q4_0"),
        ),
        _mixed("q4_k_m", "4.8 bits, llama.cpp's 4-bit mixture", "Q4_K"),
        _mixed("q5_k_m", "5.7 bits, between q4_k_m and q6_k", "Q5_K"),
        _gguf("q6_k", "6.6 bits", (r"", "Q6_K")),
        _gguf("q8_0", "8.5 bits", (r"", "Q8_0")),
        _onnx("int4_b32", "5 bits, the finest int4 blocks that KleidiAI takes on ARM", 32),
        _onnx(f"int4_b32{PLUS}", "int4_b32 with 8 bits where an error costs most, 0.2 bits more", 32, *_PLUS),
        _onnx("int4_b64", "4.5 bits, smaller and faster", 64),
        _onnx("int4_b128", "4.25 bits, smallest and fastest", 128),
        _onnx("int4_b32_f16", "int4_b32 in float16 throughout, for GPUs (WebGPU); slow on CPUs", 32, activations=F16),
        Recipe("int8", "onnx", "9 bits", (_VECTORS, (EMBEDDING, "F16"), (r"", "int8_b32"))),
    )
}
"""Every recipe by its name."""

FORMATS: dict[str, RowFormat | MatMulFormat] = {
    **{each.name: each for each in (F32, F16)},
    **{name: GgmlFormat(name) for name in ("Q4_0", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0")},
    **{f"int4_b{size}": NBitsFormat(4, size) for size in (32, 64, 128)},
    **{f"int4_b{size}{UNITS}": NBitsFormat(4, size, in_units=True) for size in (32, 64, 128)},
    "int8_b32": NBitsFormat(8, 32),
}
"""Every format by the name that rules use."""
