"""What is known of every recipe: its size for a model, what was measured of its loss, and which kernels take it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_mobile import documents
from mimo_mobile.convert.tensors import MTP_TENSOR
from mimo_mobile.entries import EFFORTS
from mimo_mobile.errors import MissingDependencyError
from mimo_mobile.mimo7b import MIMO_7B, MimoConfig
from mimo_mobile.quantize.recipes import RECIPES, Recipe, fitting
from mimo_mobile.quantize.sizes import ModelSize, model_size

MEASURED = Path(__file__).with_name("measured.json")

_ARM, _KLEIDI, _ADRENO, _HEXAGON = "ARM repack", "KleidiAI", "Adreno", "Hexagon"
_DOTPROD, _QNN, _WEBGPU = "ARM dotprod", "QNN", "WebGPU"

# Of llama.cpp at 0c1e57098: ggml/src/ggml-cpu/repack.cpp (i8mm and dotprod), ggml-cpu/kleidiai/kleidiai.cpp,
# docs/backend/OPENCL.md, docs/backend/snapdragon/README.md. Of ONNX Runtime: docs/devices.md.
KERNELS: dict[str, tuple[str, ...]] = {
    "Q4_0": (_ARM, _KLEIDI, _ADRENO, _HEXAGON),
    "Q8_0": (_ARM, _KLEIDI, _ADRENO, _HEXAGON),
    **dict.fromkeys(("Q4_K", "Q5_K", "Q6_K"), (_ARM, _ADRENO, _HEXAGON)),
    **{f"int4_b{size}": (_DOTPROD, _KLEIDI, _QNN) for size in (32, 64, 128)},
    "int8_b32": (_DOTPROD, _QNN),
}
"""The fast kernels of phones that take a format's matrices; formats that are not here have none."""

MOST_OF_IT = 0.9
"""A kernel is named when it takes so much of the layers' weights; others compute the rest."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a recipe lost on a model that was measured.

    Attributes:
        recipe: The recipe's name.
        effort: How it was quantized.
        model: The model, in words.
        kld: The mean KL divergence from bf16.
    """

    recipe: str
    effort: str
    model: str
    kld: float


@dataclass(frozen=True, slots=True)
class Described:
    """A recipe and what is known of it.

    Attributes:
        recipe: The recipe.
        size: What its files take; None when the package that writes them is not installed.
        measured: What it lost, where that was measured.
        kernels: The fast kernels of phones that take it.
    """

    recipe: Recipe
    size: ModelSize | None
    measured: tuple[Measured, ...]
    kernels: tuple[str, ...]

    def kld(self, effort: str) -> float | None:
        """The mean KL divergence from bf16 with an effort, on the model that was measured first."""
        return next((each.kld for each in self.measured if each.effort == effort), None)

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        size = self.size
        return {
            "recipe": self.recipe.name,
            "format": self.recipe.target,
            "summary": self.recipe.summary,
            "bits_per_weight": size and round(size.bits_per_weight, 3),
            "model_bytes": size and size.model_bytes,
            "mtp_bytes": size and size.mtp_bytes,
            "measured": [{"effort": each.effort, "model": each.model, "kld": each.kld} for each in self.measured],
            "kernels": list(self.kernels),
        }


def described(config: MimoConfig = MIMO_7B, *, single_file: bool = False) -> list[Described]:
    """Every recipe, with the size that a model of a configuration gets by it."""
    rows = read_measured(MEASURED)
    return [
        Described(
            recipe,
            _size(recipe, config, single_file),
            tuple(row for row in rows if row.recipe == recipe.name),
            kernels_of(recipe, config),
        )
        for recipe in RECIPES.values()
    ]


def read_measured(path: Path) -> list[Measured]:
    """What was measured, in the file's order.

    Raises:
        ValueError: The file is damaged.
    """
    found = documents.parse(path.read_text(encoding="utf-8"))["rows"].items()
    return [
        Measured(
            each["recipe"].text(), each["effort"].choice(*EFFORTS), each["model"].text(), each["kld"].number(least=0)
        )
        for each in found
    ]


def kernels_of(recipe: Recipe, config: MimoConfig) -> tuple[str, ...]:
    """The kernels that take at least nine tenths of a model's layers, but for norms and biases."""
    if recipe.for_gpus:
        return (_WEBGPU,)
    taken: dict[str, int] = {}
    total = 0
    for name, shape in config.tensor_shapes().items():
        if len(shape) > 1 and ".layers." in name and not MTP_TENSOR.match(name):
            total += math.prod(shape)
            chosen = fitting(recipe.format_of(name, config.num_hidden_layers), shape[-1])
            for kernel in KERNELS.get(chosen, ()):
                taken[kernel] = taken.get(kernel, 0) + math.prod(shape)
    return tuple(kernel for kernel, weights in taken.items() if weights >= MOST_OF_IT * total)


def _size(recipe: Recipe, config: MimoConfig, single_file: bool) -> ModelSize | None:
    try:
        return model_size(recipe, config, single_file=single_file)
    except MissingDependencyError:
        return None
