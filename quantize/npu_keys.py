"""What the keys of a model have in common in the layers whose scores float16 cannot hold, and what is left without it.

NPUs have nothing finer than float16. This module runs a written folder in float32 over the calibration text; it knows
no graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.folding import MOST, prefix_of
from mimo_mobile.convert.npu.centered_keys import Centers, center, turned_back
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import QuantizationError
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.written import read_written
from mimo_mobile.ranges import MOST_SCORE


def key_centers(folder: Path, ids: Sequence[int], context: int, progress: ProgressCallback = ignore) -> Centers:
    """What is to be taken from the keys of those layers of a folder that attend in float32; nothing is run without any.

    Args:
        folder: What ``write_onnx`` made.
        ids: The text over which keys and scores are measured.
        context: Tokens of prompt and answer.
        progress: Called after every layer.

    Raises:
        QuantizationError: What is left is too large for float16 as well.
    """
    weights = WrittenWeights(folder)
    exact, made = weights.compute.float32, dict[str, NDArray[np.float32]]()
    if not exact:
        return made
    config, tensors = read_written(folder, weights.config)

    def observe(layer: str, trace: forward.Trace) -> None:
        if (prefix := prefix_of(layer)) in exact:
            made[prefix] = center(trace.key, config, context)
            _check(layer, trace, made[prefix], config, context)

    forward.run(config, tensors, [ids], observe, mtp=True, stage="measure keys", progress=progress)
    return made


def _check(layer: str, trace: forward.Trace, taken: NDArray[np.float32], config: MimoConfig, context: int) -> None:
    """See that float16 holds what is left of a layer's numbers."""
    for name, values in (("a query", trace.query), ("a key", trace.key - taken), ("a value", trace.value)):
        if (largest := float(np.abs(values).max())) > MOST:
            raise QuantizationError(
                f"{layer}: {name} of {largest:.4g} found, at most {MOST:g} expected for an NPU, which computes in"
                " float16; run this model on the CPU"
            )
    # At the context's end, where what is taken has been turned most, and at its beginning.
    score = max(
        _largest_score(trace, turned_back(taken, config, start), config)
        for start in (0, max(0, context - len(trace.x)))
    )
    if score > MOST_SCORE:
        raise QuantizationError(
            f"{layer}: a score (q·k after scaling) of {score:.4g} found where all that its keys have in common is taken"
            f" away, at most {MOST_SCORE:g} expected for an NPU, which computes in float16; run this model on the CPU"
        )


def _largest_score(trace: forward.Trace, taken: NDArray[np.float32], config: MimoConfig) -> float:
    """The largest |q·(k − c)| after scaling, of any two tokens of a text that begins at a position.

    ``taken`` is c `[K, D]`, turned back by that position.
    """
    query, groups = forward.rotate(trace.query, config.rope_theta), config.num_attention_heads // len(taken)
    keys = trace.turned_key - taken
    largest = max(float(np.abs(query[:, head] @ keys[:, head // groups].T).max()) for head in range(query.shape[1]))
    return largest * float(config.head_dim**-0.5)
