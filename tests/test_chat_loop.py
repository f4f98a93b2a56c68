"""A conversation by lines: turns, commands, a full context; on pipes and on a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from mimo_mobile.chat_loop import Chat
from mimo_mobile.cli import main
from mimo_mobile.errors import SessionError
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, LoadConfig, Message, Model, load
from tests.commands import runner

SUM, PRODUCT = "What is 12 + 30?", "What is 25 + 17 * 3?"
GREEDY = GenerationConfig(temperature=0)


@pytest.fixture(scope="module")
def model(nano_gguf: Path) -> Iterator[Model]:
    with load(nano_gguf) as loaded:
        yield loaded


class Talk:
    """A chat whose lines are written down before; it keeps what was shown and told."""

    def __init__(self, model: Model, *lines: str, config: GenerationConfig = GREEDY, system: str = "") -> None:
        self.answers: list[str] = []
        self.told: list[str] = []
        self._lines = iter(lines)
        self.chat = Chat(model, config, system=system, show=self._show, tell=self.told.append, resume=model.generate)
        self.chat.run(self._read)

    @property
    def turns(self) -> list[tuple[str, str]]:
        return [(each.role, each.content) for each in self.chat.messages]

    def _read(self) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None

    def _show(self, tokens: Iterator[GeneratedToken]) -> tuple[str, GeneratedToken]:
        made = list(tokens)
        self.answers.append("".join(token.text for token in made if token.channel == "answer"))
        return self.answers[-1], made[-1]


def test_a_chat_keeps_questions_and_answers_and_skips_blank_lines(model: Model) -> None:
    talk = Talk(model, SUM, "", "  \t", f" {PRODUCT} ")
    assert talk.answers == ["42", "76"] and talk.told == []
    assert talk.turns == [
        ("system", ""), ("user", SUM), ("assistant", "42"), ("user", PRODUCT), ("assistant", "76"),
    ]  # fmt: skip


def test_a_question_that_does_not_fit_is_taken_back_and_the_chat_goes_on(nano_gguf: Path) -> None:
    with load(nano_gguf, LoadConfig(context_length=128)) as small:
        talk = Talk(small, "word " * 400, SUM, "word " * 400, "/clear", PRODUCT)
    assert talk.answers == ["42", "76"]
    assert talk.turns == [("system", ""), ("user", PRODUCT), ("assistant", "76")]
    full = [line for line in talk.told if "the context holds 128" in line]
    assert len(full) == 2 and all("taken back" in line and "/clear" in line for line in full)


def test_an_answer_that_the_context_cuts_off_is_said_to_be(nano_gguf: Path) -> None:
    with load(nano_gguf) as large:
        room = len(large.encode_prompt([Message("system", ""), Message("user", SUM)], GREEDY)) + 3
    with load(nano_gguf, LoadConfig(context_length=room)) as small:
        talk = Talk(small, SUM)
        assert talk.answers == [""] and talk.turns == [("system", "")]  # the context was full of thinking
        assert "context is full" in talk.told[0] and "taken back" in talk.told[0] and "/clear" in talk.told[0]
        quick = Talk(small, "Hi", config=GenerationConfig(temperature=5, top_p=1, seed=2, thinking=False))
    assert quick.answers[0] and quick.turns[1:] == [("user", "Hi"), ("assistant", quick.answers[0])]
    assert "context is full" in quick.told[0] and "taken back" not in quick.told[0]


def test_an_answer_of_max_tokens_is_said_to_be_cut_off(model: Model) -> None:
    talk = Talk(model, SUM, config=GenerationConfig(temperature=0, max_tokens=1, thinking=False))
    assert talk.turns[1:] == [("user", SUM), ("assistant", talk.answers[0])]
    assert len(talk.told) == 1 and "max_tokens" in talk.told[0] and "context" not in talk.told[0]


def test_a_text_that_no_model_can_read_does_not_end_the_chat(model: Model) -> None:
    talk = Talk(model, "half a \ud83d character", SUM)
    assert talk.answers == ["42"] and talk.turns == [("system", ""), ("user", SUM), ("assistant", "42")]
    assert len(talk.told) == 1 and "taken back" in talk.told[0]


def test_help_names_every_command_and_an_unknown_one_is_named(model: Model) -> None:
    talk = Talk(model, "/help", "/sytem Be brief.", "/clear now")
    for command in (
        "/help",
        "/clear",
        "/regenerate",
        "/edit TEXT",
        "/undo",
        "/save FILE",
        "/load FILE",
        "/system TEXT",
    ):
        assert command in talk.told[0]
    assert "Ctrl-C" in talk.told[0] and "Ctrl-D" in talk.told[0]
    assert talk.told[1].startswith("There is no command /sytem") and "/help" in talk.told[1]
    assert talk.told[2].startswith("/clear takes nothing after it")
    assert talk.answers == [] and talk.turns == [("system", "")]


def test_a_space_before_the_slash_makes_it_a_question(model: Model) -> None:
    talk = Talk(model, " /help")
    assert len(talk.answers) == 1 and talk.turns[1] == ("user", "/help")


def test_clear_keeps_the_system_prompt_and_system_keeps_the_conversation(model: Model) -> None:
    talk = Talk(model, SUM, "/system\nBe brief.\nBe right.", system="Be kind.")
    assert talk.turns == [("system", "Be brief.\nBe right."), ("user", SUM), ("assistant", talk.answers[0])]
    talk = Talk(model, SUM, "/clear", system="Be kind.")
    assert talk.turns == [("system", "Be kind.")]
    talk = Talk(model, "/system", system="Be kind.")
    assert talk.turns == [("system", "")]
    assert all(len(Talk(model, command).told) == 1 for command in ("/clear", "/system", "/system Be brief."))


def test_a_saved_conversation_is_in_the_form_that_generate_takes(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "new" / "my chat.json"
    talk = Talk(model, SUM, f"/save {file}", f"/system {'é' * 3}")
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved == [
        {"role": "system", "content": ""},
        {"role": "user", "content": SUM},
        {"role": "assistant", "content": "42"},
    ]
    assert str(file) in talk.told[0] and os.listdir(file.parent) == ["my chat.json"]
    going_on = [*saved, {"role": "user", "content": PRODUCT}]
    text = "".join(each.text for each in model.generate(going_on, GREEDY) if each.channel == "answer")
    assert text == "76"


def test_the_last_question_is_asked_again_or_changed_or_taken_back(model: Model) -> None:
    talk = Talk(model, SUM, PRODUCT, "/regenerate", f"/edit {SUM}", "/undo", f"/edit {PRODUCT}")
    assert talk.answers == ["42", "76", "76", "42", "76"]
    assert talk.turns == [("system", ""), ("user", PRODUCT), ("assistant", "76")]
    assert [line for line in talk.told if "takes back" not in line and "taken back" not in line] == []


def test_an_answer_that_is_asked_for_again_is_another_one(model: Model) -> None:
    config = GenerationConfig(temperature=5, top_p=1, seed=3, thinking=False, max_tokens=12)
    first = Talk(model, "Hi", "/regenerate", "/regenerate", config=config)
    assert len(set(first.answers)) == 3 and len(first.turns) == 3
    assert Talk(model, "Hi", "/regenerate", "/regenerate", config=config).answers == first.answers


def test_an_answer_that_was_cut_off_goes_on(model: Model) -> None:
    cut = GenerationConfig(temperature=0, max_tokens=12)
    talk = Talk(model, "/continue", SUM, *3 * ["/continue"], config=cut)
    assert talk.told[0] == talk.told[-1] == "No answer was cut off just now."
    assert all("/continue" in line and "taken back" in line for line in talk.told[1:-1]) and len(talk.told) == 4
    assert talk.turns == [("system", ""), ("user", SUM), ("assistant", "42")] and talk.answers[:2] == ["", ""]
    quick = GenerationConfig(temperature=0, max_tokens=1, thinking=False)
    talk = Talk(model, SUM, "/continue", "/system", "/continue", config=quick)
    assert talk.turns[2] == ("assistant", "".join(talk.answers)) and len(talk.answers) == 2
    assert "/continue goes on" in talk.told[0] and talk.told[-1] == "No answer was cut off just now."


def test_chat_with_what_cannot_go_on_says_so_and_offers_nothing(model: Model) -> None:
    lines, told = iter([SUM, "/continue"]), list[str]()

    def read() -> str:
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    def show(tokens: Iterator[GeneratedToken]) -> tuple[str, GeneratedToken]:
        return "4", list(tokens)[-1]

    config = GenerationConfig(temperature=0, max_tokens=12)
    Chat(model, config, system="", show=show, tell=told.append).run(read)
    assert told == ["The text ends early, since max_tokens is 12.", told[1]] and "/regenerate" in told[1]


def test_what_needs_a_question_says_so_before_there_is_one(model: Model) -> None:
    talk = Talk(model, "/regenerate", f"/edit {SUM}", "/undo", "/edit", SUM, "/edit")
    assert [("no question" in line) for line in talk.told] == [True, True, True, True, False]
    assert "/edit needs" in talk.told[-1] and talk.answers == ["42"]


def test_an_answer_that_fails_leaves_the_old_one(nano_gguf: Path) -> None:
    with load(nano_gguf, LoadConfig(context_length=128)) as small:
        talk = Talk(small, SUM, f"/edit {'word ' * 400}")
    assert talk.turns[1:] == [("user", SUM), ("assistant", "42")] and "taken back" in talk.told[0]


def test_a_saved_conversation_goes_on_after_it_is_loaded(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    Talk(model, SUM, f"/save {file}", system="Be kind.")
    talk = Talk(model, PRODUCT, f"/load {file}", PRODUCT)
    assert talk.turns == [
        ("system", "Be kind."), ("user", SUM), ("assistant", "42"), ("user", PRODUCT), ("assistant", "76"),
    ]  # fmt: skip
    assert "1 question" in talk.told[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "chat.json"),
        ('{"role": "user"}', "a list of messages"),
        ('[{"role": "user", "content": 7}]', "content"),
        ('[{"role": "assistant", "content": "42"}]', "a question"),
        ('[{"role": "user", "content": "2"}]', "an answer"),
        ('[{"role": "user", "content": "2"}, {"role": "user", "content": "3"}]', "an answer"),
        ('[{"role": "system", "content": ""}, {"role": "system", "content": ""}]', "a question"),
        ("[" * 100_000, "chat.json"),
    ],
)
def test_what_cannot_be_loaded_is_said_and_the_conversation_stays(
    model: Model, content: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    if content is not None:
        file.write_text(content)
    talk = Talk(model, SUM, f"/load {file}")
    assert "not loaded" in talk.told[0] and message in talk.told[0], talk.told
    assert talk.turns == [("system", ""), ("user", SUM), ("assistant", "42")]


@pytest.mark.parametrize(
    ("name", "message"),
    [("there.json", "exists"), ("", "/save needs a FILE"), ("there.json/below", "not saved"), ("\0", "not saved")],
)
def test_what_cannot_be_saved_is_said_and_nothing_is_overwritten(
    model: Model, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("earlier")
    talk = Talk(model, f"/save {name}", SUM)
    assert message in talk.told[0] and "--force" not in talk.told[0]
    assert talk.answers == ["42"]
    assert os.listdir() == ["there.json"] and Path("there.json").read_text() == "earlier"


def test_a_model_without_a_chat_template_says_so_before_it_asks(model: Model) -> None:
    template, model.chat_template = model.chat_template, None
    try:
        with pytest.raises(SessionError, match="no chat template"):
            Talk(model, SUM)
    finally:
        model.chat_template = template


def piped(model: Path, *arguments: str, text: str | bytes) -> Result:
    options = ["chat", str(model), "--temperature", "0", "--hide-thinking", *arguments]
    return runner().invoke(main, options, input=text)


def test_piped_lines_are_turns_and_a_blank_one_ends_nothing(nano_gguf: Path) -> None:
    result = piped(nano_gguf, text=f"\n{SUM}\n\n{PRODUCT}")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["42", "76"]


def test_a_full_context_does_not_end_a_piped_chat(nano_gguf: Path) -> None:
    result = piped(nano_gguf, "--context-length", "128", text=f"{'word ' * 400}\n{SUM}\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["42"] and "/clear" in result.stderr


def test_piped_text_that_is_not_utf_8_is_one_line_of_error(nano_gguf: Path) -> None:
    result = piped(nano_gguf, text=b"\xff\xfe\n")
    assert result.exit_code == 2 and "UTF-8" in result.stderr


class Terminal:
    """A real terminal with ``mimo chat`` in it, typed into as a person or a terminal emulator does."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        self.errors = folder / "stderr"
        own = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", own, sys.executable, "-m", "mimo_mobile", "chat", *map(str, arguments)]
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        with self.errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=stderr, cwd=folder, env=environment, start_new_session=True
            )
        os.close(slave)
        self._shown = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait(self, pattern: str, times: int = 1) -> None:
        """Until a pattern is found so often in what was shown and what stands on stderr."""
        end = time.monotonic() + 60
        while len(re.findall(pattern, self._shown.decode(errors="replace") + self.errors.read_text(), re.S)) < times:
            assert time.monotonic() < end, (pattern, self._shown, self.errors.read_text())
            if select.select([self._master], [], [], 0.05)[0]:
                self._shown += os.read(self._master, 4096)

    def status(self) -> int:
        return self._process.wait(timeout=30)


