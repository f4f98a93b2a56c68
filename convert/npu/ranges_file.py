"""ranges.json: what binaries with quantized activations were made with, beside the weights in their ONNX folder.

From it the graphs that were compiled can be made again, to measure what they lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mimo_mobile.convert.npu.centered_keys import Centers
from mimo_mobile.convert.npu.qdq_graph import Range
from mimo_mobile.documents import FileFormat, Value
from mimo_mobile.errors import ModelLoadError, QuantizationError
from mimo_mobile.layout import MOST_TOKENS

NAME = "ranges.json"
RANGES_FORMAT = FileFormat("ranges", 1)

MOST_LAYERS, MOST_VALUES, LARGEST = 1000, 10_000, 1e30
"""More layers, values of a list, and larger numbers are not believed."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges of every piece's activations, in the order of ``qdq_graph.ActivationTape``.

    Attributes:
        layers: Those of each layer alone.
        head: Those of the head.
        mtp: Those of the MTP layer.
        draft_head: Those of the MTP layer's head.
    """

    layers: Sequence[Sequence[Range]]
    head: Sequence[Range]
    mtp: Sequence[Range]
    draft_head: Sequence[Range]

    def of_layers(self, which: range) -> list[Range]:
        """The ranges of several layers in a row, of which each reads what the one before gives."""
        return [each for layer in which for each in self.layers[layer][0 if layer == which.start else 1 :]]


@dataclass(frozen=True, slots=True)
class Form:
    """What decides the numbers of a model with quantized activations beside its weights.

    Attributes:
        ranges: Those of the activations.
        context_length: Tokens that the KV caches hold.
        centers: What the keys of some layers lose.
    """

    ranges: Ranges
    context_length: int
    centers: Centers = field(default_factory=dict)

    def check(self, layers: int) -> None:
        """See that it is of a model with so many layers.

        Raises:
            QuantizationError: It is not.
        """
        if len(self.ranges.layers) != layers:
            raise QuantizationError(
                f"ranges of {len(self.ranges.layers)} layers found, {layers} expected; run mimo quantize … --target qdq"
            )

    def write(self, folder: Path) -> None:
        """Write it into a folder of binaries."""
        ranges = self.ranges
        made: dict[str, Any] = {
            "context_length": self.context_length,
            "layers": [_pairs(each) for each in ranges.layers],
            **{name: _pairs(getattr(ranges, name)) for name in ("head", "mtp", "draft_head")},
            "centers": {name: each.tolist() for name, each in self.centers.items()},
        }
        (folder / NAME).write_text(RANGES_FORMAT.to_text(made), encoding="utf-8")


def read_form(folder: Path) -> Form:
    """What a folder of binaries was made with.

    Raises:
        ModelLoadError: The file is missing or damaged.
    """
    return RANGES_FORMAT.read(folder / NAME, _form, ModelLoadError, "run mimo quantize … --target qdq again")


def _form(found: Value) -> Form:
    layers = [_ranges(each) for each in found["layers"].items(1, MOST_LAYERS)]
    head, mtp, draft_head = (_ranges(found[name]) for name in ("head", "mtp", "draft_head"))
    centers = {
        name: np.array([[_number(each) for each in row.items(most=MOST_VALUES)] for row in value.items(1, MOST_VALUES)])
        for name, value in found["centers"].fields().items()
    }
    return Form(
        Ranges(layers, head, mtp, draft_head),
        found["context_length"].integer(1, MOST_TOKENS),
        {name: each.astype(np.float32) for name, each in centers.items()},
    )


def _pairs(ranges: Sequence[Range]) -> list[list[float]]:
    return [[each.low, each.high] for each in ranges]


def _ranges(found: Value) -> list[Range]:
    made = []
    for pair in found.items(most=MOST_VALUES):
        low, high = pair.items(2, 2)
        made.append(Range(low.number(-LARGEST, 0), high.number(0, LARGEST)))
    return made


def _number(found: Value) -> float:
    return found.number(-LARGEST, LARGEST)
