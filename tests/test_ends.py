"""How the command ends when the machine, the terminal or a path fails it: one line, an exit status, no traceback."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from mimo_mobile import __main__ as start
from mimo_mobile import ends, terminal
from mimo_mobile.cli import main
from mimo_mobile.hub import Source
from mimo_mobile.runtime import loading
from tests.commands import runner

ROOT = Path(__file__).resolve().parents[1]
MIMO = f"'{sys.executable}' -m mimo_mobile"


def shell(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell does with a text; ``mimo`` in it is the command."""
    script = f'mimo() {{ {MIMO} "$@"; }}; set -o pipefail; ulimit -c 0; {text}'
    kept = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


PANIC = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a\x1b[31m\nb"), r"a\x1b[31m\nb: No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EIO, "Input/output error", b"\xff"), r"\udcff: Input/output error"),
        (OSError("only words"), "only words"),
        (OSError(), "OSError"),
        (MemoryError(), "the memory is full"),
        (SystemError("error return without exception set"), "the memory is full"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (PANIC("index out of bounds\nnote: run with"), "the tokenizer's library failed: index out of bounds; "),
        (UnicodeEncodeError("ascii", "é", 0, 1, "range"), r"'\xe9' found, which cannot be written as ascii"),
        (RuntimeError("can't start new thread"), "no thread can be started"),
        (ImportError("libx.so: failed to map segment", name="numpy"), "libx.so: failed to map segment"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_failure_of_the_machine_is_one_line_with_its_cause(
    error: BaseException, said: str, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr(loading, "load", load)
    result = runner().invoke(main, ["run", str(tiny_gguf), "hi"])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1 and said in result.stderr and "\x1b" not in result.stderr


@pytest.mark.parametrize("error", [TypeError("\x1b[2J"), ModuleNotFoundError("x", name="x"), SystemError("NULL")])
def test_a_fault_of_ours_keeps_its_traceback_and_asks_to_be_reported(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert ends.status_of(fail) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.rstrip().endswith(ends.OURS) and "\x1b" not in said


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("mimo --help >/dev/full", 1, "Error: No space left on device"),
        ("mimo cache list >/dev/full", 1, "Error: No space left on device"),
        ("mimo cache list --json >/dev/full", 1, "Error: No space left on device"),
        ("mimo cache list >&-", 1, "Error: the standard output: it is closed; send it to a file, or to /dev/null"),
        ("mimo cache list <&-", 0, ""),
        ("mimo cache list 2>&-", 0, ""),
        ("mimo inspect missing 2>&-", 2, ""),
        ("mimo inspect missing 2>/dev/full", 1, ""),
        ("mimo convert missing x --to gguf 2>/dev/full", 1, ""),
        ("mimo --help | true", 1, ""),
        ("ulimit -n 16; mimo cache list", 0, ""),
        ("mkdir gone; cd gone; rmdir ../gone; mimo cache list", 0, ""),
        ("mkdir gone; cd gone; rmdir ../gone; mimo convert nano x --to gguf", 1, "No such file or directory"),
        ("unset HOME; TERM=dumb COLUMNS=1 TMPDIR=/missing mimo cache list", 0, ""),
        ("COLUMNS=some LANG=nowhere mimo --help", 0, ""),
    ],
)  # fmt: skip
def test_whatever_is_wrong_around_the_command_is_told_in_one_line(
    text: str, status: int, said: str, tmp_path: Path
) -> None:
    result = shell(text, tmp_path)
    assert result.returncode == status, result.stderr
    assert len(result.stderr.splitlines()) == bool(said) and said in result.stderr


@pytest.mark.parametrize("command", ["inspect {gguf} --tensors", "run {gguf} hi", "run {onnx} hi"])
@pytest.mark.parametrize("kilobytes", [60_000, 110_000, 170_000])
def test_too_few_addresses_are_told_in_one_line(
    command: str, kilobytes: int, tiny_gguf: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    result = shell(f"ulimit -v {kilobytes}; mimo {command.format(gguf=tiny_gguf, onnx=tiny_onnx)}", tmp_path)
    assert result.returncode in (0, 1) and len(result.stderr.splitlines()) <= 1, result.stderr


def test_a_thread_that_fails_ends_a_command_that_waits_for_it() -> None:
    before = (
        "from mimo_mobile import cache; import threading, time; cache.entries = lambda: ("
        "threading.Thread(target=lambda: open('/missing/\\x1b')).start(), time.sleep(50))"
    )
    status, said = interrupted("cache", "list", before=before)
    assert (status, said) == (1, r"Error: /missing/\x1b: No such file or directory")


WAITING = """if True:
    import sys, time
    from mimo_mobile import interrupts, terminal
    interrupts.install()
    def tokens():
        print('asked', flush=True)
        time.sleep(50)
        yield
    terminal.stream(tokens(), hide_thinking=False, cancel=lambda: print('cancelled', flush=True))
"""


def test_a_second_ctrl_c_ends_an_answer_that_is_not_cancelled_in_time() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in ("asked\n", "cancelled\n"):
            assert process.stdout.readline() == line
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "Aborted!\n")


def test_no_file_is_opened_in_the_place_of_a_closed_stream(tiny: Source, tmp_path: Path) -> None:
    result = shell(f"mimo convert '{tiny.path}' x.gguf --to gguf <&- 2>&- && mimo inspect x.gguf", tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "x.gguf").read_bytes().startswith(b"GGUF")


def test_an_ascii_terminal_gets_tables_and_valid_json(tiny: Source, tmp_path: Path) -> None:
    folder = tmp_path / "dé\udcff"
    folder.symlink_to(tiny.path)
    environment = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    shown = shell(f"mimo inspect '{folder.name}'", tmp_path, **environment)
    assert shown.returncode == 0, shown.stderr
    assert r"d\xe9\udcff" in shown.stdout.replace(r"\udcc3\udca9", r"\xe9") and shown.stdout.isascii()
    found = json.loads(shell(f"mimo inspect '{folder.name}' --json", tmp_path, **environment).stdout)
    assert found["path"].endswith("\udcff")


def test_json_is_valid_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "é\ud83d\x1b\u2028\0", "numbers": (float("nan"), float("-inf"), 1.5)}
    terminal.print_json(value)
    line = capsys.readouterr().out
    line.encode()
    assert json.loads(line, parse_constant=pytest.fail) == {"text": value["text"], "numbers": [None, None, 1.5]}


def inputs(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    """(words of a command, parameter) for all that is read from a path; found in click's own list of commands."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from inputs(command, *names, name)
        for each in command.params:
            if each.name in ("model", "checkpoint") or (isinstance(each.type, click.Path) and each.name != "out"):
                yield (*names, name), each


FOLDERS_OF = ("manifest.json", "model.onnx", "config.json", "npu.json")


def lay_out(folder: Path) -> list[str]:
    """Make what no model is, of every kind of file; returns the paths, relative ones included."""
    (folder / "a file").write_text("x")
    (folder / "empty").mkdir()
    (folder / "folder.gguf").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "dangling.gguf").symlink_to("nowhere")
    (folder / "zero.gguf").symlink_to("/dev/zero")
    (folder / "\udcff.gguf").write_bytes(b"GGUF")
    (folder / "\x1b[31m\n.gguf").write_bytes(b"GGUF")
    for suffix in ("", ".gguf", ".onnx"):
        os.mkfifo(folder / f"pipe{suffix}")
    for name in FOLDERS_OF:
        for kind in ("pipe", "zero", "folder"):
            inner = folder / f"{kind} in {name}"
            inner.mkdir()
            if kind == "pipe":
                os.mkfifo(inner / name)
            elif kind == "zero":
                (inner / name).symlink_to("/dev/zero")
            else:
                (inner / name).mkdir()
    made = sorted(each.name for each in folder.iterdir())
    nowhere = ["missing", "a file/below", "", "-", "~nobody/x", "/dev/null", "/dev/full", "/proc/self/mem", "\udcff"]
    return [*made, *nowhere, "a" * 5000, "a/" * 3000, "no\n\x1b[2J"]


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A call that waits for ever fails instead."""

    def fail(*_: object) -> None:
        pytest.fail("it hangs")

    earlier = signal.signal(signal.SIGALRM, fail)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, earlier)


@pytest.mark.parametrize(("command", "given"), list(inputs(main)), ids=lambda value: getattr(value, "name", str(value)))
def test_a_path_to_no_model_is_one_line_in_every_command(
    command: tuple[str, ...],
    given: click.Parameter,
    tiny_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hang: None,
) -> None:
    found: click.Command = main
    for name in command:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    monkeypatch.chdir(tmp_path)
    others = {"out": "out", "target": "gguf", "prompt": "hi", "model": str(tiny_gguf)}
    for path in lay_out(tmp_path):
        words = [*command]
        for each in found.params:
            value = path if each is given else others[str(each.name)] if each.required else None
            if value is not None:
                words += [value] if isinstance(each, click.Argument) else [each.opts[0], value]
        signal.alarm(20)
        result = runner().invoke(main, words)
        signal.alarm(0)
        told = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
        if (command, path) != (("inspect",), "folder in config.json"):  # inspect lists what is wrong with a checkpoint
            assert result.exit_code in (1, 2), (words, result.output)
            assert len(told) == 1 and told[0].startswith("Error: "), (words, result.stderr)
        assert "\x1b" not in result.output and isinstance(result.exception, SystemExit | None), words
        assert not (tmp_path / "out").exists(), words


@pytest.mark.parametrize("out", ["", ".", "/", "a file", "a file/x", "/dev/null/x", "/proc/x", "pipe", "a" * 5000])
@pytest.mark.parametrize("command", ["convert {} {} --to gguf", "convert {} {} --to onnx", "synth {1}"])
def test_an_output_that_cannot_be_is_one_line(
    out: str, command: str, tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hang: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    words = [word.format(tiny.path, out) for word in command.split(" ")]
    signal.alarm(20)
    result = runner().invoke(main, words)
    assert result.exit_code in (1, 2), result.output
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1, result.stderr
    assert sorted(os.listdir()) == ["a file", "pipe"] and (tmp_path / "a file").read_text() == "x"


INTERRUPTED = """if True:
    import os, signal, sys
    def interrupt():
        os.kill(os.getpid(), signal.{signal})
    class AtTheImport:
        def find_spec(self, name, *_):
            if name == {module!r}:
                interrupt()
    sys.meta_path.insert(0, AtTheImport())
    {before}
    from mimo_mobile.__main__ import main
    main()
"""


def interrupted(*words: object, module: str = "", before: str = "", number: str = "SIGINT") -> tuple[int, str]:
    """(exit status, stderr) of a command that is interrupted when it imports a module."""
    code = INTERRUPTED.format(module=module, before=before, signal=number)
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.strip()


NATIVE = "numpy.core" if np.__version__.startswith("1.") else "numpy._core"


@pytest.mark.parametrize("module", ["mimo_mobile.cli", "click", "numpy", f"{NATIVE}._multiarray_umath", "rich"])
def test_ctrl_c_during_an_import_is_quiet(module: str, tiny_gguf: Path) -> None:
    assert interrupted("inspect", tiny_gguf, "--tensors", module=module) == (1, "Aborted!")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_other_signals_are_quiet_with_a_shells_status(number: str, tiny_gguf: Path) -> None:
    assert interrupted("inspect", tiny_gguf, module="numpy", number=number) == (128 + getattr(signal, number), "")


@pytest.mark.parametrize(
    "step",
    [
        "signal.raise_signal(signal.SIGINT)",
        "type('', (), {'__del__': lambda self: interrupt()})()",  # what is raised in a destructor goes nowhere
        "__import__('ctypes').CFUNCTYPE(None)(interrupt)()",
    ],
)
def test_ctrl_c_ends_the_command_wherever_python_hears_it(step: str) -> None:
    before = f"from mimo_mobile import cache; cache.entries = lambda: ({step}, [])[1]"
    status, said = interrupted("cache", "list", before=before)
    assert (status, said) == (1, "Aborted!")


def test_ctrl_c_just_after_the_commands_end_changes_nothing() -> None:
    before = """from mimo_mobile import interrupts
    last = interrupts.leave_to_the_end
    interrupts.leave_to_the_end = lambda status: (interrupt(), last(status))"""
    assert interrupted("cache", "list", "--json", before=before) == (0, "")


def test_a_second_ctrl_c_ends_a_call_into_a_library_at_once(tmp_path: Path) -> None:
    before = """if True:
        import hashlib
        from mimo_mobile import cache
        def entries():
            print('calling', flush=True)
            hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)
        cache.entries = entries"""
    code = INTERRUPTED.format(module="", before=before.replace("\n", "\n    "), signal="SIGINT")
    with subprocess.Popen(
        [sys.executable, "-c", code, "cache", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "calling\n"
        for _ in range(2):
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "Aborted!\n")


def test_sigterm_removes_what_is_not_finished(tiny: Source, tmp_path: Path) -> None:
    before = "from mimo_mobile import files; files._flush = lambda _: interrupt()"
    words = ["convert", tiny.path, tmp_path / "x.gguf", "--to", "gguf"]
    status, said = interrupted(*words, before=before, number="SIGTERM")
    assert status == 143 and "Traceback" not in said and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", ["doctor", "inspect {gguf}", "run {gguf} hi", "run {onnx} hi", "quantize"])
def test_ctrl_c_at_any_time_leaves_no_traceback(words: str, nano_gguf: Path, nano_onnx: Path, tmp_path: Path) -> None:
    chance = random.Random(14)
    command = words.format(gguf=nano_gguf, onnx=nano_onnx).split()
    if words == "quantize":
        command += ["--out", str(tmp_path), "--recipe", "q4_0,int4_b32", "--problems", "4", "--force"]
    code = "print('started', flush=True); from mimo_mobile.__main__ import main; main()"
    for _ in range(40):
        with subprocess.Popen(
            [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None and process.stdout.readline() == "started\n"
            time.sleep(0.05 + chance.uniform(0, 1))
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode in (0, 1) and "Traceback" not in said and "Exception" not in said, said


def test_the_installed_command_is_the_one_that_python_m_starts() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"mimo": f"{start.__name__}:{start.main.__name__}"}
