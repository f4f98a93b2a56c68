"""Checkpoints that compute what MiMo-nano computes, with numbers that are too large for float16.

Large models have such numbers: a few channels of the residual stream grow to thousands, and biases of keys to hundreds.
Powers of two are exact in bfloat16, so that nothing but the ranges differs from MiMo-nano.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.hub import Source, resolve
from tests.tiny import write_json, write_weights

RESIDUAL, PRODUCT = 2.0**12, 2.0**10
"""The factors of the residual stream and of the MLP's product."""

BIAS = 400.0
"""The bias of queries and keys: its square, 160,000, is what q·k grows by."""

Weights = dict[str, NDArray[np.float32]]


def large_residual(weights: Weights, config: dict[str, float]) -> None:
    """Multiply the residual stream by ``RESIDUAL``, which the norms take out again."""
    for name in weights:
        if re.search(r"embed_tokens|input_proj|o_proj|down_proj", name):
            weights[name] *= RESIDUAL
    config["rms_norm_eps"] *= RESIDUAL**2


def large_product(weights: Weights, _: Mapping[str, float]) -> None:
    """Multiply what the MLP's gate and up give by ``PRODUCT``, which its down takes out again."""
    for name in weights:
        if "up_proj" in name:
            weights[name] *= PRODUCT
        if "down_proj" in name:
            weights[name] /= PRODUCT


def large_activations(weights: Weights, config: dict[str, float]) -> None:
    """Both together."""
    large_residual(weights, config)
    large_product(weights, config)


def large_scores(weights: Weights, config: Mapping[str, float]) -> None:
    """Make q·k larger by BIAS² for every two tokens alike, which softmax takes out again.

    The pair of channels that rotary embedding turns least is nothing but a bias in every query and key.
    """
    size = int(config["head_dim"])
    for name, values in weights.items():
        if re.search(r"[qk]_proj", name):
            heads = values.reshape(-1, size, *values.shape[1:])
            heads[:, [size // 2 - 1, size - 1]] = 0
            if name.endswith("bias"):
                heads[:, size // 2 - 1] = BIAS


HOT: Mapping[str, Callable[[Weights, dict[str, float]], None]] = {
    "residual": large_residual,
    "product": large_product,
    "activations": large_activations,
    "scores": large_scores,
}
"""Every such checkpoint by its name."""


def write_hot(folder: Path, *kinds: str, source: Path | None = None) -> Source:
    """Write the checkpoints ``kinds`` of ``HOT`` in one: MiMo-nano, or the one at ``source``, so changed."""
    source = source or resolve("nano").path
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {name: view.float32() for name, view in Checkpoint.open(source).tensors.items()}
    for kind in kinds:
        HOT[kind](weights, config)
    write_json(folder / "config.json", config)
    write_weights(folder, weights)
    return Source(folder, f"hot-{'-'.join(kinds)}")
