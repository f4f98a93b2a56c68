"""A loaded model: weights, tokenizer, chat template, placement and costs. Sessions take turns on it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import ContextFullError, SessionError
from mimo_mobile.runtime.backend import Backend, Cancelled
from mimo_mobile.runtime.decode.constraint import Constraint
from mimo_mobile.runtime.decode.session import Session
from mimo_mobile.runtime.decode.speculator import Speculator
from mimo_mobile.runtime.devices.placement import Placement
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig
from mimo_mobile.runtime.text.chat_template import MessageLike, encode_messages
from mimo_mobile.runtime.text.tokenizer import TextTokenizer


class Model:
    """A loaded model, as a context manager; ``load`` makes it.

    ``session()`` begins a conversation; several can take turns, each with its own part of the KV cache, which is
    copied away while another one computes. ``generate`` is the short way for programs with one conversation. One
    generation at a time; ``cancel`` and ``close`` may be called from any thread.

    Attributes:
        tokenizer: It turns text into token ids and back.
        chat_template: It makes a prompt of messages, in Jinja2; None when the model cannot chat.
        speculator: It drafts and knows how well; None when nothing does.
        placement: It tells what each execution provider took of the model; None with llama.cpp.
        synthetic: Whether the weights are random, so that the text means nothing.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: TextTokenizer,
        chat_template: str | None = None,
        *,
        speculator: Speculator | None = None,
        placement: Placement | None = None,
        synthetic: bool = False,
    ) -> None:
        """Join a backend, which may be one of your own, with its tokenizer; the model closes it in the end."""
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self.speculator, self.placement, self.synthetic = speculator, placement, synthetic
        self._backend: Backend | None = backend
        self._process = os.getpid()
        self._runs = threading.Lock()  # held while the backend computes, never while a caller reads tokens
        self._busy = threading.Lock()  # held from a generation's first token to its last
        self._cancelled = threading.Event()  # of the generation that runs or is about to
        self._holder: weakref.ref[Session] | None = None  # whose tokens are in the KV cache
        self._own: Session | None = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def context_length(self) -> int:
        """How many tokens prompt and answer may have together."""
        return self._opened().context_length

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be given."""
        return self.chat_template is not None

    def session(self) -> Session:
        """A new conversation, which costs no memory before it is used."""
        return Session(self)

    def generate(
        self,
        prompt: str | Sequence[MessageLike] | Sequence[int],
        config: GenerationConfig | None = None,
        *,
        constraint: Constraint | None = None,
    ) -> Generator[GeneratedToken, None, None]:
        """Stream what follows a prompt, in one session of the model's own: see ``Session.generate``.

        Raises:
            ContextFullError: The prompt alone fills the context.
            SessionError: The model is closed or busy, or the backend failed.
        """
        if self._own is None:
            self._own = self.session()
        return self._own.generate(prompt, config, constraint=constraint)

    def encode_prompt(self, prompt: str | Sequence[MessageLike], config: GenerationConfig) -> list[int]:
        """Token ids of a prompt: messages go through the chat template, a text is taken as it stands.

        Raises:
            SessionError: The model has no chat template, or it refuses the messages.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if self.chat_template is None:
            raise SessionError("this model has no chat template; give a text instead of messages")
        return encode_messages(self.chat_template, prompt, self.tokenizer, thinking=config.thinks)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] after each of ``ids``.

        Raises:
            ContextFullError: There are more ids than the context holds.
            SessionError: There are no ids, or the model is closed or busy.
        """
        self.check_length(ids)
        with self.exclusive() as backend:
            return backend.all_logits(ids)

    def cancel(self) -> None:
        """End the running generation within one token, during prefill too; its last record says ``cancelled``."""
        self._cancelled.set()
        if (backend := self._backend) is not None:
            backend.cancel()

    def close(self) -> None:
        """End the running generation and free the memory; closing twice does no harm.

        It waits for the run under way and for nobody who reads tokens.
        """
        if os.getpid() != self._process:
            return  # freeing would wait for threads that only the process that loaded it has
        self.cancel()
        with self._runs:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    def check_length(self, ids: Sequence[int], room: int = 0) -> None:
        """See that ids fit into the context, with ``room`` for so many more.

        Raises:
            ContextFullError: They do not.
            SessionError: There are none, or the model is closed.
        """
        if not ids:
            raise SessionError("the prompt is empty; at least one token is needed")
        if len(ids) + room > self.context_length:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens, the context holds {self.context_length} with the answer;"
                " shorten it, or load with a larger context_length"
            )

    @contextmanager
    def exclusive(self) -> Iterator[Backend]:
        """The backend for one caller at a time, for measurements; sessions get their KV cache back afterwards.

        Raises:
            SessionError: The model is closed or busy.
        """
        with self.turn(threading.Event()), self.running() as backend:
            self.claim(None, backend)
            yield backend

    @contextmanager
    def turn(self, cancelled: threading.Event) -> Iterator[None]:
        """Be the only generation while the block lasts; a second caller gets an error, not a queue.

        Raises:
            SessionError: Another generation is under way.
        """
        if not self._busy.acquire(blocking=False):
            raise SessionError("the model is busy with another generation; cancel it, or load the model once more")
        try:
            self._cancelled = cancelled
            yield
        finally:
            self._busy.release()

    @contextmanager
    def running(self, cancelled: threading.Event | None = None) -> Iterator[Backend]:
        """The backend while it is certainly not freed, for one run.

        Raises:
            Cancelled: The generation was cancelled; closing does that, too.
            SessionError: The model is closed, or was loaded before a fork.
        """
        self._check_process()
        with self._runs:
            if cancelled is not None and cancelled.is_set():
                raise Cancelled
            yield self._opened()

    def claim(self, session: Session | None, backend: Backend) -> None:
        """Give the KV cache to a session, or to nobody; what another one had there is kept with that one."""
        holder = self._holder() if self._holder is not None else None
        if holder is session and session is not None:
            return
        if holder is not None:
            holder.put_away(backend)
        self._holder = None  # what comes next may fail half-way
        if session is not None:
            session.take_back(backend)
            self._holder = weakref.ref(session)

    def begin(self, cancelled: threading.Event) -> None:
        """Let ``cancel`` mean a generation that is about to begin, unless another one runs."""
        if not self._busy.locked():
            self._cancelled = cancelled

    def cancel_only(self, cancelled: threading.Event) -> None:
        """End one generation, and no other that runs meanwhile."""
        cancelled.set()
        if self._cancelled is cancelled and (backend := self._backend) is not None:
            backend.cancel()

    def _opened(self) -> Backend:
        self._check_process()
        if self._backend is None:
            raise SessionError("the model is closed; load it again")
        return self._backend

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise SessionError(
                f"the model was loaded in process {self._process}, of which this one is a fork without its threads;"
                " load it in this process, and start processes with multiprocessing's 'spawn'"
            )
