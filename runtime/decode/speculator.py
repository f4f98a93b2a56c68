"""Decides who drafts, and how many tokens, by what runs cost on this machine and by how many drafts were right lately.

There are two drafters: the checkpoint's own MTP layer, and a look-up of what followed the same tokens before (prompt
lookup, https://github.com/apoorvumang/prompt-lookup-decoding). The trunk decides elsewhere whether a draft is right, so
that nothing here chooses a token. This module knows token ids and seconds, but no logits and no backend's ways.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.decode.pace import MOST_CHANGE, MOST_ROWS, PACE_LEARNT, Costs, Pace, costs_file, remembered
from mimo_mobile.runtime.load_config import LoadConfig, Speculate

if TYPE_CHECKING:
    from mimo_mobile.runtime.decode.generation import Generation

logger = logging.getLogger(__name__)

NGRAM = 3
"""The look-up drafts when the last so many tokens stood in the text before, in the same order."""

MARGIN = 1.05
"""Drafting begins when it looks faster by this factor than going without; it ends when it looks slower."""

SHADOW_TOKENS = 20
"""While the MTP layer does not pay, it drafts once in so many tokens to see whether it would be right again."""

SHADOW_SHARE = 0.01
"""Such trial drafts take at most this share of the time: they are rarer where a draft costs much of a step."""

SHADOW_WEIGHT = 2.0
"""Each trial draft counts as so many drafts, because it is seen so rarely."""

PRIOR_DRAFTS, WINDOW_DRAFTS = 2, 32
"""The first expectation weighs as much as so many drafts; about so many drafts are remembered."""


class Rate:
    """How often something was right lately."""

    def __init__(self, prior: float) -> None:
        """Expect ``prior`` at first, as if it had been seen in a few drafts."""
        self._right, self._all = prior * PRIOR_DRAFTS, float(PRIOR_DRAFTS)

    @property
    def value(self) -> float:
        """The rate, from 0 to 1."""
        return self._right / self._all

    def learn(self, right: bool, weight: float = 1.0) -> None:
        """Take in whether one more draft was right; it counts as ``weight`` drafts."""
        kept = 1 - weight / WINDOW_DRAFTS
        self._right, self._all = kept * self._right + weight * right, kept * self._all + weight


class Success:
    """How often a drafter is right: its first draft and the drafts after a right one have different rates."""

    def __init__(self, prior: float) -> None:
        """Expect ``prior`` of both rates at first."""
        self.first, self.later = Rate(prior), Rate(prior)

    def learn(self, drafted: int, accepted: int) -> None:
        """Take in a run in which the first ``accepted`` of ``drafted`` drafts were right."""
        for index in range(min(accepted + 1, drafted)):
            (self.later if index else self.first).learn(index < accepted)

    def expected(self, drafts: int) -> float:
        """How many tokens a run with so many drafts is expected to give."""
        return 1 + self.first.value * sum(self.later.value**count for count in range(drafts))


class Lookup:
    """Where each sequence of ``NGRAM`` tokens stood last in the text."""

    def __init__(self) -> None:
        """Begin with an empty text."""
        self._tokens: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}

    def reset(self, tokens: Sequence[int]) -> None:
        """Begin a new text with ``tokens``."""
        self._tokens, self._places = [], {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Append a token to the text; the sequence that it ends can be found once another token follows it."""
        if len(self._tokens) >= NGRAM:
            self._places[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
        self._tokens.append(token)

    def following(self, count: int) -> list[int]:
        """At most ``count`` tokens that followed the last ones when they stood here before."""
        place = self._places.get(tuple(self._tokens[-NGRAM:])) if len(self._tokens) >= NGRAM else None
        return [] if place is None else self._tokens[place : place + count]


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens to verify in one run, and how many rows of padding make that run cheaper."""

    ids: tuple[int, ...] = ()
    padding: int = 0
    drafter: Literal["mtp", "ngram", "forced", "none"] = "none"


class Speculator:
    """Drafts for one session; what it learns it keeps from generation to generation.

    Attributes:
        success: How often each drafter was right lately.
        costs: How long runs take, as measured.
        counts: How often a token was verified and how often it was right, for each place in a draft.
    """

    def __init__(self, mode: Speculate, costs: Costs, head: MtpHead | None, mtp_drafts: int = 1) -> None:
        """Draft as ``mode`` says, with ``head`` if there is one, at most ``mtp_drafts`` tokens in a row."""
        self._mode, self.costs, self._head = mode, costs, head
        self._mtp_drafts = mtp_drafts if head is not None and mode in ("auto", "mtp") else 0
        self._pace, self._draft_s = Pace(costs.rows_s), costs.draft_s
        self._shadow_tokens, self._pays = float(SHADOW_TOKENS), self._could_pay()
        self.success = {"mtp": Success(0.7), "ngram": Success(0.5), "forced": Success(0.95)}
        self._lookup = Lookup()
        self._drafting = "none"
        self.counts: list[tuple[int, int]] = [(0, 0)] * (MOST_ROWS - 1)
        self._silent = 0  # tokens since the MTP layer drafted last
        self._shadows: dict[str, int] = {}

    def begin(self, ids: Sequence[int]) -> None:
        """Begin a generation that continues ``ids``."""
        self._lookup.reset(ids)
        self._shadows = {}

    def follow(self, token: int) -> None:
        """Take in that ``token`` came next, and whether drafts that were not verified had guessed it."""
        for name, guess in self._shadows.items():
            self.success[name].first.learn(guess == token, SHADOW_WEIGHT if name == "mtp" else 1)
        self._shadows = {}
        self._lookup.append(token)
        self._silent += 1

    def learn(self, draft: Draft, accepted: int, seconds: float) -> None:
        """Learn that the first ``accepted`` tokens of ``draft`` were right, and that its run took ``seconds``."""
        if self._pace.learn(len(draft.ids) + draft.padding + 1, seconds):
            if self._drafting != "mtp":  # what held a draft up is over by and by
                self._draft_s += PACE_LEARNT * (self.costs.draft_s - self._draft_s)
            self._pays = self._could_pay()
        if not draft.ids:
            return
        self.success[draft.drafter].learn(len(draft.ids), accepted)
        for place in range(min(accepted + 1, len(draft.ids))):
            verified, right = self.counts[place]
            self.counts[place] = verified + 1, right + (place < accepted)

    def propose(self, generation: Generation, position: int, token: int, room: int) -> Draft:
        """A draft of at most ``room`` tokens to verify together with the last token, ``token`` at ``position``."""
        most = max(0, min(room, len(self.costs.rows_s) - 1))
        if certain := generation.certain()[:most]:
            return self._forced(certain, room)
        found = self._lookup.following(most) if self._mode in ("auto", "ngram") else []
        drafts = min(most, self._mtp_drafts) if self._pays else 0
        if not found and not drafts:
            self._drafting = "none"
            return Draft()
        name, count = self._best(len(found), drafts)
        self._drafting = name
        if found and name != "ngram":
            self._shadows["ngram"] = found[0]
        if name == "mtp":
            ids, seconds = self._drafted(generation, position, token, count)
            self._draft_s += PACE_LEARNT * (min(seconds / count, MOST_CHANGE * self.costs.draft_s) - self._draft_s)
            return self._padded(ids, "mtp", room)
        if drafts and self._silent >= self._shadow_tokens:
            ids, seconds = self._drafted(generation, position, token, 1)
            self._shadows["mtp"] = ids[0]
            # With all rows that waited, of weights that are no longer at hand.
            self._shadow_tokens = max(SHADOW_TOKENS, seconds / self._pace.cheapest(1)[1] / SHADOW_SHARE)
        return self._padded(tuple(found[:count]), "ngram", room) if name == "ngram" else Draft()

    def _forced(self, certain: list[int], room: int) -> Draft:
        """The draft that pays most of tokens whose text is certain, though the model may cut it into others."""
        expected, self._drafting = self.success["forced"].expected, "none"
        count = max(range(len(certain) + 1), key=lambda count: self._speed(expected(count) - 1, count, 0.0))
        if not count:
            self._shadows["forced"] = certain[0]
            return Draft()
        return self._padded(tuple(certain[:count]), "forced", room)

    def _best(self, found: int, drafts: int) -> tuple[Literal["mtp", "ngram", "none"], int]:
        """The drafter, and the number of its tokens, that are expected to give most tokens a second."""
        if self._mode != "auto":
            return ("mtp", drafts) if drafts else ("ngram", found) if found else ("none", 0)
        best: tuple[float, Literal["mtp", "ngram", "none"], int] = (1 / self._pace.cheapest(1)[1], "none", 0)
        names: tuple[tuple[Literal["mtp", "ngram"], int, float], ...] = (
            ("ngram", found, 0.0),
            ("mtp", drafts, self._draft_s),
        )
        for name, most, draft_s in names:
            for count in range(1, most + 1):
                speed = self._speed(self.success[name].expected(count) - 1, count, draft_s)
                best = max(best, (speed / (1 if name == self._drafting else MARGIN), name, count))
        return best[1], best[2]

    def _could_pay(self) -> bool:
        """Whether the MTP layer's drafts would be faster than none if all were right; outside ``auto`` it is true."""
        alone, counts = MARGIN / self._pace.cheapest(1)[1], range(1, self._mtp_drafts + 1)
        return self._mode != "auto" or any(self._speed(count, count, self._draft_s) > alone for count in counts)

    def _speed(self, right: float, drafts: int, draft_s: float) -> float:
        """Tokens a second when ``right`` of ``drafts`` drafts are right and each takes ``draft_s`` to make."""
        rows = min(drafts + 1, len(self.costs.rows_s))
        return (1 + right) / (self._pace.cheapest(rows)[1] + drafts * draft_s)

    def _drafted(self, generation: Generation, position: int, token: int, count: int) -> tuple[tuple[int, ...], float]:
        """``count`` drafts of the MTP layer, and how many seconds they took."""
        assert self._head is not None
        self._silent, started = 0, time.perf_counter()
        logits, ids = self._head.draft(position, token), list[int]()
        for ahead in range(count):
            if ahead:
                logits = self._head.draft_more(position + ahead, ids[-1])
            ids.append(generation.guess(logits, self._head.draft_ids, ahead))
        return tuple(ids), time.perf_counter() - started

    def _padded(self, ids: tuple[int, ...], drafter: Literal["mtp", "ngram", "forced"], room: int) -> Draft:
        return Draft(ids, min(self._pace.cheapest(len(ids) + 1)[0], room - len(ids)), drafter)


def speculator_for(backend: Backend, config: LoadConfig, model: Path, *circumstances: object) -> Speculator | None:
    """The speculator for a backend; None when nothing is to be drafted.

    Args:
        backend: The loaded backend, whose KV cache is lost when costs are measured.
        config: What was asked for.
        model: The model's file, for which costs are remembered.
        circumstances: Whatever else changes what runs cost; it tells remembered costs apart.
    """
    if config.speculate == "off":
        return None
    file = costs_file(model, *circumstances) if config.cache else None
    return Speculator(config.speculate, remembered(backend, file), backend.mtp, config.mtp_drafts)
