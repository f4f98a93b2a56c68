"""What restricts the tokens of a generation; nothing here knows what for."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """Which tokens may come next in one generation.

    It is asked wherever a token is chosen, verified drafts included, so that it restricts drafts as well. It may call
    ``cancel`` and ``close`` of its own model.
    """

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits [V] with −inf for every token that may not come next, end tokens included; another array."""

    def accept(self, token: int) -> None:
        """Go on by ``token``, which is part of the text now. Tokens that close the thinking are shown, too."""
