"""One conversation on a model: what of its text is in the KV cache, and the generations that go on from there."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from mimo_mobile.arguments import check
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.runtime.backend import Backend, BackendState
from mimo_mobile.runtime.decode.constraint import Constraint
from mimo_mobile.runtime.decode.decoder import Decoder
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig
from mimo_mobile.runtime.text.chat_template import Message, MessageLike
from mimo_mobile.runtime.text.thinking import ThinkingSplitter
from mimo_mobile.runtime.turns import CancelEvent

if TYPE_CHECKING:
    from mimo_mobile.runtime.model import Model


class Session:
    """One conversation on a model; ``Model.session`` makes it.

    What a prompt has in common with the tokens before is not computed again. While another session of the model
    computes, this one's part of the KV cache is kept beside it.

    Attributes:
        tokens: The ids whose keys and values are kept.
    """

    def __init__(self, model: Model) -> None:
        """Begin a conversation without any text."""
        self.tokens: list[int] = []
        self._model = model
        self._kept: BackendState | None = None
        self._cancelled = CancelEvent()

    def generate(
        self,
        prompt: str | Sequence[MessageLike] | Sequence[int],
        config: GenerationConfig | None = None,
        *,
        constraint: Constraint | None = None,
    ) -> Generator[GeneratedToken, None, None]:
        """Stream what follows a prompt: messages, a text as it stands, or token ids.

        Special tokens that a text or ids hold are real ones; in messages they are text, and only the chat template
        writes real ones.

        The last record carries ``finish_reason`` and ``stats``. Closing the iterator early ends the generation.

        Args:
            prompt: Messages, which may be dicts in OpenAI's form, go through the chat template; a text or ids are
                continued as they stand.
            config: How to generate.
            constraint: Which tokens may come; a new one for every generation, since it follows the text.

        Raises:
            BadArgumentError: The prompt is none of these, or ``config`` is no GenerationConfig.
            ContextFullError: The prompt alone fills the context.
            NumericsError: The model computed NaN or infinity.
            SessionError: The model is closed or busy, cannot chat, or its backend failed.
        """
        if isinstance(prompt, Message | Mapping):
            raise BadArgumentError("one message was given; give a list of messages, such as [message]")
        config, model = check("config", config, GenerationConfig | None) or GenerationConfig(), self._model
        cancelled = CancelEvent()
        state: Literal["start", "answer"] = "start"
        if isinstance(prompt, str):
            ids = model.encode_prompt(prompt, config)
        elif isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Message | Mapping):
            ids = model.encode_prompt(cast(Sequence[MessageLike], prompt), config)
            state = "start" if config.thinks else "answer"
        else:
            ids = list(check("prompt", prompt, Sequence[int]))
        model.check_ids(ids, room=1)
        self._cancelled = cancelled
        model.turns.begin(cancelled)
        generation = Generation(model.tokenizer, config, ThinkingSplitter(state), constraint, model.name)
        return self._run(ids, generation, cancelled)

    def cancel(self) -> None:
        """End this session's generation within one token; those of other sessions go on."""
        self._model.turns.cancel_only(self._cancelled)

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

    def _run(
        self, ids: list[int], generation: Generation, cancelled: threading.Event
    ) -> Generator[GeneratedToken, None, None]:
        turn = self._model.turns.take(cancelled)
        try:
            yield from Decoder(self._model, self, ids, generation, cancelled).run()
        finally:
            turn.over = True
