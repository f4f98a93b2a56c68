"""Training with the weights' int4 values in the forward pass and straight-through gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

BLOCK = 32

Grid = Literal["absmax", "q4_0"]


@contextmanager
def int4_weights(model: torch.nn.Module, grid: Grid | str | None) -> Iterator[None]:
    """Inside the block every matrix holds its int4 values; outside again its own. None changes nothing.

    Gradients computed inside are applied outside: the straight-through estimator.
    """
    if grid is None:
        yield
        return
    kept = [(weight, weight.data) for weight in model.parameters() if weight.dim() == 2]
    for weight, data in kept:
        weight.data = rounded(data, grid)
    try:
        yield
    finally:
        for weight, data in kept:
            weight.data = data


def rounded(weight: Tensor, grid: Grid | str) -> Tensor:
    """A matrix on a 4-bit grid in blocks of 32 along its rows.

    ``absmax``: levels −8…7 of absmax/7; ``q4_0``: ggml's, the value of largest magnitude is level −8.
    """
    blocks = weight.view(-1, BLOCK)
    if grid == "absmax":
        scale = blocks.abs().amax(dim=1, keepdim=True) / 7
    else:
        scale = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True)) / -8
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (torch.clamp(torch.round(blocks / scale), -8, 7) * scale).view_as(weight)
