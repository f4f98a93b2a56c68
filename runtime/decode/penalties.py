"""Logits → logits that a repetition penalty and biases have changed. Knows token ids, no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import BadArgumentError
from mimo_mobile.runtime.generation_config import GenerationConfig


class Penalties:
    """What a config changes of the logits of one generation: first by ``logit_bias``, then by ``repetition_penalty``.

    The order is that of transformers and llama.cpp. It follows the text, so that each row of a run over drafts is
    changed by the text before that row, as it would be without drafts.
    """

    def __init__(self, config: GenerationConfig, prompt: Sequence[int], size: int) -> None:
        """Begin after the ids of a prompt; the vocabulary has ``size`` tokens.

        Raises:
            BadArgumentError: ``logit_bias`` names a token that the model does not have.
        """
        self._penalty, self._size = np.float32(config.repetition_penalty), size
        self._bias = _dense(config.logit_bias, size) if config.logit_bias else None
        self._seen = np.zeros(size, np.bool_) if config.repetition_penalty != 1 else None
        for token in prompt if self._seen is not None else ():
            self.accept(token)

    def accept(self, token: int) -> None:
        """Go on by ``token``, which is part of the text now."""
        if self._seen is not None and token < self._size:
            self._seen[token] = True

    def apply(self, logits: NDArray[np.float32], ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The changed logits [V], or [N] of the tokens ``ids``; another array where anything is changed."""
        if self._bias is not None:
            logits = logits + (self._bias if ids is None else self._bias[ids])
        if self._seen is not None:
            seen = self._seen if ids is None else self._seen[ids]
            # https://github.com/huggingface/transformers/blob/v4.57.0/src/transformers/generation/logits_process.py#L304
            penalized = np.where(logits < 0, logits * self._penalty, logits / self._penalty)
            logits = np.where(seen, penalized, logits)
        return logits


def _dense(biases: Mapping[int, float], size: int) -> NDArray[np.float32]:
    if unknown := [token for token in biases if token >= size]:
        raise BadArgumentError(f"logit_bias names token {unknown[0]}; the model's are 0 to {size - 1}")
    dense = np.zeros(size, np.float32)
    dense[list(biases)] = list(biases.values())
    return dense
