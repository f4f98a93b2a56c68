"""A loaded model: weights, tokenizer, chat template, placement and costs. Sessions take turns on it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import checksums
from mimo_mobile.arguments import check
from mimo_mobile.errors import BadArgumentError, Cancelled, ContextFullError, SessionError
from mimo_mobile.mimo7b import DEFAULT_SYSTEM_PROMPT
from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.decode.constraint import Constraint
from mimo_mobile.runtime.decode.conversation import Conversation
from mimo_mobile.runtime.decode.cooling import Cooling
from mimo_mobile.runtime.decode.exchange import WhenFull
from mimo_mobile.runtime.decode.session import Session
from mimo_mobile.runtime.decode.speculator import Speculator
from mimo_mobile.runtime.decode.structured import Structures
from mimo_mobile.runtime.devices.placement import Placement
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig
from mimo_mobile.runtime.mapped_files import MappedFiles
from mimo_mobile.runtime.text.chat_template import Continued, MessageLike, encode_messages, messages_of
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from mimo_mobile.runtime.turns import CancelEvent, Turns

BEGINNING = 16
"""Characters for each token of the context: a text that has more is looked at first. Usual texts have about four."""

CUT = 64
"""So many tokens more may come of a word or a run of spaces that is cut than of the whole."""


class Model:
    """A loaded model, as a context manager; ``load`` makes it.

    ``conversation()`` begins a conversation in turns. Several can take turns, each on a ``session()`` of its own, whose
    part of the KV cache is copied away while another one computes. ``generate`` continues a single prompt. One
    generation at a time: whoever asks for a second one, from this thread or another, gets an error and no queue.
    ``cancel`` and ``close`` may be called from any thread, and from signal handlers and callbacks.

    When the program ends, runs and loads in other threads are ended first. A fork can use no model that its parent
    loaded. A model whose file was changed in place while it is loaded computes nothing any more; only when a file is
    cut off during a run the system ends the process (SIGBUS), which nothing here can prevent.

    Attributes:
        tokenizer: It turns text into token ids and back.
        chat_template: It makes a prompt of messages, in Jinja2; None when the model cannot chat.
        speculator: It drafts and knows how well; None when nothing does.
        structures: It knows which tokens keep an answer in its structure.
        placement: It tells what each execution provider took of the model; None with llama.cpp.
        synthetic: Whether the weights are random, so that the text means nothing.
        name: It says which engine computes with which file, for messages.
        turns: It says who may use the backend, and when.
        cooling: It says how long a generation rests between tokens.
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
        files: MappedFiles | None = None,
        weights: Sequence[Path] = (),
        name: str = "the model",
    ) -> None:
        """Join a backend, which may be one of your own, with its tokenizer; the model closes it in the end.

        It closes ``files``, too, and computes nothing once they were changed. By the content of ``weights``, the files
        that decide what the trunk computes, saved conversations know the model again.
        """
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self.speculator, self.placement, self.synthetic, self.name = speculator, placement, synthetic, name
        self.structures = Structures(tokenizer)
        self._weights, self._files = tuple(weights), files or MappedFiles()
        self.turns, self.cooling = Turns(backend, self._files), Cooling()
        self._own: Session | None = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def context_length(self) -> int:
        """How many tokens prompt and answer may have together."""
        return self.turns.opened().context_length

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be given."""
        return self.chat_template is not None

    def session(self) -> Session:
        """A new sequence of tokens, which costs no memory before it is used."""
        return Session(self)

    def conversation(
        self,
        system: str = DEFAULT_SYSTEM_PROMPT,
        config: GenerationConfig | None = None,
        *,
        keep_thinking: bool = False,
        when_full: WhenFull = "error",
    ) -> Conversation:
        """A conversation in turns, on a session of its own: see ``Session.conversation``.

        Raises:
            BadArgumentError: An argument has another type, or is out of its range.
            SessionError: The model has no chat template.
        """
        return self.session().conversation(system, config, keep_thinking=keep_thinking, when_full=when_full)

    def load_conversation(
        self, path: str | Path, config: GenerationConfig | None = None, *, text_only: bool = False
    ) -> Conversation:
        """A conversation that was saved, on a session of its own: see ``Session.load_conversation``.

        Raises:
            ConversationError: The file is damaged, no conversation, or of another model or KV cache.
            ContextFullError: What it holds does not fit into the context.
            SessionError: The model is closed or busy, or has no chat template.
        """
        return self.session().load_conversation(path, config, text_only=text_only)

    def fingerprint(self) -> str:
        """SHA-256 of the files that decide what the trunk computes; large ones are read once, and then remembered.

        Raises:
            SessionError: No file is known, one cannot be read, or another one is there than when the model was loaded.
        """
        if not self._weights:
            raise SessionError(f"{self.name} was made of no files that are known, so nothing can be saved for it")
        whole = hashlib.sha256()
        for path in self._weights:
            self._files.check_place(path)
            try:
                whole.update(bytes.fromhex(checksums.sha256(path)))
            except OSError as error:
                raise SessionError(f"{path}: cannot be read: {error.strerror}; load the model again") from error
        return whole.hexdigest()

    def generate(
        self,
        prompt: str | Sequence[MessageLike] | Continued | Sequence[int],
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

    def encode_prompt(self, prompt: str | Sequence[MessageLike] | Continued, config: GenerationConfig) -> list[int]:
        """Token ids of a prompt: messages go through the chat template, a text is taken as it stands.

        Raises:
            ContextFullError: A text is so long that its beginning alone fills the context.
            SessionError: The model has no chat template, or it refuses the messages.
        """
        if isinstance(prompt, str):
            self._check_length(prompt)
            return self.tokenizer.encode(prompt)
        if self.chat_template is None:
            raise SessionError("this model has no chat template; give a text instead of messages")
        thought, answer = (prompt.thinking, prompt.answer) if isinstance(prompt, Continued) else ("", "")
        messages = messages_of(prompt.messages if isinstance(prompt, Continued) else prompt)
        for text in (*(message.content for message in messages), thought, answer):
            self._check_length(text)
        return encode_messages(
            self.chat_template,
            messages,
            self.tokenizer,
            thinking=config.thinks,
            tools=config.callable_tools,
            thought=thought,
            answer=answer,
        )

    def _check_length(self, text: str) -> None:
        """See that the beginning of a text fits the context, before minutes and gigabytes go into all of it."""
        first = text[: self.context_length * BEGINNING]
        if len(first) < len(text) and (count := len(self.tokenizer.encode(first))) > self.context_length + CUT:
            raise ContextFullError(
                f"the first {len(first):,} of a text's {len(text):,} characters have {count} tokens, the context holds"
                f" {self.context_length} with the answer; shorten it, or load with a larger context_length"
            )

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] after each of ``ids``.

        Raises:
            BadArgumentError: One of them is no token.
            Cancelled: ``cancel`` or ``close`` was called meanwhile.
            ContextFullError: There are more ids than the context holds.
            SessionError: There are no ids, the model is closed or busy, or the backend failed.
        """
        self.check_ids(ids)
        cancelled = CancelEvent()
        with self.turns.alone(cancelled) as backend:
            logits = backend.all_logits(ids)
            if cancelled.is_set():  # too late to end the run, and still not to be answered
                raise Cancelled
        return logits

    def cancel(self) -> None:
        """End the running generation within one token, during prefill too; its last record says ``cancelled``."""
        self.turns.cancel()

    def close(self) -> None:
        """End the running generation and free the memory; closing twice does no harm.

        It waits for the run under way and for nobody who reads tokens. Called from within a run, by a signal handler, a
        finalizer or a constraint, it waits for nothing, and the memory is freed when the run has ended.
        """
        self.turns.close()

    def check_ids(self, ids: Sequence[int], room: int = 0) -> None:
        """See that ids are the vocabulary's, and fit into the context, with ``room`` for so many more.

        Raises:
            BadArgumentError: One is no token.
            ContextFullError: They do not fit.
            SessionError: There are none, or the model is closed.
        """
        for token in check("ids", ids, Sequence[int]):
            if not 0 <= token < self.tokenizer.size:
                raise BadArgumentError(f"token id {token} found; one from 0 to {self.tokenizer.size - 1} expected")
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
        with self.turns.alone(CancelEvent()) as backend:
            yield backend
