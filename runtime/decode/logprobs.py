"""Logits → how likely a token was, and which others were likeliest. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.runtime.decode.sampling import largest


def logprobs(logits: NDArray[np.float32], token: int, most: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The natural logarithm of a token's probability, and the ``most`` likeliest tokens with theirs, ties by id.

    Args:
        logits: [V], finite.
        token: The token's id.
        most: How many others to tell; the token is among them where it is one of the likeliest.
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    total = float(np.log(np.exp(shifted).sum()))
    likeliest = largest(shifted, min(most, len(shifted))) if most else ()
    return float(shifted[token]) - total, tuple((int(each), float(shifted[each]) - total) for each in likeliest)
