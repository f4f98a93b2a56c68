"""Logits → logits that penalties and biases have changed. Knows token ids, no text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import BadArgumentError
from mimo_mobile.runtime.generation_config import GenerationConfig


class Penalties:
    """What a config changes of the logits of one generation.

    First comes ``logit_bias``, then ``repetition_penalty``, then ``frequency_penalty`` and ``presence_penalty``: the
    order of transformers, llama.cpp and vLLM. It follows the text, so that each row of a run over drafts is changed by
    the text before that row, as it would be without drafts.
    """

    def __init__(self, config: GenerationConfig, prompt: Sequence[int], size: int) -> None:
        """Begin after the ids of a prompt; the vocabulary has ``size`` tokens.

        Raises:
            BadArgumentError: ``logit_bias`` names a token that the model does not have.
        """
        self._penalty, self._size = np.float32(config.repetition_penalty), size
        self._bias = _dense(config.logit_bias, size) if config.logit_bias else None
        self._seen = np.zeros(size, np.bool_) if config.repetition_penalty != 1 else None
        if self._seen is not None:
            self._seen[[token for token in prompt if token < size]] = True
        self._frequency, self._presence = config.frequency_penalty, config.presence_penalty
        # What is subtracted from each logit: of the prompt's tokens nothing.
        self._less = np.zeros(size, np.float32) if self._frequency or self._presence else None
        self._counts: Counter[int] = Counter()

    def accept(self, token: int) -> None:
        """Go on by ``token``, which is part of the text now."""
        if token >= self._size:
            return
        if self._seen is not None:
            self._seen[token] = True
        if self._less is not None:
            self._counts[token] += 1
            self._less[token] = self._counts[token] * self._frequency + self._presence

    def apply(self, logits: NDArray[np.float32], ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The changed logits [V], or [N] of the tokens ``ids``; another array where anything is changed."""
        if self._bias is not None:
            logits = logits + (self._bias if ids is None else self._bias[ids])
        if self._seen is not None:
            seen = self._seen if ids is None else self._seen[ids]
            # https://github.com/huggingface/transformers/blob/v4.57.0/src/transformers/generation/logits_process.py#L304
            penalized = np.where(logits < 0, logits * self._penalty, logits / self._penalty)
            logits = np.where(seen, penalized, logits)
        if self._less is not None:
            # https://platform.openai.com/docs/advanced-usage#frequency-and-presence-penalties
            logits = logits - (self._less if ids is None else self._less[ids])
        return logits


def _dense(biases: Mapping[int, float], size: int) -> NDArray[np.float32]:
    if unknown := [token for token in biases if token >= size]:
        raise BadArgumentError(f"logit_bias names token {unknown[0]}; the model's are 0 to {size - 1}")
    dense = np.zeros(size, np.float32)
    dense[list(biases)] = list(biases.values())
    return dense
