"""Keeps what models are calibrated on apart from what they are measured on, across runs: by hashes, without the texts.

They lie beside the quantized files. This module knows token ids, and neither weights nor formats.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from mimo_mobile import files, manifest, untrusted
from mimo_mobile.documents import FileFormat, Value
from mimo_mobile.errors import BadArgumentError, QuantizationError
from mimo_mobile.quantize.texts import Window
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

NAME = "calibrated-on.json"
FORMAT = FileFormat("calibrated_on", 1)

NGRAM = 32
"""So many tokens in a row must not be in both sets."""


def hashes(texts: Iterable[Sequence[int]]) -> set[str]:
    """Hashes of every ``NGRAM`` tokens in a row, or of a whole text that has fewer."""
    return {_hash(some) for ids in texts for some in _ngrams(ids)}


def remember(folder: Path, texts: Iterable[Sequence[int]], *, others: bool) -> None:
    """Keep in a folder of quantized files on what they were calibrated.

    Args:
        folder: The folder.
        texts: Token ids.
        others: Whether there are other files, so that what those were calibrated on stays known.

    Raises:
        QuantizationError: What is known of others is damaged.
    """
    known = hashes(texts) | (read(folder) if others else set())
    files.write_text(folder / NAME, FORMAT.to_text({"tokens": NGRAM, "hashes": sorted(known)}))


def read(folder: Path) -> set[str]:
    """The hashes that a folder keeps; none when it keeps none.

    Raises:
        QuantizationError: The file is damaged, or a newer MiMo Mobile wrote it.
    """
    if not os.path.lexists(folder / NAME):
        return set()

    def build(found: Value) -> set[str]:
        found["tokens"].integer(NGRAM, NGRAM)
        return {each.hexadecimal(16) for each in found["hashes"].items()}

    return FORMAT.read(folder / NAME, build, QuantizationError, "quantize again into another folder")


def calibrated_on(model: Path) -> set[str]:
    """The hashes of what the model at a path was calibrated on, as far as its folder tells.

    Raises:
        QuantizationError: What its folder keeps is damaged.
    """
    path = model.absolute()
    return next((read(each) for each in (path, *path.parents[:2]) if manifest.is_there(each)), set())


def check(windows: Sequence[Window], known: Collection[str], tokenizer: TextTokenizer) -> None:
    """See that nothing that is measured on was calibrated on.

    Raises:
        BadArgumentError: ``NGRAM`` tokens in a row are in both.
    """
    for window in windows if known else ():
        for some in _ngrams(window.ids):
            if _hash(some) in known:
                shown = untrusted.printable(tokenizer.decode(some))
                raise BadArgumentError(
                    f"the model was calibrated on a part of this text, {shown[:60]!r} …, so that measuring on it would"
                    " flatter; give a text that shares nothing with the calibration"
                )


def _ngrams(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + NGRAM] for start in range(max(1, len(ids) - NGRAM + 1)))


def _hash(ids: Sequence[int]) -> str:
    return hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=8).hexdigest()
