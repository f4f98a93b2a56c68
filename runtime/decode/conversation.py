"""A conversation in turns on a session: what of it the next prompt says, and how it is edited, forked and saved.

The text is what counts: a prompt is made of it anew for every answer, and the session computes what its KV cache does
not hold of that prompt. So an edit, another conversation on the same session, or a lost cache cost time and no token.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_mobile.arguments import check
from mimo_mobile.documents import MOST_INTEGER
from mimo_mobile.errors import BadArgumentError, ContextFullError, SessionError
from mimo_mobile.mimo7b import DEFAULT_SYSTEM_PROMPT, THINK_CLOSE, THINK_OPEN
from mimo_mobile.runtime.decode import conversation_file
from mimo_mobile.runtime.decode.constraint import Constraint
from mimo_mobile.runtime.decode.decoder import peak_rss_bytes
from mimo_mobile.runtime.decode.exchange import Cut, Turn, WhenFull
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig, GenerationStats
from mimo_mobile.runtime.text.chat_template import Continued, Message
from mimo_mobile.runtime.text.thinking import Channel

if TYPE_CHECKING:
    from mimo_mobile.runtime.decode.session import Session


class Conversation:
    """A conversation in turns on a session; ``Model.conversation`` makes it.

    ``send`` streams the answer to a question. When the stream ends, or is closed or interrupted early, question and
    answer are a turn; without an answer the turns stay as they are, and only ``resume`` knows what was thought. Each
    answer has random numbers of its own, which the seed and the number of answers before it decide: ``regenerate``
    finds another answer, and the same calls with the same seed find the same.

    Attributes:
        session: The session whose KV cache is used.
        system: The system prompt, which may be changed between two turns.
        config: How to generate, where a turn does not say otherwise.
        keep_thinking: Whether prompts repeat the thinking of earlier turns.
        when_full: What happens when a question does not fit into the context any more.
        dropped: How many of the oldest turns the prompt leaves out, because the context was full.
        seed: What the random numbers of all answers come from.
        draws: How many answers were begun.
    """

    def __init__(
        self,
        session: Session,
        system: str = DEFAULT_SYSTEM_PROMPT,
        config: GenerationConfig | None = None,
        *,
        keep_thinking: bool = False,
        when_full: WhenFull = "error",
    ) -> None:
        """Begin a conversation without turns.

        Raises:
            BadArgumentError: An argument has another type, or is none of these words.
            SessionError: The model has no chat template.
        """
        if not session.model.has_chat_template:
            raise SessionError("this model has no chat template, so it cannot chat; give generate a text instead")
        self.session, self.system = session, str(check("system", system, str))
        self.config = check("config", config, GenerationConfig | None) or GenerationConfig()
        self.keep_thinking = bool(check("keep_thinking", keep_thinking, bool))
        self.when_full: WhenFull = check("when_full", when_full, WhenFull)
        self.dropped, self.draws = 0, 0
        self.seed = secrets.randbelow(conversation_file.SEEDS) if self.config.seed is None else self.config.seed
        self._turns: tuple[Turn, ...] = ()
        self._cut: Cut | None = None  # the last answer, when it was cut

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns, the dropped ones included."""
        return self._turns

    def send(
        self, question: str, config: GenerationConfig | None = None, *, constraint: Constraint | None = None
    ) -> Generator[GeneratedToken, None, None]:
        """Stream the answer to a question, as ``Session.generate`` does.

        Args:
            question: What the user says.
            config: How to generate this answer, instead of the conversation's ``config``. A seed in it is taken as it
                is.
            constraint: Which tokens may come; a new one for every answer.

        Raises:
            BadArgumentError: The question is no text, or ``config`` no GenerationConfig.
            ContextFullError: The question does not fit, and ``when_full`` is ``error``; or it alone fills the context,
                and ``when_full`` is ``drop``.
            SessionError: The model is closed or busy, or its backend failed.
        """
        return self._ask(self._turns, question, config, constraint)

    def regenerate(
        self, config: GenerationConfig | None = None, *, constraint: Constraint | None = None
    ) -> Generator[GeneratedToken, None, None]:
        """Stream another answer to the last question, which takes the place of the last answer.

        Raises:
            BadArgumentError: There is no turn yet.
            ContextFullError: As ``send``.
            SessionError: As ``send``.
        """
        return self.edit(-1, None, config, constraint=constraint)

    def resume(
        self, config: GenerationConfig | None = None, *, constraint: Constraint | None = None
    ) -> Generator[GeneratedToken, None, None]:
        """Stream the rest of the last answer, which was cut off; it becomes part of its turn.

        Without a ``config`` it thinks or not as the answer was asked for. An answer that was cut while it still thought
        is none yet, so that its turn comes only now. No file tells its text, which ``restore`` takes.

        Raises:
            BadArgumentError: Nothing was answered yet, or ``config`` restricts what the answer must be.
            ContextFullError: As ``send``.
            SessionError: As ``send``.
        """
        cut = self._cut
        base, begun = (cut.base, cut.turn) if cut else (self._turns[:-1], self._turns[self._place(-1)])
        if config is None and cut:
            config = replace(self._as_asked(cut), seed=None)
        return self._ask(base, begun.question, config, constraint, begun)

    def edit(
        self,
        turn: int,
        question: str | None,
        config: GenerationConfig | None = None,
        *,
        constraint: Constraint | None = None,
    ) -> Generator[GeneratedToken, None, None]:
        """Stream the answer to another question in the place of a turn's; when it ends, the turns after it are gone.

        Args:
            turn: The place of the turn; negative ones count from the end, as in a list.
            question: The new question; None asks the old one again.
            config: As for ``send``.
            constraint: As for ``send``.

        Raises:
            BadArgumentError: There is no such turn, or an argument has another type.
            ContextFullError: As ``send``.
            SessionError: As ``send``.
        """
        place = self._place(turn)
        asked = self._turns[place].question if question is None else question
        return self._ask(self._turns[:place], asked, config, constraint)

    def fork(self, turns: int | None = None) -> Conversation:
        """A second conversation that begins with the first ``turns`` turns of this one, on the same session.

        A fork of all turns resumes an answer that was cut, too. Where both go on, each recomputes what comes after the
        common part when it takes its turn.

        Raises:
            BadArgumentError: There are fewer turns.
        """
        count = len(self._turns) if turns is None else check("turns", turns, int)
        if not 0 <= count <= len(self._turns):
            raise BadArgumentError(f"turns {count} found; from 0 to {len(self._turns)} expected")
        made = Conversation(
            self.session, self.system, self.config, keep_thinking=self.keep_thinking, when_full=self.when_full
        )
        made.restore(self._turns[:count], min(self.dropped, count), self.seed, self.draws)
        made._cut = self._cut if count == len(self._turns) else None
        return made

    def messages(self) -> list[Message]:
        """The conversation as messages, without thinking; the system prompt comes first."""
        said = [(Message("user", each.question), Message("assistant", each.answer)) for each in self._turns]
        return [Message("system", self.system), *(message for pair in said for message in pair)]

    def save(self, path: str | Path) -> None:
        """Write text, random numbers, and the keys and values that the next prompt begins with, to a file.

        The file appears whole or not at all, its owner alone may read it, and it replaces an earlier conversation.
        What the prompt leaves out, such as earlier thinking, is not among the keys and values. After an answer that was
        cut, the next prompt is that of ``resume``, so that its thinking is among them.

        Raises:
            BadArgumentError: A text has half a surrogate pair, which no file can be written with.
            DiskFullError: The disk is full.
            OutputExistsError: Something else than a saved conversation is there.
            SessionError: The model is closed or busy, or was made of no files that are known, or the conversation has
                more text or turns than readers take.
        """
        conversation_file.save(self, Path(check("path", path, str | Path)))

    def restore(
        self,
        turns: Sequence[Turn],
        dropped: int = 0,
        seed: int | None = None,
        draws: int | None = None,
        begun: Turn | None = None,
    ) -> None:
        """Take over turns and random numbers, such as those of a text that an app kept; the KV cache stays as it is.

        Args:
            turns: All there are, in place of the conversation's own.
            dropped: How many of the oldest turns prompts leave out.
            seed: What the random numbers of all answers come from; by default the conversation's own.
            draws: How many answers were begun; by default as many as of the conversation.
            begun: A question after them, and what was thought before its answer was cut: ``resume`` goes on with it.

        Raises:
            BadArgumentError: There are fewer turns than dropped ones, ``draws`` is below 0 or 2^53 and above, or an
                argument has another type.
        """
        own = tuple(check("turns", turns, Sequence[Turn]))
        seed = self.seed if seed is None else check("seed", seed, int)
        draws = self.draws if draws is None else check("draws", draws, int)
        if not 0 <= check("dropped", dropped, int) <= len(own):
            raise BadArgumentError(f"dropped {dropped} found; from 0 to {len(own)} expected")
        begun = check("begun", begun, Turn | None)
        if not 0 <= draws <= MOST_INTEGER:
            raise BadArgumentError(f"draws {draws} found; from 0 to {MOST_INTEGER} expected")
        self._turns, self.dropped, self.seed, self.draws = own, dropped, seed, draws
        self._cut = Cut(own, begun, self.config.thinks) if begun else None

    def prompt(self, question: str, config: GenerationConfig | None = None) -> list[int]:
        """The token ids of the prompt that a question would get after the turns that are not dropped.

        Raises:
            ContextFullError: A text alone fills the context.
            SessionError: The chat template refuses the messages.
        """
        return self._encoded(self._turns[self.dropped :], question, config or self.config)

    def next_prompt(self) -> list[int]:
        """The token ids of what the next prompt begins with: the rest of an answer that was cut, or a question.

        Raises:
            ContextFullError: A text alone fills the context.
            SessionError: The chat template refuses the messages.
        """
        cut = self._cut
        if cut is None:
            return self.prompt("")
        return self._encoded(cut.base[self.dropped :], cut.turn.question, self._as_asked(cut), cut.turn)

    def _place(self, turn: int) -> int:
        count = len(self._turns)
        if not -count <= check("turn", turn, int) < count:
            raise BadArgumentError(f"turn {turn} found; the conversation has {count} turns")
        return turn % count

    def _as_asked(self, cut: Cut) -> GenerationConfig:
        """The conversation's own ``config``, which thinks or not as the answer was asked for that was cut."""
        own = self.config
        if own.thinks == cut.thinks:
            return own
        budget = None if own.thinking_budget == 0 else own.thinking_budget
        return replace(own, thinking=cut.thinks, thinking_budget=budget)

    def _encoded(
        self, turns: Sequence[Turn], question: str, config: GenerationConfig, begun: Turn | None = None
    ) -> list[int]:
        messages = [Message("system", self.system)]
        for each in turns:
            thinks = self.keep_thinking and each.thinking
            thought = f"{THINK_OPEN}\n{each.thinking}\n{THINK_CLOSE}\n\n" if thinks else ""
            messages += [Message("user", each.question), Message("assistant", thought + each.answer)]
        messages.append(Message("user", question))
        prompt = Continued(messages, begun.thinking, begun.answer) if begun else messages
        return self.session.model.encode_prompt(prompt, config)

    def _ask(
        self,
        base: tuple[Turn, ...],
        question: str,
        config: GenerationConfig | None,
        constraint: Constraint | None,
        begun: Turn | None = None,
    ) -> Generator[GeneratedToken, None, None]:
        """The stream of an answer after the turns ``base``, or of the rest of one that has ``begun``."""
        check("question", question, str)
        own = check("config", config, GenerationConfig | None) or self.config
        if own.callable_tools:
            raise BadArgumentError("a conversation's turns hold no tool calls; give generate the messages and tools")
        if config is None or config.seed is None:
            own = replace(own, seed=(self.seed + self.draws) % conversation_file.SEEDS)
        limit = self.session.model.context_length
        try:
            ids, dropped = self._fitted(base, question, own, begun)
            count = len(ids)
        except ContextFullError:  # of a text alone, which is not counted to its end
            if self.when_full != "stop":
                raise
            ids, dropped, count = [], min(self.dropped, len(base)), limit
        full = self.when_full == "stop" and count >= limit
        said = Continued([Message("user", question)], begun.thinking, begun.answer) if begun else None
        tokens = _nothing(count) if full else self.session.answer(ids, own, constraint, said)
        channel: Channel = "thinking" if own.thinks and not (begun and begun.answer) else "answer"
        return self._stream(self._turns, base, dropped, begun or Turn(question, "", ""), tokens, channel, own)

    def _fitted(
        self, base: tuple[Turn, ...], question: str, config: GenerationConfig, begun: Turn | None
    ) -> tuple[list[int], int]:
        """The prompt, and how many of the oldest turns it leaves out.

        Once it leaves out some, it leaves out so many that half of the context is free: each time the beginning of the
        prompt changes, all of it is computed anew.
        """
        limit, least = self.session.model.context_length, min(self.dropped, len(base))
        most = limit - config.most_tokens(limit // 4)
        for dropped in range(least, len(base)):
            try:
                ids = self._encoded(base[dropped:], question, config, begun)
                if self.when_full != "drop" or len(ids) <= most:
                    return ids, dropped
            except ContextFullError:  # of a text alone, which may be an old turn's
                if self.when_full != "drop":
                    raise
            most = limit // 2
        return self._encoded(base[len(base) :], question, config, begun), len(base)

    def _stream(
        self,
        before: tuple[Turn, ...],
        base: tuple[Turn, ...],
        dropped: int,
        begun: Turn,
        tokens: Generator[GeneratedToken, None, None],
        channel: Channel,
        config: GenerationConfig,
    ) -> Generator[GeneratedToken, None, None]:
        text = {"thinking": begun.thinking, "answer": begun.answer}
        with closing(tokens):
            if self._turns is not before:
                raise SessionError("the conversation was changed after this question was put; ask it again")
            self.draws += 1
            try:
                if dropped > min(self.dropped, len(base)):
                    yield GeneratedToken("", None, channel, notice="turns_dropped")
                for token in tokens:
                    text[token.channel] += token.text
                    if token.finish_reason is not None:
                        self._keep(before, base, dropped, begun.question, text, config, token.finish_reason == "stop")
                    yield token
            except (GeneratorExit, KeyboardInterrupt, SystemExit):
                self._keep(before, base, dropped, begun.question, text, config, False)
                raise

    def _keep(
        self,
        before: tuple[Turn, ...],
        base: tuple[Turn, ...],
        dropped: int,
        question: str,
        text: dict[str, str],
        config: GenerationConfig,
        whole: bool,
    ) -> None:
        """Make a turn of what was asked and answered, once; without an answer only ``resume`` knows of it."""
        if self._turns is not before:
            return
        turn = Turn(question, text["thinking"], text["answer"])
        cut = Cut(base, turn, config.thinks)
        if turn.answer.strip():
            self._turns, self.dropped, self._cut = (*base, turn), dropped, None if whole else cut
        elif turn.thinking:
            self._cut = cut


def _nothing(prompt: int) -> Generator[GeneratedToken, None, None]:
    """The stream of a question that does not fit."""
    stats = GenerationStats(prompt, 0, 0, 0, 0, 0.0, 0.0, 0.0, peak_rss_bytes())
    yield GeneratedToken("", None, "answer", "length", stats, "context_full")
