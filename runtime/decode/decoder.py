"""The steps of one generation: runs of the model, drafts, and which of them are right."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import Cancelled, NumericsError
from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.decode.speculator import Draft
from mimo_mobile.runtime.generation_config import FinishReason, GeneratedToken, GenerationStats, Notice
from mimo_mobile.runtime.turns import Deadline

if TYPE_CHECKING:
    from mimo_mobile.runtime.decode.session import Session
    from mimo_mobile.runtime.model import Model


class Decoder:
    """One generation of a session on its model. The backend is held for each run, never while a caller reads."""

    def __init__(
        self,
        model: Model,
        session: Session,
        ids: list[int],
        generation: Generation,
        cancelled: threading.Event,
        deadline: Deadline,
    ) -> None:
        """Go on after the prompt ``ids`` as ``generation`` says, until ``cancelled`` is set, which ``deadline`` may."""
        self._model, self._session, self._ids, self._deadline = model, session, ids, deadline
        self._generation, self._cancelled = generation, cancelled
        self._speculator = model.speculator if generation.config.speculate else None
        self._context_length = model.context_length
        self._pending, self._position, self._draft = ids, 0, Draft()
        self._cached = self._drafted = self._accepted = 0
        self._first_s = self._rested_s = 0.0

    def run(self) -> Iterator[GeneratedToken]:
        """The records of the whole generation."""
        reason: FinishReason | None = None
        started = time.perf_counter()
        try:
            while reason is None:
                begun = time.perf_counter()
                logits, seconds = self._step()
                worked = time.perf_counter() - begun
                step, right = len(self._pending) == 1, 0
                self._session.tokens += self._pending
                self._position += len(self._pending)
                for index, row in enumerate(logits):
                    token = self._generation.next(row)
                    self._first_s = self._first_s or time.perf_counter() - started
                    if token is None:
                        reason = "stop"
                        break
                    yield from self._generation.emit(token)
                    reason = self._end()
                    self._pending = [token]
                    if self._speculator is not None:
                        self._speculator.follow(token)
                    if reason is not None or index == len(self._draft.ids) or token != self._draft.ids[index]:
                        break
                    self._session.tokens.append(token)
                    self._position += 1
                    right += 1
                self._drafted, self._accepted = self._drafted + len(self._draft.ids), self._accepted + right
                if self._speculator is not None and step and reason is None:
                    self._speculator.learn(self._draft, right, seconds)
                if reason is None:
                    self._rested_s += self._model.cooling.rest(worked, self._cancelled)
        except Cancelled:
            reason = "cancelled"
        except NumericsError:
            self._session.tokens.clear()  # the KV cache holds such numbers now
            raise
        notice: Notice | None = None
        if reason == "length" and self._generation.count != self._generation.config.max_tokens:
            notice = "context_full"
        elif reason == "cancelled" and self._deadline.passed:
            notice = "timed_out"
        yield from self._generation.end(reason, self._stats(time.perf_counter() - started), notice)

    def _step(self) -> tuple[NDArray[np.float32], float]:
        """One run of what is pending, with drafts behind it: logits [rows, V], and what the run took."""
        with self._model.turns.running(self._cancelled) as backend:
            try:
                return self._computed(backend)
            except Cancelled:
                raise
            except BaseException:  # one that a signal handler raised, too
                self._session.tokens.clear()  # nobody knows what the KV cache holds now
                raise

    def _computed(self, backend: Backend) -> tuple[NDArray[np.float32], float]:
        if self._generation.count:
            self._draft = self._propose()
        else:
            self._resume(backend)
        del self._session.tokens[self._position :]
        rows, started = len(self._draft.ids) + 1, time.perf_counter()
        ids = [*self._pending, *self._draft.ids]
        try:
            # A copy, since another thread may close the model between two rows.
            logits = backend.decode(ids, self._position, self._cancelled, rows, self._draft.padding).copy()
        except Cancelled as cut:
            self._session.tokens += ids[: cut.computed]  # the next prompt may begin with them, too
            raise
        return logits, time.perf_counter() - started

    def _resume(self, backend: Backend) -> None:
        """Begin after what the KV cache has of the prompt; at least one token is left to compute."""
        self._model.turns.claim(self._session, backend)
        self._cached = common(self._session.tokens, self._ids[:-1])
        if backend.mtp is not None:
            self._cached = backend.mtp.resume(self._cached)
        self._pending, self._position = self._ids[self._cached :], self._cached
        if self._speculator is not None:
            self._speculator.begin(self._ids)

    def _propose(self) -> Draft:
        if self._speculator is None:
            return Draft()
        room = min(self._generation.most_tokens - self._generation.count, self._left) - 1
        return self._speculator.propose(self._generation, self._position, self._pending[0], room)

    @property
    def _left(self) -> int:
        """How many tokens fit behind the pending one."""
        return self._context_length - self._position - 1

    def _end(self) -> FinishReason | None:
        if self._generation.stopped:
            return "stop"
        return "length" if self._generation.count >= self._generation.most_tokens or self._left <= 0 else None

    def _stats(self, seconds: float) -> GenerationStats:
        count, first_s = self._generation.count, self._first_s
        return GenerationStats(
            prompt_tokens=len(self._ids),
            cached_tokens=self._cached,
            generated_tokens=count,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            prefill_tps=(len(self._ids) - self._cached) / first_s if first_s else 0.0,
            decode_tps=(count - 1) / (seconds - first_s) if count > 1 else 0.0,
            time_to_first_token_s=first_s,
            peak_rss_bytes=peak_rss_bytes(),
            rested_s=self._rested_s,
        )


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (first, second) in pairs if first != second), min(len(one), len(other)))


def peak_rss_bytes() -> int:
    """The largest resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
