"""What comes from files is shown as it is: no markup, nothing that steers the terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mimo_mobile import terminal
from mimo_mobile.cli import main
from mimo_mobile.inspection import Inspection, TensorRow
from mimo_mobile.progress import Progress
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationStats
from mimo_mobile.untrusted import printable
from tools.format_documents import MANIFEST, entry

EVIL = "[/x][bold red]:smile:\x1b]0;title\x07\x9b31m\r\n\u202e大"
SHOWN = r"[/x][bold red]:smile:\x1b]0;title\x07\x9b31m\r\n\u202e大"


def test_inspect_shows_names_of_a_manifest_as_they_are(tmp_path: Path) -> None:
    hostile = MANIFEST | {"entries": [entry("a", recipe=EVIL)], "source": {EVIL: EVIL}}
    (tmp_path / "manifest.json").write_text(json.dumps(hostile))
    result = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.output.count(SHOWN) == 3 + 6  # its six ranges name the recipe, too
    assert all(printable(line) == line for line in result.output.splitlines())
    result = CliRunner().invoke(main, ["inspect", str(tmp_path), "--json"])
    assert printable(result.output) == result.output.rstrip("\n") + r"\n"
    assert json.loads(result.output)["facts"][f"source {EVIL}"] == EVIL


def test_tables_and_records_take_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(EVIL, (EVIL, EVIL), [(EVIL, EVIL)])
    row = TensorRow(EVIL, "F32", "1", 4)
    found = Inspection(EVIL, "onnx", 1, 1, ({"type": EVIL, "tensors": 1},), {EVIL: EVIL}, (row,), (EVIL,))
    terminal.record(found, as_json=False)
    output = capsys.readouterr().out
    assert output.count(SHOWN) == 5 + 6
    assert all(printable(line) == line for line in output.splitlines())


@pytest.mark.parametrize("tty", [True, False])
def test_progress_takes_no_markup(tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return tty

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with terminal.progress_shown() as show:
        for done in range(3):
            show(Progress(f"write {EVIL}", done, 3, EVIL, "B"))
    assert SHOWN in screen.getvalue() and "\x1b]0;title" not in screen.getvalue()


def streamed(stdout: Any, monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    stats = GenerationStats(1, 1, 1, 1, 1, 1, 1, 1, 1)
    tokens = [GeneratedToken(text, 1, "answer") for text in texts]
    tokens.append(GeneratedToken("", None, "answer", "stop", stats))
    monkeypatch.setattr(sys, "stdout", stdout)
    terminal.stream(iter(tokens), hide_thinking=False, cancel=lambda: None)


def test_a_models_control_characters_reach_no_terminal_but_every_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ("a\tb\n", "\x1b[2J\x9b", "\r\x00\x7f", "\u200fא 大")
    reading, writing = os.openpty()
    with os.fdopen(writing, "w", encoding="utf-8") as screen:
        streamed(screen, monkeypatch, *text)
    written = b""
    with suppress(OSError):  # Linux's way to say that nobody writes any more
        while block := os.read(reading, 1000):
            written += block
    os.close(reading)
    shown = written.decode().replace("\r\n", "\n").replace("\x1b[0m", "")
    assert shown.strip("\n").expandtabs() == ("a\tb\n" r"\x1b[2J\x9b\r\x00\x7f" "\u200fא 大").expandtabs()
    pipe = io.StringIO()
    streamed(pipe, monkeypatch, *text)
    assert pipe.getvalue() == "".join(text) + "\n"


def test_notes_keep_their_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.tell("one\ntwo\x1b[2J")
    assert capsys.readouterr().err == "one\ntwo\\x1b[2J\n"
