"""Runs the command `mimo` many times, each time in a fork of this process, which has imported all that takes long.

What a case takes is measured from outside: time, peak memory, and whether the process died or printed a traceback.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import runpy
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_S = 60
MOST_MIB = 512
MOST_ADDRESSES_BYTES = 8 << 30
"""So much address space a process gets: what would fill the machine's memory fails before it does."""

MOST_LINES = 12
"""So many lines an error may take, most of which are a list of a checkpoint's problems."""

PRELOADED = (
    "click", "gguf", "jinja2", "llama_cpp", "numpy", "onnx", "onnx_ir", "onnxruntime", "rich.console", "rich.table",
    "safetensors", "tokenizers", "mimo_mobile.cli", "mimo_mobile.convert.model", "mimo_mobile.inspection",
    "mimo_mobile.runtime.llama.loading", "mimo_mobile.runtime.llama.probe", "mimo_mobile.runtime.onnx.loading",
    "mimo_mobile.terminal",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One call of the command; ``{}`` in its arguments is the batch's copy of its folder.

    Attributes:
        name: What is wrong with the file, in words.
        arguments: What follows ``mimo``.
        flip: A file in the folder, and the place and number of the bit that is flipped before the call.
    """

    name: str
    arguments: tuple[str, ...]
    flip: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Batch:
    """Calls that one process makes, one after the other.

    Attributes:
        kind: What they have in common.
        steps: The calls.
        base: A folder that the process gets a copy of.
    """

    kind: str
    steps: tuple[Step, ...]
    base: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How one call ended.

    Attributes:
        kind: Its batch's kind.
        name: What was wrong with the file.
        arguments: What followed ``mimo``.
        status: The exit status; None when the process died or hung.
        seconds: How long it took.
        mib: The most memory that its process took, or that a process of its batch did.
        problem: What must not be; empty when all is well.
        message: The end of what it printed to stderr.
    """

    kind: str
    name: str
    arguments: tuple[str, ...]
    status: int | None
    seconds: float
    mib: float
    problem: str
    message: str


@dataclass
class _Child:
    """A process at work."""

    batch: Batch
    pid: int
    pipe: int
    folder: Path
    first: int
    buffer: bytes = b""
    results: list[dict[str, Any]] = field(default_factory=list)
    last: float = field(default_factory=time.monotonic)
    hung: bool = False


def run(batches: Iterable[Batch], at_once: int = 2) -> Iterator[Outcome]:
    """Run all calls, some processes at once, and yield how each ended."""
    for name in PRELOADED:
        importlib.import_module(name)
    waiting = [(batch, 0) for batch in reversed(list(batches))]
    with tempfile.TemporaryDirectory(prefix="mimo-hostile-") as place, selectors.DefaultSelector() as selector:
        children: dict[int, _Child] = {}
        while waiting or children:
            while waiting and len(children) < at_once:
                child = _start(*waiting.pop(), Path(tempfile.mkdtemp(dir=place)))
                children[child.pipe] = child
                selector.register(child.pipe, selectors.EVENT_READ)
            for key, _ in selector.select(timeout=1):
                child = children[key.fd]
                if data := os.read(child.pipe, 1 << 16):
                    child.buffer, child.last = child.buffer + data, time.monotonic()
                    *lines, child.buffer = child.buffer.split(b"\n")
                    child.results += [json.loads(line) for line in lines]
                    continue
                selector.unregister(child.pipe)
                del children[child.pipe]
                outcomes = _ended(child)
                yield from outcomes
                done = child.first + len(outcomes)
                if done < len(child.batch.steps):  # it died in the midst of them
                    waiting.append((child.batch, done))
            for child in children.values():
                if time.monotonic() - child.last > TIMEOUT_S and not child.hung:
                    child.hung = True
                    os.killpg(child.pid, signal.SIGKILL)


def _start(batch: Batch, first: int, folder: Path) -> _Child:
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.close(read)
            _work(batch, first, folder, write)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    return _Child(batch, pid, read, folder, first)


def _ended(child: _Child) -> list[Outcome]:
    """What became of a process's calls; of the last one, what its end says."""
    os.close(child.pipe)
    _, status, usage = os.wait4(child.pid, 0)
    mib, outcomes = usage.ru_maxrss / 1024, []
    steps = child.batch.steps[child.first :]
    for step, result in zip(steps, child.results, strict=False):
        outcomes.append(_outcome(child.batch, step, result["status"], result["seconds"], mib, result["text"]))
    if len(outcomes) < len(steps):
        text = (child.folder / "stderr").read_text(errors="replace") if (child.folder / "stderr").is_file() else ""
        step, seconds = steps[len(outcomes)], time.monotonic() - child.last
        died = f"hung for {TIMEOUT_S} s" if child.hung else f"died by signal {os.WTERMSIG(status)}"
        code = None if child.hung or os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        outcomes.append(_outcome(child.batch, step, code, seconds, mib, text, "" if code is not None else died))
    shutil.rmtree(child.folder, ignore_errors=True)
    return outcomes


def _outcome(
    batch: Batch, step: Step, status: int | None, seconds: float, mib: float, text: str, problem: str = ""
) -> Outcome:
    lines = [line for line in text.splitlines() if line.strip()]
    if not problem:
        if "Traceback (most recent call last)" in text or "panicked at" in text:
            problem = "traceback"
        elif status not in (0, 1, 2):
            problem = f"exit status {status}"
        elif status and not lines:
            problem = "no message"
        elif status and len(lines) > MOST_LINES:
            problem = f"{len(lines)} lines of message"
        elif "\x1b" in text:
            problem = "an escape character in what it prints"
        elif mib > MOST_MIB:
            problem = f"{mib:.0f} MiB"
    shown = " | ".join(lines[-3:])[-300:]
    return Outcome(batch.kind, step.name, step.arguments, status, seconds, mib, problem, shown)


def _work(batch: Batch, first: int, folder: Path, pipe: int) -> None:
    """The process's part: make the calls, and say how each ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES_BYTES, MOST_ADDRESSES_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    copy = folder / "copy"
    if batch.base is not None:
        shutil.copytree(batch.base, copy)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), number)
    for step in batch.steps[first:]:
        for number in (1, 2):
            os.ftruncate(number, 0)
        start = time.monotonic()
        with _flipped(copy, step.flip):
            status = _call([each.replace("{}", str(copy)) for each in step.arguments])
        text = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
        if b"\x1b" in (folder / "stdout").read_bytes()[:1_000_000] and step.arguments[0] == "inspect":
            text += "\x1b"
        result = {"status": status, "seconds": time.monotonic() - start, "text": text[-20_000:]}
        os.write(pipe, json.dumps(result).encode() + b"\n")


class _flipped:
    """While this context lasts, one bit of a file is another."""

    def __init__(self, folder: Path, flip: tuple[str, int, int] | None) -> None:
        self._folder, self._flip = folder, flip

    def __enter__(self) -> None:
        self._turn()

    def __exit__(self, *_: object) -> None:
        self._turn()

    def _turn(self) -> None:
        if self._flip is not None:
            name, place, bit = self._flip
            with (self._folder / name).open("r+b") as file:
                file.seek(place)
                (value,) = file.read(1)
                file.seek(place)
                file.write(bytes([value ^ 1 << bit]))


def _call(arguments: Sequence[str]) -> int:
    """Call the command as the interpreter would, and return its exit status."""
    sys.argv = ["mimo", *arguments]
    try:
        runpy.run_module("mimo_mobile", run_name="__main__")
        status: object = 0
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status or 0
