"""Recipes: which format each tensor of a checkpoint gets.

A recipe is a table of rules over Hugging Face tensor names, read from the top; the first rule that answers
decides. Knows formats by name only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mimo_mobile.errors import QuantizationError

Choice = Callable[[int, int], str]
"""(layer, number of layers) -> format name, for recipes that treat layers differently."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize a checkpoint.

    Attributes:
        name: As typed by users, e.g. ``q4_k_m``.
        target: The file format it is for.
        summary: One line that says whom it serves.
        rules: (regular expression over the tensor's name, format name or choice by layer).
    """

    name: str
    target: Literal["gguf", "onnx"]
    summary: str
    rules: tuple[tuple[str, str | Choice], ...]

    def format_of(self, name: str, num_hidden_layers: int) -> str:
        """The name of the format for a tensor.

        Raises:
            QuantizationError: No rule answers.
        """
        for pattern, choice in self.rules:
            if re.search(pattern, name):
                if isinstance(choice, str):
                    return choice
                layer = re.search(r"layers\.(\d+)\.", name)
                return choice(int(layer.group(1)) if layer else 0, num_hidden_layers)
        raise QuantizationError(f"recipe {self.name}: no rule for tensor {name}")


RECIPES: dict[str, Recipe] = {}
"""By name; filled below."""
