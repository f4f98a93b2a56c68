"""One small API over both backends: messages or a prompt in, a stream of tokens out.

A ``Backend`` turns token ids into logits and keeps a KV cache; a ``Generation`` makes tokens and text of logits;
a ``Session`` drives both, once for all backends.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import ContextFullError, ModelLoadError, SessionError
from mimo_mobile.layout import DEFAULT_CONTEXT
from mimo_mobile.runtime.backend import Backend, Cancelled
from mimo_mobile.runtime.decode import pace
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.decode.speculator import Draft, Speculate, Speculator
from mimo_mobile.runtime.devices.placement import Placement
from mimo_mobile.runtime.generation_config import FinishReason, GeneratedToken, GenerationConfig, GenerationStats
from mimo_mobile.runtime.text.chat_template import Message, MessageLike, encode_messages
from mimo_mobile.runtime.text.thinking import ThinkingSplitter
from mimo_mobile.runtime.text.tokenizer import TextTokenizer


class Session:
    """A loaded model and one conversation's KV cache, as a context manager.

    What a prompt has in common with the tokens of the generation before is not computed again. One generation at
    a time; ``cancel`` may be called from any thread.

    Attributes:
        tokenizer: Text ↔ ids.
        synthetic: The weights are random, the text means nothing.
        placement: What each execution provider took of the model; None with llama.cpp.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: TextTokenizer,
        chat_template: str | None,
        *,
        synthetic: bool = False,
        speculate: Speculate = "off",
        mtp_drafts: int = 1,
        costs_file: Path | None = None,
        placement: Placement | None = None,
    ) -> None:
        """Join a backend with its tokenizer; ``runtime.load`` does it.

        Args:
            backend: The loaded model.
            tokenizer: Its tokenizer.
            chat_template: Jinja2, or None.
            synthetic: The weights are random.
            speculate: What drafts.
            mtp_drafts: At most so many tokens in a row by the MTP layer.
            costs_file: Where it is remembered what runs cost on this machine.
            placement: Where the model's nodes are; None where there are no execution providers.
        """
        self.tokenizer = tokenizer
        self.synthetic = synthetic
        self.placement = placement
        self._speculate, self._mtp_drafts, self._costs_file = speculate, mtp_drafts, costs_file
        self._speculator: Speculator | None = None
        self._backend: Backend | None = backend
        self._chat_template = chat_template
        self._cached: list[int] = []
        self._busy = threading.Lock()
        self._running: weakref.ref[Generator[GeneratedToken, None, None]] | None = None
        self._cancelled = threading.Event()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def context_length(self) -> int:
        """Tokens of prompt and generation together."""
        return self._opened().context_length

    @property
    def speculator(self) -> Speculator | None:
        """What drafts, and how well; None before the first generation, or when nothing does."""
        return self._speculator

    def close(self) -> None:
        """End the running generation and free the model; closing twice does no harm."""
        self.cancel()
        running = self._running() if self._running else None
        if running is not None:
            # A suspended one holds the session until it is closed; one that another thread runs ends by itself.
            with suppress(ValueError):
                running.close()
        with self._busy:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    def cancel(self) -> None:
        """End the running generation within one token, during prefill too; its last record says ``cancelled``."""
        self._cancelled.set()
        if self._backend is not None:
            self._backend.cancel()

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be given."""
        return self._chat_template is not None

    def encode_prompt(self, prompt: str | Sequence[MessageLike], config: GenerationConfig) -> list[int]:
        """Token ids of a prompt: messages through the chat template, a text as it stands.

        Names of special tokens in a text become these tokens; in a message they are text like any other.

        Raises:
            SessionError: The model has no chat template, or it refuses the messages.
            ValueError: Something among the messages is none.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if self._chat_template is None:
            raise SessionError("this model has no chat template; give a text instead of messages")
        return encode_messages(self._chat_template, prompt, self.tokenizer, thinking=_thinks(config))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] after each of ``ids``; the KV cache's content is lost.

        Raises:
            ContextFullError: More ids than the context holds.
            SessionError: No ids, the session is closed or busy.
        """
        with self.exclusive() as backend:
            self._check_length(ids, backend)
            return backend.all_logits(ids)

    def generate(
        self, prompt: str | Sequence[MessageLike] | Sequence[int], config: GenerationConfig | None = None
    ) -> Generator[GeneratedToken, None, None]:
        """Stream what follows a prompt: messages, a text as it stands, or token ids.

        Messages may be dicts in OpenAI's form too. Names of special tokens are text in a message; in a text that is
        given as it stands they become these tokens.

        The last record carries ``finish_reason`` and ``stats``. Closing the iterator early ends the generation.

        Raises:
            ContextFullError: The prompt alone fills the context.
            SessionError: The session is closed or busy, or the backend failed.
            ValueError: Something among the messages is none.
        """
        config = config or GenerationConfig()
        idle = not self._busy.locked()
        if idle:  # else the cancelling of another generation would be undone
            self._cancelled.clear()
        state: Literal["start", "answer"] = "start"
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
        elif prompt and isinstance(prompt[0], Message | Mapping):
            ids = self.encode_prompt(cast(Sequence[MessageLike], prompt), config)
            state = "start" if _thinks(config) else "answer"
        else:
            ids = list(cast(Sequence[int], prompt))
        self._check_length(ids, self._opened(), room=1)
        tokens = self._run(ids, config, ThinkingSplitter(state))
        if idle:
            self._running = weakref.ref(tokens)
        return tokens

    def _run(
        self, ids: list[int], config: GenerationConfig, splitter: ThinkingSplitter
    ) -> Generator[GeneratedToken, None, None]:
        with self._locked() as backend:
            started = time.perf_counter()
            generation = Generation(self.tokenizer, config, splitter)
            first_s, cached, drafted, accepted = 0.0, 0, 0, 0
            reason: FinishReason | None = None
            try:
                speculator = self._speculating(backend, ids) if config.speculate else None
                cached = self._common_prefix(ids)
                if backend.mtp is not None:
                    cached = backend.mtp.resume(cached)
                pending, position, draft = ids[cached:], cached, Draft()
                while reason is None:
                    self._cached = self._cached[:position]
                    rows, run = len(draft.ids) + 1, time.perf_counter()
                    logits = backend.decode([*pending, *draft.ids], position, self._cancelled, rows, draft.padding)
                    run_s, step = time.perf_counter() - run, len(pending) == 1
                    self._cached += pending
                    position += len(pending)
                    right = 0
                    for index in range(rows):
                        token = generation.next(logits[index])
                        first_s = first_s or time.perf_counter() - started
                        if token is None:
                            reason = "stop"
                            break
                        yield from generation.emit(token)
                        if generation.stopped:
                            reason = "stop"
                        elif generation.count >= config.max_tokens or position + 1 >= backend.context_length:
                            reason = "length"
                        pending = [token]
                        if speculator is not None:
                            speculator.follow(token)
                        if reason is not None or index == len(draft.ids) or token != draft.ids[index]:
                            break
                        self._cached.append(token)
                        position += 1
                        right += 1
                    drafted, accepted = drafted + len(draft.ids), accepted + right
                    if speculator is not None and reason is None:
                        if step:
                            speculator.learn(draft, right, run_s)
                        room = min(config.max_tokens - generation.count, backend.context_length - position - 1) - 1
                        draft = speculator.propose(generation, position, pending[0], room)
            except Cancelled:
                reason = "cancelled"
            ended_s = time.perf_counter() - started
            stats = GenerationStats(
                prompt_tokens=len(ids),
                cached_tokens=cached,
                generated_tokens=generation.count,
                drafted_tokens=drafted,
                accepted_tokens=accepted,
                prefill_tps=(len(ids) - cached) / first_s if first_s else 0.0,
                decode_tps=(generation.count - 1) / (ended_s - first_s) if generation.count > 1 else 0.0,
                time_to_first_token_s=first_s,
                peak_rss_bytes=peak_rss_bytes(),
            )
            yield from generation.end(reason, stats)

    def _speculating(self, backend: Backend, ids: Sequence[int]) -> Speculator | None:
        """What drafts in a generation after ``ids``; what runs cost is measured when it is not known."""
        if self._speculate == "off":
            return None
        if self._speculator is None:
            self._cached = []
            costs = pace.remembered(backend, self._costs_file, self._cancelled)
            self._speculator = Speculator(self._speculate, costs, backend.mtp, self._mtp_drafts)
        self._speculator.begin(ids)
        return self._speculator

    def _common_prefix(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` are in the cache; at least one is left to compute."""
        count = 0
        for old, new in zip(self._cached, ids[:-1], strict=False):
            if old != new:
                break
            count += 1
        return count

    def _check_length(self, ids: Sequence[int], backend: Backend, room: int = 0) -> None:
        if not ids:
            raise SessionError("the prompt is empty; at least one token is needed")
        if len(ids) + room > backend.context_length:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens, the context holds {backend.context_length} with the answer;"
                " shorten it, or load with a larger context_length"
            )

    def _opened(self) -> Backend:
        if self._backend is None:
            raise SessionError("the session is closed")
        return self._backend

    @contextmanager
    def exclusive(self) -> Iterator[Backend]:
        """The backend for one caller at a time, for measurements; the KV cache's content is lost.

        Raises:
            SessionError: The session is closed or busy.
        """
        with self._locked() as backend:
            self._cached = []
            yield backend

    @contextmanager
    def _locked(self) -> Iterator[Backend]:
        """A second caller gets an error, not a queue."""
        backend = self._opened()
        if not self._busy.acquire(blocking=False):
            raise SessionError("the session is busy with another generation; cancel it, or load a second session")
        try:
            yield backend
        finally:
            self._busy.release()


def choose_context_length(path: Path, asked: int | None, trained: int) -> int:
    """The context to make room for: what was asked, else the model's but at most ``DEFAULT_CONTEXT``.

    Raises:
        ModelLoadError: More was asked for than the model was trained for.
    """
    if asked is not None and asked > trained:
        raise ModelLoadError(f"{path}: context_length {asked} asked for, the model was trained for {trained}")
    return asked or min(trained, DEFAULT_CONTEXT)


def peak_rss_bytes() -> int:
    """The largest resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _thinks(config: GenerationConfig) -> bool:
    return config.thinking and config.thinking_budget != 0
