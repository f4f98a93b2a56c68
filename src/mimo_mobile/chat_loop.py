"""A conversation with a person: turns, commands that begin with a slash, and what happens when the context is full.

Knows no terminal: the caller gives functions that read a text, show an answer and tell a note.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from mimo_mobile import files
from mimo_mobile.errors import ContextFullError, MimoMobileError, OutputExistsError, SessionError
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message

Read = Callable[[], str]
"""The next text of the user, which may have several lines; EOFError when there is none."""

Show = Callable[[Iterator[GeneratedToken]], tuple[str, GeneratedToken]]
"""It shows an answer as it comes; returns its text without the thinking, and the last record."""

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
/clear        forgets the conversation, and keeps the system prompt
/save FILE    writes the conversation to FILE as JSON, in the form of OpenAI's messages
/system TEXT  makes TEXT the system prompt from now on; without TEXT there is none
A space before the slash makes a question of it. Ctrl-C stops an answer, Ctrl-D ends the conversation."""

MAKE_ROOM = "/save FILE keeps the conversation, /clear forgets it and makes room"


class Chat:
    """A conversation with a model.

    Attributes:
        messages: The system prompt, and all questions that were answered, with their answers.
    """

    def __init__(self, model: Answering, config: GenerationConfig, *, system: str, show: Show, tell: Tell) -> None:
        """Begin a conversation.

        Raises:
            SessionError: The model has no chat template.
        """
        if not model.has_chat_template:
            raise SessionError("this model has no chat template, so it cannot chat; `mimo run --raw` continues a text")
        self.messages = [Message("system", system)]
        self._model, self._config, self._show, self._tell = model, config, show, tell
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/clear": self._clear,
            "/save": self._save,
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
                self._answer(text.strip())

    def _answer(self, question: str) -> None:
        """One turn; a question without an answer is taken back, so that the conversation stays usable."""
        asked = [*self.messages, Message("user", question)]
        try:
            answer, last = self._show(self._model.generate(asked, self._config))
        except ContextFullError as error:
            self._tell(f"Your question is taken back: {error}. {MAKE_ROOM}.")
            return
        except MimoMobileError as error:
            self._tell(f"Your question is taken back: {error}.")
            return
        if answer.strip():
            self.messages = [*asked, Message("assistant", answer)]
        notes = [self._early_end(last)] if last.finish_reason == "length" else []
        if not answer.strip():
            notes.append("There is no answer, so your question is taken back.")
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
        elif rest and name in ("/help", "/clear"):
            self._tell(f"{name} takes nothing after it, but {rest!r} follows.")
        else:
            command(rest)

    def _help(self, _: str) -> None:
        self._tell(HELP)

    def _clear(self, _: str) -> None:
        del self.messages[1:]
        self._tell("The conversation is forgotten; the system prompt stays.")

    def _system(self, text: str) -> None:
        self.messages[0] = Message("system", text)
        self._tell("The system prompt is what you gave, from now on." if text else "There is no system prompt now.")

    def _save(self, name: str) -> None:
        if not name:
            self._tell("/save needs a FILE after it.")
            return
        try:
            path = Path(name).expanduser()
            with files.whole(path, force=False) as temporary:
                content = json.dumps([asdict(each) for each in self.messages], ensure_ascii=False, indent=2)
                temporary.write_text(content + "\n", encoding="utf-8")
        except OutputExistsError:
            self._tell(f"{name} exists, so the conversation is not saved; give another name.")
        except (OSError, RuntimeError, ValueError) as error:  # no such user, no name for a file
            self._tell(f"{name!r}: the conversation is not saved: {error}.")
        else:
            self._tell(f"The conversation is saved in {path}.")
