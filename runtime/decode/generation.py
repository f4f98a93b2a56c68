"""One generation under way: what it keeps from token to token. Knows logits and text, no backend."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import NumericsError, SessionError
from mimo_mobile.runtime.decode.constraint import Constraint
from mimo_mobile.runtime.decode.logprobs import logprobs
from mimo_mobile.runtime.decode.penalties import Penalties
from mimo_mobile.runtime.decode.sampling import sample
from mimo_mobile.runtime.decode.structured import StructuredAnswer
from mimo_mobile.runtime.generation_config import (
    FinishReason,
    GeneratedToken,
    GenerationConfig,
    GenerationStats,
    Notice,
)
from mimo_mobile.runtime.text.chat_template import CLOSE_THINKING
from mimo_mobile.runtime.text.detokenizer import Detokenizer
from mimo_mobile.runtime.text.loop_guard import LoopGuard
from mimo_mobile.runtime.text.stop_strings import StopStrings
from mimo_mobile.runtime.text.thinking import Channel, ThinkingSplitter
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from mimo_mobile.runtime.text.tools import ToolCall, ToolCalls


class Generation:
    """One generation under way: random numbers, held-back text, thinking."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        config: GenerationConfig,
        splitter: ThinkingSplitter,
        constraint: Constraint | None = None,
        name: str = "the model",
        room: int = 1 << 31,
        prompt: Sequence[int] = (),
        structured: StructuredAnswer | None = None,
    ) -> None:
        """Begin after the ids of a prompt, with a text that may have ``room`` more tokens in the context.

        Raises:
            BadArgumentError: ``logit_bias`` names a token that the model does not have.
        """
        self._penalties = Penalties(config, prompt, tokenizer.size)
        self.config, self.most_tokens = config, config.most_tokens(room)
        self._budget = config.most_thinking(room)
        self._guard = LoopGuard()
        self._notice: Notice | None = None
        self._tokenizer, self._splitter, self._constraint, self._name = tokenizer, splitter, constraint, name
        self._structured = structured
        self._random = np.random.Generator(np.random.PCG64(config.seed))
        self._detokenizer, self._stops = Detokenizer(), StopStrings(config.stop)
        self._calls = ToolCalls() if config.callable_tools else None
        self._forced: deque[int] = deque()
        self._uniforms: deque[float] = deque()
        self._closed = False
        self._logprobs: tuple[float | None, tuple[tuple[int, float], ...]] = None, ()  # of the token that came last
        self.count = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met, or nothing can follow a structured answer."""
        return self._stops.stopped or (self._structured is not None and self._structured.over)

    def next(self, logits: NDArray[np.float32]) -> int | None:
        """The next token, sampled or forced; None at the end of the turn.

        Raises:
            NumericsError: The logits are not finite.
            BadArgumentError: The structure takes more time or memory than it may.
            SessionError: The constraint allows no token.
        """
        structured, logits = self._structured, logits[: self._tokenizer.size]  # what is beyond is padding
        self._check(logits, f"token {self.count + 1}", "kv_dtype f32 (GGUF) or int8 (ONNX), ep cpu or another recipe")
        if self._thinks and not self._closed:
            spent = self._budget is not None and self.count >= self._budget
            if spent or self._guard.found:
                self._notice = None if spent else "loop_closed"
                self._close_thinking()
        if structured is not None and not self._forced:
            self._forced.extend(structured.forced())
        if self._forced:
            token = self._forced.popleft()
        else:
            token = self._sample(self._allowed(logits), 0)
            self._uniforms.popleft()
            if token in self._tokenizer.stop_ids:
                if structured is None or not structured.thinking:
                    return None
                self._close_thinking()  # the turn would end there, and the answer is still to come
                token = self._forced.popleft()
        self._penalties.accept(token)
        if structured is not None:
            structured.accept(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        if self.config.logprobs is not None:
            self._logprobs = logprobs(logits, token, self.config.logprobs)
        return token

    @property
    def _thinks(self) -> bool:
        return self._splitter.state == "thinking" if self._structured is None else self._structured.thinking

    def _close_thinking(self) -> None:
        self._closed = True
        self._forced.extend(self._tokenizer.encode(CLOSE_THINKING))

    def _allowed(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits of the tokens that may come, penalties included."""
        logits = self._restricted(self._penalties.apply(logits))
        if logits.max() == -np.inf:
            raise SessionError("the constraint allows no token at all; it must allow the end of the text at least")
        return logits

    def _restricted(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits [V] with −inf for what structure and constraint do not allow."""
        if self._structured is not None:
            logits = self._structured.mask(logits)
        return logits if self._constraint is None else self._constraint.mask(logits)

    def certain(self) -> list[int]:
        """Tokens that come next, or most likely do, because the structure forces the text."""
        if self._structured is None:  # the few that close a thinking are drafted as any other
            return []
        return list(self._forced) or self._structured.certain()

    def guess(self, logits: NDArray[np.float32], ids: NDArray[np.int64], ahead: int = 0) -> int:
        """What the next token but ``ahead`` would be if these were the logits of ``ids``: by the random number it gets.

        Token and guess come of one random number, so that they agree about as often as their distributions overlap,
        while the tokens themselves are chosen as in a generation that guesses nothing. A constraint is asked about the
        next token only: for later ones it has not seen the text before them.

        Raises:
            NumericsError: The logits are not finite.
        """
        self._check(logits, f"a draft of token {self.count + ahead + 1}", "speculate off or ngram")
        logits = self._penalties.apply(logits, ids)
        if not ahead and (self._constraint is not None or self._structured is not None):
            whole = np.full(self._tokenizer.size, -np.inf, np.float32)
            whole[ids] = logits
            allowed = self._restricted(whole)[ids]
            logits = allowed if allowed.max() > -np.inf else logits
        return int(ids[self._sample(logits, ahead)])

    def _check(self, logits: NDArray[np.float32], what: str, remedy: str) -> None:
        """Raise an error unless all logits, which are of ``what``, are numbers.

        Raises:
            NumericsError: They are not.
        """
        if not np.isfinite(logits).all():
            raise NumericsError(
                f"{self._name} computed NaN or infinity for {what} of the answer: the file is damaged, or numbers are"
                f" too large for float16; see `mimo inspect --verify`, and if that finds nothing take {remedy}"
            )

    def _sample(self, logits: NDArray[np.float32], ahead: int) -> int:
        while len(self._uniforms) <= ahead:
            self._uniforms.append(self._random.random())
        config = self.config
        return sample(
            logits,
            self._uniforms[ahead],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
        )

    def emit(self, token: int) -> Iterator[GeneratedToken]:
        """The records of one token: one, or two when it ends the thinking and begins the answer."""
        self.count += 1
        text = self._stops.feed(self._detokenizer.feed(self._tokenizer.token_bytes(token)))
        pieces = [part for piece in self._splitter.feed(text) for part in self._parts(*piece)]
        for index, (channel, piece) in enumerate(pieces or [(self._splitter.channel, "")]):
            said, call = (piece, None) if isinstance(piece, str) else ("", piece)
            if channel == "thinking" and self.config.loop_guard:
                self._guard.feed(said)
            notice, self._notice = self._notice, None
            if index:  # what the token brings beside its first piece
                yield GeneratedToken(said, None, channel, notice=notice, tool_call=call)
            else:
                logprob, likeliest = self._logprobs
                yield GeneratedToken(
                    said, token, channel, notice=notice, tool_call=call, logprob=logprob, top_logprobs=likeliest
                )

    def _parts(self, channel: Channel, text: str) -> list[tuple[Channel, str | ToolCall]]:
        """A piece of text, and in the answer the calls in it."""
        if channel == "thinking" or self._calls is None:
            return [(channel, text)]
        return [(channel, each) for each in self._calls.feed(text)]

    def end(
        self, reason: FinishReason, stats: GenerationStats, notice: Notice | None = None
    ) -> Iterator[GeneratedToken]:
        """What was held back, and the last record."""
        text = self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
        for channel, piece in [*self._splitter.feed(text), *self._splitter.flush()]:
            for _, part in self._parts(channel, piece):
                said, call = (part, None) if isinstance(part, str) else ("", part)
                yield GeneratedToken(said, None, channel, tool_call=call)
        if self._calls is not None and (cut_off := self._calls.flush()):
            yield GeneratedToken(cut_off, None, "answer")
        if self.stopped and reason == "length":  # a stop string was in what was held back
            reason, notice = "stop", None
        yield GeneratedToken("", None, self._splitter.channel, reason, stats, notice)
