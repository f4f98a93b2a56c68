"""A conversation with a person: turns, commands that begin with a slash, and what happens when the context is full.

Knows no terminal: the caller gives functions that read a text, show an answer and tell a note.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mimo_mobile import files, untrusted
from mimo_mobile.errors import ContextFullError, MimoMobileError, OutputExistsError, SessionError
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message
from mimo_mobile.runtime.text.chat_template import Continued, messages_of

Read = Callable[[], str]
"""The next text of the user, which may have several lines; EOFError when there is none."""

Show = Callable[[Iterator[GeneratedToken]], tuple[str, GeneratedToken]]
"""It shows an answer as it comes; returns its text without the thinking, and the last record."""

Resume = Callable[[Continued, GenerationConfig], Iterator[GeneratedToken]]
"""It streams the rest of an answer, as ``Model.generate`` does."""

Tell = Callable[[str], None]
"""It tells the user something that the model did not say."""


class Answering(Protocol):
    """What answers: a ``Model`` here, or an ``Endpoint``."""

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be given."""

    def generate(self, prompt: Sequence[Message], config: GenerationConfig) -> Iterator[GeneratedToken]:
        """Stream the answer to messages."""


HELP = """\
/help         shows this list
/continue     goes on with an answer that was cut off
/regenerate   asks the last question again; the new answer takes the old one's place
/edit TEXT    asks TEXT instead of the last question
/undo         takes the last question and its answer back
/clear        forgets the conversation, and keeps the system prompt
/save FILE    writes the conversation to FILE as JSON, in the form of OpenAI's messages
/load FILE    goes on with the conversation in FILE, and forgets this one
/system TEXT  makes TEXT the system prompt from now on; without TEXT there is none
A space before the slash makes a question of it. Ctrl-C stops an answer, Ctrl-D ends the conversation."""

NO_ANSWER_YET = "There is no answer yet; your question is taken back unless /continue goes on."

MAKE_ROOM = "/save FILE keeps the conversation, /clear forgets it and makes room"


