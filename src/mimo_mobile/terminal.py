"""What the command line shows: progress, tables and errors. The only module that knows rich.

Names and texts that come from files are shown as they are: nothing in them is markup, and characters that steer a
terminal are escaped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from mimo_mobile import interrupts
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.progress import Progress, ProgressCallback
from mimo_mobile.untrusted import printable

if TYPE_CHECKING:
    from mimo_mobile.doctor import Machine, ProviderState
    from mimo_mobile.runtime import GeneratedToken

PLAIN_INTERVAL_S = 10.0
"""Between two lines of progress when stderr is no terminal."""

MOST_TURN = 1_000_000
"""So many characters a line of a chat may have: several times what MiMo-7B's context of 32,768 tokens holds."""

_CONTROL = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")


def harmless(text: str) -> str:
    r"""Text of several lines as a terminal may show it: control characters other than newlines and tabs are escaped.

    >>> harmless("1\n2\x1b]0;title\x07")
    '1\n2\\x1b]0;title\\x07'
    """
    return _CONTROL.sub(lambda found: printable(found[0]), text)


def json_line(value: object, encoding: str = "utf-8") -> str:
    r"""A value as one line of JSON, in which characters that steer a terminal are escaped as JSON has it.

    So are all that are not ASCII, when the encoding lacks one of them. Numbers that JSON has not become null.

    >>> json_line({"name": "大\x9b"})
    '{"name": "大\\u009b"}'
    >>> json_line(["大", float("nan")], "ascii")
    '["\\u5927", null]'
    """
    value = _finite(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    return "".join(each if printable(each) == each else f"\\u{ord(each):04x}" for each in text)


@contextmanager
def progress_shown() -> Iterator[ProgressCallback]:
    """A callback that draws bars on stderr, or writes a line every few seconds when that is no terminal."""
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    stage, amounts = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[amount]}"))
    columns = stage, BarColumn(), amounts
    pace = _Pace()
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(step: Progress) -> None:
            step = dataclasses.replace(step, stage=printable(step.stage))
            task = next((task for task in bars.tasks if task.description == step.stage), None)
            amount = pace.told(step)
            if task is None:  # one stage at a time: a new one takes the place of the last
                for old in bars.task_ids:
                    bars.remove_task(old)
                bars.add_task(step.stage, total=step.total, completed=step.done, amount=amount)
            else:
                bars.update(task.id, total=step.total, completed=step.done, amount=amount)

        yield show


class _Pace:
    """How fast a stage goes: measured from its first record."""

    def __init__(self) -> None:
        self._stage, self._began_s, self._first = "", 0.0, 0

    def told(self, step: Progress) -> str:
        """Done, of how much, with rate and time left."""
        now = time.monotonic()
        if step.stage != self._stage or step.done < self._first:
            self._stage, self._began_s, self._first = step.stage, now, step.done
        rate = (step.done - self._first) / max(now - self._began_s, 1e-9)
        if rate <= 0:
            return _amount(step)
        each = f"{size(int(rate))}/s" if step.unit == "B" else f"{rate:,.0f} {step.unit}/s"
        return f"{_amount(step)}, {each}, {(step.total - step.done) / rate:.0f} s left"


