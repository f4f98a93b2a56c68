"""What a user gives to quantize by: how much effort, and a text or an importance matrix, read before any work.

It tells by hashes what files are made by, so that another text, ours or the user's, makes them anew. This module knows
neither weights nor formats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.entries import Effort, Entry
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.quantize.importance import read_importance
from mimo_mobile.quantize.recipes import Recipe, recipe_named
from mimo_mobile.quantize.served import ServedModel
from mimo_mobile.quantize.texts import calibration_texts
from mimo_mobile.runtime.endpoint import Endpoint
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

SCALES, UNITS = "scales", "units"
"""What the manifest says of files in which the scales of a row's int4 blocks are multiples of a unit."""

ANSWERS = "answers"
"""Under this name the manifest has a hash of all that was read when the model's own answers are a part of it."""

ANSWERED_BY = "answered_by"
"""Under this name it says which server's model gave these answers; without it, the quantized model gave them."""


PLAIN_TOKENS = 64
"""So many tokens of our text are read where weights are only rounded: enough for scales of the int8 cache."""

PLAIN_MARGIN = 2.0
"""So much larger than what these tokens show are those scales, since other texts go farther (docs/performance.md)."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a user gives to quantize by.

    Attributes:
        effort: How much to do.
        texts: The token ids of the text.
        ours: Whether the text is ours, to which the highest effort adds what the model answers.
        importance: What an importance matrix says; None where there is none.
        served: The server's model that answers instead of the quantized one; None where that answers itself.
    """

    effort: Effort
    texts: Sequence[tuple[int, ...]]
    ours: bool = True
    importance: Mapping[str, NDArray[np.float32]] | None = None
    served: ServedModel | None = None

    @classmethod
    def read(
        cls,
        checkpoint: Checkpoint,
        effort: Effort,
        text: Path | None,
        matrix: Path | None,
        endpoint: Endpoint | None = None,
    ) -> Given:
        """Read the files that were given, and see that the server runs the checkpoint.

        Raises:
            BadArgumentError: The text cannot be read, or is too short; or the server has another tokenizer.
            EndpointError: The server cannot be reached, or refuses.
            QuantizationError: The matrix cannot be read, is damaged, or belongs to another model.
        """
        importance = read_importance(matrix, checkpoint.config) if matrix else None
        served = ServedModel(endpoint, checkpoint) if endpoint else None
        if served is not None:
            served.check()
        return cls(effort, texts_for(checkpoint, text), text is None, importance, served)

    @property
    def calibrates_on(self) -> Sequence[tuple[int, ...]]:
        """What the checkpoint is run over: the beginning of our text where weights are only rounded, else all texts."""
        return [self.texts[0][:PLAIN_TOKENS]] if self._is_plain else self.texts

    @property
    def cache_margin(self) -> float:
        """The factor between the scales of the int8 cache and those that the texts show."""
        return PLAIN_MARGIN if self._is_plain else 1.0

    @property
    def _is_plain(self) -> bool:
        return self.effort == "none" and self.ours

    @property
    def adds_answers(self) -> bool:
        """Whether answers are read after the text."""
        return self.effort == "high" and self.ours

    @property
    def asks_model(self) -> bool:
        """Whether these are the quantized model's own."""
        return self.adds_answers and self.served is None

    def calibrated_by(self, recipe: Recipe) -> dict[str, str]:
        """What a recipe's files depend on: hashes of ``text`` and ``importance``, and if scales are in units."""
        made = {}
        if _reads_text(recipe, self.effort):
            made["text"] = hash_of(self.calibrates_on)
        if self.importance is not None:
            known = sorted(self.importance.items())
            made["importance"] = _hash(*(part for name, each in known for part in (name.encode(), each)))
        if recipe.in_units:
            made[SCALES] = UNITS
        if self.served is not None:
            made[ANSWERED_BY] = self.served.name
        return made

    def made(self, entry: Entry, recipe: Recipe) -> bool:
        """Whether a recipe's entry was made by the same; files with scales in units serve everywhere.

        What a model answers depends on nothing else, so that it does not count.
        """
        known = {name: each for name, each in entry.calibrated_by.items() if name != ANSWERS}
        if not recipe.in_units:
            known.pop(SCALES, None)
        return entry.effort == self.effort and known == self.calibrated_by(recipe)


def check_effects(
    recipes: Sequence[str], effort: Effort, text: Path | None, matrix: Path | None, endpoint: Endpoint | None = None
) -> None:
    """Check that a text, a matrix and a server have an effect.

    Raises:
        BadArgumentError: One has none.
        QuantizationError: A recipe is unknown.
    """
    if matrix and effort == "none":
        raise BadArgumentError("--importance weighs errors, which --effort none does not; leave one of them out")
    if matrix and effort == "high":
        raise BadArgumentError(
            "--effort high needs to know how columns go together, which --importance does not tell; give one of them"
        )
    if matrix and text:
        raise BadArgumentError("--importance is taken instead of a text, and --calibration names one; give one of them")
    if endpoint and (effort != "high" or text):
        raise BadArgumentError(
            "--endpoint answers the prompts that --effort high calibrates on where no text is given; add --effort high,"
            " and leave --calibration out"
        )
    if text and not any(_reads_text(recipe_named(name), effort) for name in recipes):
        raise BadArgumentError(
            "--calibration has no effect on GGUF files that --effort none makes; leave it out, or give more --effort"
        )


def _reads_text(recipe: Recipe, effort: Effort) -> bool:
    """Whether a recipe's files depend on a text; without effort it tells only the ranges that ONNX files hold."""
    return effort != "none" or recipe.target == "onnx"


def hash_of(texts: Sequence[Sequence[int]]) -> str:
    """The SHA-256 of texts: of how many tokens each has, and then of all ids, as little-endian 32-bit integers."""
    return _hash(np.asarray([*map(len, texts), *(each for ids in texts for each in ids)], "<i4"))


def _hash(*parts: bytes | NDArray[np.generic]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()


def texts_for(checkpoint: Checkpoint, text: Path | None = None) -> list[tuple[int, ...]]:
    """The token ids of a text of the user's, or of ours.

    Raises:
        BadArgumentError: The text cannot be read, or is too short.
    """
    tokenizer = TextTokenizer.from_file(checkpoint.path / "tokenizer.json")
    return calibration_texts(tokenizer, file=text, length=checkpoint.config.max_position_embeddings)