class Chat:
    """A conversation with a model.

    Attributes:
        messages: The system prompt, and all questions that were answered, with their answers.
    """

    def __init__(
        self,
        model: Answering,
        config: GenerationConfig,
        *,
        system: str,
        show: Show,
        tell: Tell,
        resume: Resume | None = None,
    ) -> None:
        """Begin a conversation; where ``resume`` is None, as with servers, no answer goes on after it was cut off.

        Raises:
            SessionError: The model has no chat template.
        """
        if not model.has_chat_template:
            raise SessionError("this model has no chat template, so it cannot chat; `mimo run --raw` continues a text")
        self.messages = [Message("system", system)]
        self._model, self._config, self._show, self._tell = model, config, show, tell
        self._resume, self._again = resume, 0
        self._cut: Continued | None = None  # the last answer, if it was cut off
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/continue": self._continue,
            "/regenerate": self._regenerate,
            "/edit": self._edit,
            "/undo": self._undo,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self._load,
            "/system": self._system,
        }

    def run(self, read: Read) -> None:
        """Answer and obey until ``read`` has no more; blank texts are skipped."""
        while True:
            try:
                text = read()
            except EOFError:
                return
            if text.startswith("/"):
                self._obey(text)
            elif text.strip():
                self._answer(self.messages, text.strip())

    def _answer(self, before: Sequence[Message], question: str) -> None:
        """One turn after ``before``; without an answer nothing changes, so that the conversation stays usable."""
        asked = [*before, Message("user", question)]
        seed = self._config.seed
        config = self._config if seed is None else replace(self._config, seed=seed + self._again)
        try:
            self._listen(Continued(asked, ""), self._model.generate(asked, config))
        except ContextFullError as error:
            self._tell(f"Your question is taken back: {error}. {MAKE_ROOM}.")
        except MimoMobileError as error:
            self._tell(f"Your question is taken back: {error}.")

    def _listen(self, begun: Continued, tokens: Iterator[GeneratedToken]) -> None:
        """Show what follows what was ``begun``, and make a turn of both.

        Raises:
            MimoMobileError: There is no answer.
        """
        thinking = [begun.thinking]

        def heard() -> Iterator[GeneratedToken]:
            for token in tokens:
                thinking.append(token.text if token.channel == "thinking" else "")
                yield token

        more, last = self._show(heard())
        asked, answer = messages_of(begun.messages), begun.answer + more
        is_cut = self._resume is not None and last.finish_reason != "stop" and last.notice != "context_full"
        self._cut = Continued(asked, "".join(thinking), answer) if is_cut else None
        if answer.strip():
            self.messages = [*asked, Message("assistant", answer)]
        notes = [self._early_end(last)] if last.finish_reason == "length" else []
        if not answer.strip():
            notes.append(NO_ANSWER_YET if is_cut else "There is no answer, so your question is taken back.")
        elif is_cut:
            notes.append("/continue goes on.")
        if notes:
            self._tell(" ".join(notes))

    def _early_end(self, last: GeneratedToken) -> str:
        if last.notice == "context_full" or self._config.max_tokens is None:
            return f"The text ends early, since the context is full; {MAKE_ROOM}."
        return f"The text ends early, since max_tokens is {self._config.max_tokens}."

    def _obey(self, text: str) -> None:
        name, *others = text.split(maxsplit=1)
        rest = "".join(others).strip()
        if (command := self._commands.get(name)) is None:
            self._tell(f"There is no command {name}; /help lists the commands.")
        elif rest and name in ("/help", "/continue", "/regenerate", "/undo", "/clear"):
            self._tell(f"{name} takes nothing after it, but {rest!r} follows.")
        else:
            command(rest)

    def _help(self, _: str) -> None:
        self._tell(HELP)

    def _asked(self) -> str | None:
        """The last question; None when there is none, which is told."""
        if len(self.messages) > 1:
            return self.messages[-2].content
        self._tell("There is no question yet that was answered.")
        return None

    def _continue(self, _: str) -> None:
        if self._resume is None:
            self._tell("A server cannot go on within an answer; /regenerate asks again.")
        elif (begun := self._cut) is None:
            self._tell("No answer was cut off just now.")
        else:
            try:
                self._listen(begun, self._resume(begun, self._config))
            except MimoMobileError as error:
                self._tell(f"The answer does not go on: {error}.")

    def _regenerate(self, _: str) -> None:
        if (question := self._asked()) is not None:
            self._again += 1  # by the random numbers of before it would be the same answer
            self._answer(self.messages[:-2], question)

    def _edit(self, text: str) -> None:
        if self._asked() is None:
            return
        if text:
            self._answer(self.messages[:-2], text)
        else:
            self._tell("/edit needs the new question after it.")

    def _undo(self, _: str) -> None:
        if (question := self._asked()) is not None:
            del self.messages[-2:]
            self._cut = None
            self._tell(f"This question and its answer are taken back: {question}")

    def _clear(self, _: str) -> None:
        del self.messages[1:]
        self._cut = None
        self._tell("The conversation is forgotten; the system prompt stays.")

    def _system(self, text: str) -> None:
        self.messages[0], self._cut = Message("system", text), None
        self._tell("The system prompt is what you gave, from now on." if text else "There is no system prompt now.")

    def _save(self, name: str) -> None:
        if not name:
            self._tell("/save needs a FILE after it.")
            return
        try:
            path = Path(name).expanduser()
            with files.whole(path, force=False) as temporary:
                content = json.dumps([each.to_json() for each in self.messages], ensure_ascii=False, indent=2)
                temporary.write_text(content + "\n", encoding="utf-8")
        except OutputExistsError:
            self._tell(f"{name} exists, so the conversation is not saved; give another name.")
        except (OSError, RuntimeError, ValueError) as error:  # no such user, no name for a file
            self._tell(f"{name!r}: the conversation is not saved: {error}.")
        else:
            self._tell(f"The conversation is saved in {path}.")

    def _load(self, name: str) -> None:
        if not name:
            self._tell("/load needs a FILE after it.")
            return
        try:
            path = Path(name).expanduser()
            found = _conversation(untrusted.parse_json(untrusted.read_text(path)))
        except OSError as error:
            self._tell(f"{name!r}: the conversation is not loaded: {error.strerror}.")
        except (RuntimeError, ValueError, MimoMobileError) as error:  # no such user, no name for a file, no messages
            self._tell(f"{name!r}: the conversation is not loaded: {error}.")
        else:
            self.messages, self._cut = found, None
            count = len(found) // 2
            self._tell(f"The conversation goes on after {count} question{'' if count == 1 else 's'} with answers.")


def _conversation(value: object) -> list[Message]:
    """The messages of a file: a system prompt, which may be missing, and then questions and answers in turn.

    Raises:
        BadArgumentError: One of them is no message.
        ValueError: They are others.
    """
    if not isinstance(value, list):
        raise ValueError("a list of messages expected, as /save writes it")
    made = messages_of(value)
    if not made or made[0].role != "system":
        made = [Message("system", ""), *made]
    for index, message in enumerate(made[1:]):
        role, what = (("user", "a question"), ("assistant", "an answer"))[index % 2]
        if message.role != role:
            raise ValueError(f"message {index + 1} is of {message.role}, {what} of {role} expected")
    if len(made) % 2 == 0:
        raise ValueError(
            "the last question has none, an answer of assistant expected; add one, or take the question out"
        )
    return made