class _PlainProgress:
    """A line when a stage begins, every few seconds, and when it ends."""

    def __init__(self) -> None:
        self._stage = ""
        self._shown_s = 0.0
        self._pace = _Pace()

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        amount = self._pace.told(step)
        if step.stage == self._stage and step.done < step.total and now - self._shown_s < PLAIN_INTERVAL_S:
            return
        if step.stage == self._stage or step.done < step.total:
            print(f"{printable(step.stage)}: {amount}", file=sys.stderr, flush=True)
        self._stage, self._shown_s = ("" if step.done >= step.total else step.stage), now


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    print(json_line(value, sys.stdout.encoding or "ascii"))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, err: bool = False) -> None:
    """Print a table on stdout, or stderr; the first ``left`` columns are text, the others numbers."""
    made = Table(title=Text(printable(title), "table.title"), title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(Text(printable(column)), justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    width = None if (sys.stderr if err else sys.stdout).isatty() else 140
    Console(width=width, stderr=err).print(made)


def size(number: int) -> str:
    """Bytes for people, decimal units.

    >>> size(4_382_000_000)
    '4.38 GB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number} B"


def _amount(step: Progress) -> str:
    if step.unit == "B":
        return f"{size(step.done)} of {size(step.total)}"
    return f"{step.done} of {step.total} {step.unit}"


def reader() -> Callable[[], str]:
    """What reads the user's next text: an editor on a terminal, where a paste is one text, else a line of stdin.

    It raises EOFError at the end.
    """
    if not sys.stdin.isatty():
        return _piped_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    # The editor stays out of an stdout that goes to a file.
    editor: PromptSession[str] = PromptSession(output=create_output(always_prefer_tty=True))

    def edited() -> str:
        try:
            return editor.prompt("\n> ")
        except KeyboardInterrupt:
            return ""  # Ctrl-C drops the line, as in a shell

    return edited


def _piped_line() -> str:
    try:
        line = sys.stdin.readline(MOST_TURN + 1)
    except UnicodeDecodeError as error:
        raise BadArgumentError(f"standard input is not UTF-8 text: {error}") from error
    if not line:
        raise EOFError
    if len(text := line.removesuffix("\n")) > MOST_TURN:
        raise BadArgumentError(f"standard input has a line of more than {MOST_TURN:,} characters; give shorter ones")
    return text


def tell(note: str) -> None:
    """Print a note to the user on stderr."""
    print(harmless(note), file=sys.stderr, flush=True)


def stream(
    tokens: Iterator[GeneratedToken], *, hide_thinking: bool, cancel: Callable[[], None]
) -> tuple[str, GeneratedToken]:
    """Print tokens as they come, thinking dimmed; returns (answer, last record). Ctrl-C calls ``cancel``.

    On a terminal the model's control characters are escaped. A pipe gets the text as it is.
    """
    terminal = sys.stdout.isatty()
    dim, plain = ("\x1b[2m", "\x1b[0m") if terminal else ("", "")
    answer, channel, last = "", "", None
    for token in _interruptible(tokens, cancel):
        last = token
        if token.channel == "answer":
            answer += token.text
        elif hide_thinking:
            continue
        if token.channel != channel and token.text:
            sys.stdout.write(("\n\n" if channel else "") + (dim if token.channel == "thinking" else plain))
            channel = token.channel
        sys.stdout.write(harmless(token.text) if terminal else token.text)
        sys.stdout.flush()
    sys.stdout.write(plain + "\n")
    assert last is not None  # every generation ends with a record of how it ended
    tell(_summary(last))
    return answer, last


def _interruptible(tokens: Iterator[GeneratedToken], cancel: Callable[[], None]) -> Iterator[GeneratedToken]:
    """The same tokens, made in a second thread: this one can hear Ctrl-C while a long prompt is read.

    The first Ctrl-C cancels; one more, before the tokens have ended, ends the process.
    """
    found: SimpleQueue[GeneratedToken | BaseException | None] = SimpleQueue()

    def pump() -> None:
        try:
            for token in tokens:
                found.put(token)
            found.put(None)
        except BaseException as error:  # raised again by the thread that waits
            found.put(error)

    pressed = False

    def interrupted(*_: object) -> None:
        nonlocal pressed
        if pressed:
            interrupts.end_at_once()
        pressed = True
        interrupts.heard()
        cancel()

    Thread(target=pump, daemon=True).start()
    earlier = signal.signal(signal.SIGINT, interrupted)
    try:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    except BaseException:
        cancel()  # else the second thread would go on, and closing the model would wait for it
        raise
    finally:
        signal.signal(signal.SIGINT, earlier)


def collected(tokens: Iterator[GeneratedToken]) -> dict[str, Any]:
    """All tokens as one JSON value."""
    text, last = {"thinking": "", "answer": ""}, None
    for token in tokens:
        text[token.channel] += token.text
        last = token
    stats = dataclasses.asdict(last.stats) if last and last.stats else None
    return {**text, "finish_reason": last.finish_reason if last else None, "stats": stats}


def record(value: Any, *, as_json: bool, **parts: Any) -> None:
    """Print a dataclass, with ``parts`` that are not None after it: as JSON, or a field a line with tables."""
    data = dataclasses.asdict(value)
    for name, part in parts.items():
        if part is not None:
            data[name] = dataclasses.asdict(part)
    if as_json:
        print_json(data)
        return
    width = max(len(key) for key in data)
    for key, item in data.items():
        if isinstance(item, (list, tuple)) and item and isinstance(item[0], dict):
            table(key, list(item[0]), [[str(cell) for cell in row.values()] for row in item])
        elif isinstance(item, (list, tuple)) and item and isinstance(item[0], str):
            for text in item:  # whole, however long
                print(f"{key:<{width}}  {printable(text)}")
        elif isinstance(item, dict):
            table(key, ("name", "value"), [(name, _number(cell)) for name, cell in item.items()], left=2)
        elif item not in (None, (), []):
            print(f"{key:<{width}}  {_number(item)}")


def doctor(machine: Machine, states: Sequence[ProviderState], *, as_json: bool) -> None:
    """Print what a machine is and what its execution providers can do."""
    if as_json:
        print_json({**dataclasses.asdict(machine), "providers": [dataclasses.asdict(each) for each in states]})
        return
    there = [name for name, is_there in machine.features.items() if is_there]
    missing = [name for name, is_there in machine.features.items() if not is_there]
    lines = {
        "processor": f"{machine.processor} ({machine.architecture}), {machine.physical_cores} physical cores",
        "features": f"{', '.join(there) or 'none'}; without {', '.join(missing) or 'none that matter'}",
        "int4 in ONNX": machine.int4,
        "memory": f"{_gigabytes(machine.available_bytes)} available of {_gigabytes(machine.memory_bytes)}",
        "onnxruntime": machine.onnxruntime,
        "llama.cpp": machine.llama_cpp,
    }
    lines |= {f"--ep {each.ep}": each.here + (f" → {each.model}" if each.model else "") for each in states}
    for name, line in lines.items():
        print(f"{name:<14}{printable(line)}")


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def _number(item: object) -> str:
    if isinstance(item, float):
        return f"{item:,.1f}" if item >= 10 else f"{item:.3g}"
    return f"{item:,}" if isinstance(item, int) else printable(str(item))


def _summary(last: GeneratedToken) -> str:
    stats = last.stats
    if stats is None:  # a server that told nothing, or was cut off before
        return f"[{last.finish_reason}]"
    speeds = {"prefill": stats.prefill_tps, "decode": stats.decode_tps}
    shown = "".join(f" {name} {speed:.0f}/s," for name, speed in speeds.items() if speed > 0)
    return (
        f"[{last.finish_reason}: {stats.prompt_tokens} + {stats.generated_tokens} tokens,{shown}"
        f" first after {stats.time_to_first_token_s:.3f} s]"
    )
