"""One sequence of tokens on a model: what of it is in the KV cache, and the generations that go on from there."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mimo_mobile.arguments import check
from mimo_mobile.errors import BadArgumentError, ConversationError, SessionError
from mimo_mobile.mimo7b import DEFAULT_SYSTEM_PROMPT
from mimo_mobile.runtime.backend import Backend, BackendState
from mimo_mobile.runtime.decode import conversation_file
from mimo_mobile.runtime.decode.constraint import Constraint
from mimo_mobile.runtime.decode.conversation import Conversation
from mimo_mobile.runtime.decode.decoder import Decoder, common
from mimo_mobile.runtime.decode.exchange import WhenFull
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig
from mimo_mobile.runtime.text.chat_template import Continued, Message, MessageLike, opening
from mimo_mobile.runtime.text.thinking import State, ThinkingSplitter
from mimo_mobile.runtime.turns import CancelEvent

if TYPE_CHECKING:
    from mimo_mobile.runtime.model import Model


class Session:
    """One sequence of tokens on a model, with its part of the KV cache; ``Model.session`` makes it.

    What a prompt has in common with the tokens before is not computed again. While another session of the model
    computes, this one's part of the KV cache is kept beside it. ``conversation`` adds turns to it.

    Attributes:
        model: The model that computes.
        tokens: The ids whose keys and values are kept.
    """

    def __init__(self, model: Model) -> None:
        """Begin without any text."""
        self.tokens: list[int] = []
        self.model = model
        self._kept: BackendState | None = None
        self._cancelled = CancelEvent()

    def generate(
        self,
        prompt: str | Sequence[MessageLike] | Continued | Sequence[int],
        config: GenerationConfig | None = None,
        *,
        constraint: Constraint | None = None,
    ) -> Generator[GeneratedToken, None, None]:
        """Stream what follows a prompt: messages, a text as it stands, or token ids.

        Special tokens that a text or ids hold are real ones; in messages they are text, and only the chat template
        writes real ones.

        The last record carries ``finish_reason`` and ``stats``. Closing the iterator early ends the generation.

        Args:
            prompt: Messages, which may be dicts in OpenAI's form, go through the chat template, and so does an answer
                that is ``Continued``; a text or ids are continued as they stand.
            config: How to generate.
            constraint: Which tokens may come; a new one for every generation, since it follows the text.

        Raises:
            BadArgumentError: The prompt is none of these, ``config`` is no GenerationConfig, or its structure or tools
                are wrong; while it streams, that the structure takes more time or memory than it may.
            ContextFullError: The prompt alone fills the context.
            NumericsError: The model computed NaN or infinity.
            SessionError: The model is closed or busy, cannot chat, or its backend failed.
        """
        if isinstance(prompt, Message | Mapping):
            raise BadArgumentError("one message was given; give a list of messages, such as [message]")
        config, model = check("config", config, GenerationConfig | None) or GenerationConfig(), self.model
        if isinstance(prompt, Continued):
            return self.answer(model.encode_prompt(prompt, config), config, constraint, prompt)
        state: State = "start"
        if isinstance(prompt, str):
            ids = model.encode_prompt(prompt, config)
            state = "start" if config.restriction is None else "answer"
        elif isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Message | Mapping):
            ids = model.encode_prompt(cast(Sequence[MessageLike], prompt), config)
            state = "start" if config.thinks else "answer"
        else:
            ids = list(check("prompt", prompt, Sequence[int]))
            state = "start" if config.restriction is None else "answer"
        return self._begin(ids, ThinkingSplitter(state), config, constraint)

    def answer(
        self,
        ids: list[int],
        config: GenerationConfig,
        constraint: Constraint | None = None,
        begun: Continued | None = None,
    ) -> Generator[GeneratedToken, None, None]:
        """Stream the answer to a prompt that the chat template made, as ``encode_prompt`` gives it, or the rest of one.

        Raises:
            BadArgumentError: The answer has begun, and ``config`` restricts what it must be.
            ContextFullError: The prompt alone fills the context.
            SessionError: The model is closed.
        """
        splitter = ThinkingSplitter("start" if config.thinks else "answer")
        if begun is not None and (begun.thinking or begun.answer):
            if config.restriction is not None:
                raise BadArgumentError("an answer that is continued cannot keep to a structure or tools; ask it anew")
            splitter = ThinkingSplitter()
            said = opening(self.model.tokenizer, config.thinks, begun.thinking, begun.answer)
            splitter.resume("".join(each.text for each in said))
        return self._begin(ids, splitter, config, constraint)

    def continuation(self, ids: list[int], config: GenerationConfig) -> Generator[GeneratedToken, None, None]:
        """Stream what follows a text, character for character: all of it is the answer, tags and white space too.

        Raises:
            ContextFullError: The prompt alone fills the context.
            SessionError: The model is closed.
        """
        return self._begin(ids, ThinkingSplitter("raw"), config, None)

    def conversation(
        self,
        system: str = DEFAULT_SYSTEM_PROMPT,
        config: GenerationConfig | None = None,
        *,
        keep_thinking: bool = False,
        when_full: WhenFull = "error",
    ) -> Conversation:
        """A conversation in turns, which may be edited, forked and saved: see ``Conversation``.

        Several conversations may take turns on one session: what the next prompt has in common with the tokens in the
        KV cache is not computed again, and the rest is. Where each is to keep its own part of the KV cache, which takes
        memory for each, give each a session: that is what ``Model.conversation`` does.

        Args:
            system: The system prompt; empty, as Xiaomi recommends.
            config: How to generate, where a turn does not say otherwise.
            keep_thinking: Whether later prompts repeat the thinking of earlier turns; by default they leave it out.
            when_full: What happens when a question does not fit into the context any more. ``error`` raises a
                ContextFullError, ``stop`` ends the stream without an answer, and ``drop`` leaves the oldest turns out
                of the prompt. The stream tells both.

        Raises:
            BadArgumentError: An argument has another type, or is none of these words.
            SessionError: The model has no chat template.
        """
        return Conversation(self, system, config, keep_thinking=keep_thinking, when_full=when_full)

    def load_conversation(
        self, path: str | Path, config: GenerationConfig | None = None, *, text_only: bool = False
    ) -> Conversation:
        """The conversation that ``Conversation.save`` wrote, whose keys and values are not computed again.

        Args:
            path: The file. It may be anybody's: it is read as a file of a stranger.
            config: How to generate; a file says only whether an answer that was cut thinks. Without a seed in it,
                random numbers go on where they were.
            text_only: Whether to read the text alone, for another model or KV cache, which then computes it anew.

        Raises:
            ConversationError: The file is damaged, no conversation, or of another model or KV cache.
            ContextFullError: What it holds does not fit into the context.
            SessionError: The model is closed or busy, or has no chat template.
        """
        return conversation_file.load(self, Path(check("path", path, str | Path)), config, text_only=text_only)

    def kept(self, ids: Sequence[int]) -> tuple[list[int], BackendState | None]:
        """What the KV cache holds of the prompt ``ids``: their beginning, and a copy of its keys and values.

        What the session has beyond that is forgotten.

        Raises:
            SessionError: The model is closed or busy.
        """
        turns = self.model.turns
        with turns.alone(CancelEvent()) as backend:
            turns.claim(self, backend)
            del self.tokens[common(self.tokens, ids) :]
            turns.claim(None, backend)
            return list(self.tokens), self._kept  # before another thread goes on with them

    def adopt(self, tokens: Sequence[int], state: BackendState) -> None:
        """Go on from a copy of the keys and values of ``tokens``.

        Raises:
            ConversationError: The copy is another model's, or damaged.
            SessionError: The model is closed or busy.
        """
        turns = self.model.turns
        with turns.alone(CancelEvent()) as backend:
            self.tokens, self._kept = list(tokens), state
            try:
                turns.claim(self, backend)
            except BaseException as error:
                self.tokens, self._kept = [], None
                if isinstance(error, SessionError):
                    raise ConversationError(str(error)) from error
                raise

    def cancel(self) -> None:
        """End this session's generation within one token; those of other sessions go on."""
        self.model.turns.cancel_only(self._cancelled)

    def take_back(self, backend: Backend) -> None:
        """Put what is kept of the conversation into the KV cache, which nobody holds."""
        if self._kept is None:
            self.tokens = []
        else:
            backend.restore(self._kept)
            self._kept = None

    def put_away(self, backend: Backend) -> None:
        """Keep what the KV cache holds of the conversation, because somebody else needs it."""
        self._kept = backend.state(len(self.tokens)) if self.tokens else None

    def _begin(
        self,
        ids: list[int],
        splitter: ThinkingSplitter,
        config: GenerationConfig,
        constraint: Constraint | None,
    ) -> Generator[GeneratedToken, None, None]:
        """The stream of a generation, which ``cancel`` means from now on."""
        cancelled, model = CancelEvent(), self.model
        model.check_ids(ids, room=1)
        room = model.context_length - len(ids)
        structure = config.restriction
        structured = model.structures.answer(structure, thinks=splitter.state == "start") if structure else None
        generation = Generation(model.tokenizer, config, splitter, constraint, model.name, room, ids, structured)
        self._cancelled = cancelled
        model.turns.begin(cancelled)
        return self._run(ids, generation, cancelled)

    def _run(
        self, ids: list[int], generation: Generation, cancelled: threading.Event
    ) -> Generator[GeneratedToken, None, None]:
        turns = self.model.turns
        with turns.deadline(generation.config.timeout, cancelled) as deadline:
            turn = turns.take(cancelled)
            try:
                yield from Decoder(self.model, self, ids, generation, cancelled, deadline).run()
            finally:
                turns.give_back(turn)
