"""What the writers want to know of a checkpoint that was run before it is written; ``quantize.calibrate`` runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.formats import Importance
from mimo_mobile.layout import Reference
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.ranges import ModelRanges

KvScales = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""The scales of keys and of values `[K * D]`, layer by layer."""


@dataclass(frozen=True, slots=True)
class Factors:
    """What a tensor is multiplied by when it is written.

    Attributes:
        rows: One factor for each row `[N]`, or one for all.
        columns: One factor for each column `[K]`, or one for all.
    """

    rows: NDArray[np.float32] | float = 1.0
    columns: NDArray[np.float32] | float = 1.0


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a checkpoint gave that was run over texts.

    Attributes:
        ranges: How large its numbers get.
        head: The largest magnitude of what the head reads, and of its logits.
        kv_scales: Scales for an INT8 KV cache.
        reference: Runs what was written at a path, for the configuration of the checkpoint, and gives the logits that
            engines are tested with.
        reference_ids: The prompt of that reference; a GGUF file without one gets no reference.
        factors: By which tensors are multiplied, by name, so that they lose less; the function stays the same.
        importance: How much errors in each column of a matrix matter, after ``factors``.
    """

    ranges: ModelRanges
    head: float
    kv_scales: KvScales
    reference: Callable[[Path, MimoConfig], Reference]
    reference_ids: Sequence[int] = ()
    factors: Mapping[str, Factors] = field(default_factory=dict)
    importance: Importance = field(default_factory=dict)