ASKS, ANSWERS = r"\x1b\[\?2004h", r"\x1b\[\?2004l.{40}"
"""What switches bracketed paste on, as each prompt begins; what switches it off, with some text behind it."""


def test_a_paste_of_two_lines_on_a_terminal_is_one_turn_and_ctrl_d_ends(nano_gguf: Path, tmp_path: Path) -> None:
    with Terminal(tmp_path, nano_gguf, "--temperature", "0") as terminal:
        terminal.wait(ASKS)
        terminal.type("\x1b[200~What is\n12 + 30?\x1b[201~\r")
        terminal.wait(ASKS, times=2)
        terminal.type("/save talk.json\r")
        terminal.wait(ASKS, times=3)
        terminal.type("\x04")
        assert terminal.status() == 0
    assert terminal.errors.read_text().count(" tokens, prefill") == 1
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [each["content"] for each in saved if each["role"] == "user"] == ["What is\n12 + 30?"]


def test_ctrl_c_on_a_terminal_stops_an_answer_or_drops_a_line_and_the_chat_goes_on(
    nano_gguf: Path, tmp_path: Path
) -> None:
    with Terminal(tmp_path, nano_gguf, "--temperature", "1000", "--top-p", "1", "--seed", "0") as terminal:
        terminal.wait(ASKS)
        terminal.type("half a line\x03")
        terminal.wait(ASKS, times=2)
        terminal.type("Tell me much.\r")
        terminal.wait(ANSWERS, times=2)
        terminal.type("\x03")
        terminal.wait(r"\[cancelled: ")
        terminal.wait(ASKS, times=3)
        terminal.type("\x04")
        assert terminal.status() == 0
    errors = terminal.errors.read_text()
    assert errors.count(" tokens, prefill") == 1 and "Traceback" not in errors
