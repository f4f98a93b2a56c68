"""How large the numbers inside a model get, layer by layer, and by which powers of two it was written smaller.

``quantize.calibrate`` measures them, ``convert.folding`` chooses the powers, manifest.json keeps both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mimo_mobile.documents import DocumentError, Value

MOST_LAYERS = 2000
"""More layers are not believed."""

MOST_SCORE = 256.0
"""Below it float16 rounds a score, q·k after scaling, by at most 1/16, which changes its weight by 6 %. What all scores
of a row have in common changes no weight, but takes digits from each."""


def too_coarse(query_key: float, head_dim: int) -> bool:
    """Whether float16 loses digits of q·k that softmax needs, when q·k gets as large as this before scaling."""
    return query_key > MOST_SCORE * math.sqrt(head_dim)


@dataclass(frozen=True, slots=True)
class LayerRange:
    """The largest magnitudes in one layer over a text, in the checkpoint's own numbers.

    Attributes:
        layer: The layer's name, e.g. ``layers.3`` or ``mtp_layers.0``.
        residual: Of the residual stream, and of what attention and MLP add to it.
        quietest: The root mean square of the residual stream at the token where it is smallest, but not 0.
        normed: Of what the norms give.
        gate: Of what the MLP's gate gives.
        product: Of what the MLP's up gives, and of its product with the gate.
        query: Of queries, before rotary embedding.
        key: Of keys, before rotary embedding.
        value: Of values.
        query_key: Of q·k, before scaling.
        product_scale: The power of two by which the layer's MLP product was written smaller.
        float32_attention: Whether attention and its KV cache were written in float32, for which float16 is too coarse.
    """

    layer: str
    residual: float
    quietest: float
    normed: float
    gate: float
    product: float
    query: float
    key: float
    value: float
    query_key: float
    product_scale: float = 1.0
    float32_attention: bool = False


MEASURED = ("residual", "quietest", "normed", "gate", "product", "query", "key", "value", "query_key")
"""The fields of ``LayerRange`` that are measured."""


@dataclass(frozen=True, slots=True)
class ModelRanges:
    """The ranges of all layers.

    Attributes:
        layers: Those of the trunk, then those of MTP layers.
        residual_scale: The power of two by which the residual stream was written smaller.
    """

    layers: tuple[LayerRange, ...]
    residual_scale: float = 1.0

    @property
    def query_key(self) -> float:
        """The largest magnitude of q·k in any layer, before scaling."""
        return max((each.query_key for each in self.layers), default=0.0)


def from_document(found: Value) -> ModelRanges:
    """The ranges in a parsed manifest.

    Raises:
        DocumentError: A field is missing or of another type.
    """
    layers = tuple(
        LayerRange(
            layer=_layer(each["layer"]),
            **{name: each[name].number(0) for name in MEASURED},
            product_scale=each["product_scale"].number(0, 1),
            float32_attention=each["float32_attention"].flag(),
        )
        for each in found["layers"].items(most=MOST_LAYERS)
    )
    return ModelRanges(layers, found["residual_scale"].number(0, 1))


def _layer(found: Value) -> str:
    name = found.text()
    if not re.fullmatch(r"(mtp_)?layers\.[0-9]{1,4}", name):
        raise DocumentError(f"{found.place}: layers.N or mtp_layers.N expected, {name!r:.60} found")
    return name


def summary(ranges: ModelRanges) -> dict[str, str]:
    """What a person wants to know of ranges, by the name of what it is about."""

    def largest(name: str) -> str:
        top = max(ranges.layers, key=lambda each: float(getattr(each, name)))
        return f"up to {getattr(top, name):.4g} ({top.layer})"

    shown = {name.replace("_", "·"): largest(name) for name in ("residual", "product", "query", "key", "value")}
    shown["q·k before scaling"] = largest("query_key")
    if ranges.residual_scale != 1:
        shown["residual"] += f", written {1 / ranges.residual_scale:g} times smaller"
    if smaller := _named([each for each in ranges.layers if each.product_scale != 1]):
        shown["product"] += f", written smaller in {smaller}"
    if exact := _named([each for each in ranges.layers if each.float32_attention]):
        shown["q·k before scaling"] += f", attention in float32 in {exact}"
    return shown


def _named(layers: Sequence[LayerRange]) -> str:
    names = [each.layer for each in layers]
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} layers, {names[0]} to {names[-1]}"
