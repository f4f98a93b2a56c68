"""Chooses the tokens that the MTP layer may draft: to score a whole large vocabulary would cost more than the layer.

Other tokens are never drafted, but they are still generated: the trunk verifies every draft. FastMTP does the same.
Source: https://arxiv.org/abs/2509.18362, section 3.3.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.json_files import present, read_text
from mimo_mobile.convert.vocabulary import Vocabulary
from mimo_mobile.documents import parse
from mimo_mobile.errors import CheckpointError
from mimo_mobile.layout import DRAFT_VOCABULARY, MOST_TOKENS

LEARNT_TOKENS = 1 << 15
"""So many learnt tokens, lowest ids first, are drafted: training a tokenizer merges the most frequent pairs first."""


def draft_ids(folder: Path, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Token ids `[R]` in rising order: those of the checkpoint's own list, else the most frequent and all added tokens.

    A checkpoint's own list stands in ``draft_vocabulary.json`` beside config.json.

    Raises:
        CheckpointError: The file is not a JSON list of ids that are in use.
    """
    used = [number for number, kind in enumerate(vocabulary.kinds) if kind != "unused"]
    path = folder / DRAFT_VOCABULARY
    if not present(path):
        learnt = [number for number in used if vocabulary.kinds[number] == "normal"]
        added = [number for number in used if vocabulary.kinds[number] != "normal"]
        return np.array(sorted([*learnt[:LEARNT_TOKENS], *added]), np.int64)
    try:
        found = {each.integer(0, MOST_TOKENS) for each in parse(read_text(path)).items(least=1)}
    except ValueError as error:
        raise CheckpointError(f"{path}: a list of token ids expected: {error}") from error
    if unused := found - set(used):
        raise CheckpointError(f"{path}: {min(unused)} found, one of the {len(used)} token ids in use expected")
    return np.array(sorted(found), np.int64)
