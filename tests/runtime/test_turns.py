"""Whose turn it is on a model: threads, cancels, and what interrupts a run in its own thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.errors import Cancelled, SessionError
from mimo_mobile.runtime import GenerationConfig, Message, Model, load

GREEDY = GenerationConfig(temperature=0, max_tokens=24)
QUESTION = [Message("user", "What is 348 + 27 * 6?")]
IDS = [3, 50, 99, 200, 17, 41, 8, 301]


@pytest.fixture(params=["gguf", "onnx"])
def path(request: pytest.FixtureRequest, nano_q4: dict[str, Path]) -> Path:
    return nano_q4[request.param]


def test_cancelling_logits_is_an_error_that_says_so(path: Path) -> None:
    with load(path, threads=1, speculate="off") as model:
        expected = model.logits(IDS)
        reading, over = threading.Event(), threading.Event()

        def cancel() -> None:
            reading.wait()
            while not over.wait(0.001):
                model.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            with pytest.raises(Cancelled, match="the computation was cancelled, or the model closed meanwhile"):
                reading.set()
                for _ in range(100):
                    model.logits(IDS * 100)
        finally:
            over.set()
            canceller.join()
        assert np.array_equal(model.logits(IDS), expected)


def test_of_many_threads_one_generates_and_the_others_are_told_that_the_model_is_busy(path: Path) -> None:
    with load(path, threads=1, speculate="off") as model:
        alone = [token.token_id for token in model.session().generate(IDS, GREEDY)]
        first = model.session().generate(IDS, GREEDY)
        found = [next(first).token_id]
        outcomes = Counter[str]()

        def ask() -> None:
            try:
                outcomes[str(list(model.session().generate(IDS, GREEDY))[-1].finish_reason)] += 1
            except SessionError as error:
                outcomes[str(error)] += 1

        others = [threading.Thread(target=ask) for _ in range(8)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        busy = "the model is busy with another generation; cancel it, load the model once more, or with queue=True"
        assert outcomes == {busy: 8}
        assert found + [token.token_id for token in first] == alone


@pytest.mark.parametrize("how", ["closed", "read to its end", "dropped"])
def test_a_stream_that_another_thread_ends_gives_its_turn_back(path: Path, how: str) -> None:
    with load(path, threads=1, speculate="off") as model:
        streams = [model.session().generate(IDS, GREEDY)]
        next(streams[0])
        ways = {
            "closed": lambda: streams[0].close(),
            "read to its end": lambda: list(streams[0]),
            "dropped": streams.clear,
        }
        other = threading.Thread(target=ways[how])
        other.start()
        other.join()
        assert list(model.session().generate(IDS, GREEDY))[-1].finish_reason in ("length", "stop")


class Callback:
    """A constraint that allows everything and calls something after some tokens."""

    def __init__(self, call: Any, where: str) -> None:
        self._call, self._where, self.left = call, where, 5

    def _count(self, where: str) -> None:
        if where == self._where:
            self.left -= 1
            if self.left == 0:
                self._call()

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        self._count("mask")
        return logits.copy()

    def accept(self, token: int) -> None:
        self._count("accept")


@pytest.mark.parametrize("where", ["mask", "accept"])
@pytest.mark.parametrize("speculate", ["off", "mtp"])
@pytest.mark.parametrize("deed", ["close", "cancel"])
def test_a_constraint_may_close_or_cancel_its_own_model(path: Path, where: str, speculate: Any, deed: str) -> None:
    model = load(path, threads=1, speculate=speculate)
    constraint, reasons = Callback(getattr(model, deed), where), list[str | None]()

    def read() -> None:
        reasons.extend(token.finish_reason for token in model.generate(QUESTION, GREEDY, constraint=constraint))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(30)
    assert not reader.is_alive(), "it waits for itself"
    assert reasons[-1] == "cancelled"
    if deed == "close":
        with pytest.raises(SessionError, match="the model is closed"):
            model.logits(IDS)
    model.close()


def test_closing_within_exclusive_use_frees_at_its_end(path: Path) -> None:
    model = load(path, threads=1, speculate="off")
    with model.exclusive() as backend:
        model.close()
        assert backend.state(0).tokens == 0  # not freed yet
    with pytest.raises(SessionError, match="the model is closed"):
        model.session().generate(IDS)


def test_an_interrupted_generation_leaves_no_turn_behind(path: Path) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupt

    with load(path, threads=1, speculate="mtp") as model:
        alone = [token.token_id for token in model.session().generate(IDS, GREEDY)]
        kept = []
        for where in ("mask", "accept"):
            with pytest.raises(Interrupt) as caught:
                list(model.generate(QUESTION, GREEDY, constraint=Callback(interrupt, where)))
            kept.append(caught)  # the traceback, and with it all frames
            assert [token.token_id for token in model.generate(IDS, GREEDY)] == alone


SIGNALS = """
import faulthandler, random, signal, sys, threading, time
from mimo_mobile.errors import SessionError
from mimo_mobile.runtime import GenerationConfig, load
faulthandler.dump_traceback_later(50, exit=True)
path, dice = sys.argv[1], random.Random(1)
greedy = GenerationConfig(max_tokens=16, temperature=0)
model = load(path, threads=1, speculate="mtp")
answer = lambda: [token.token_id for token in model.generate([3, 50, 99], greedy)]
alone = answer()
class Interrupt(Exception): pass
def handler(*_):
    {handler}
signal.signal(signal.SIGALRM, handler)
count, ends = 0, time.monotonic() + 2
while time.monotonic() < ends:
    wait = 0.00001 + dice.random() * 0.008
    try:
        signal.setitimer(signal.ITIMER_REAL, wait)
        for token in model.generate([3, 50, 99], greedy):
            {body}
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        count += 1
    except SessionError as error:
        assert "closed" in str(error) and "close" in "{handler}", error
        signal.setitimer(signal.ITIMER_REAL, 0)
        model, count = load(path, threads=1, speculate="mtp"), count + 1
signal.setitimer(signal.ITIMER_REAL, 0)
time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ("handler", "body"),
    [("raise Interrupt", "pass"), ("model.cancel()", "model.cancel()"), ("model.close()", "model.close()")],
)
def test_a_signal_handler_may_interrupt_whatever_goes_on(path: Path, handler: str, body: str) -> None:
    code = SIGNALS.format(handler=handler, body=body)
    if handler == "raise Interrupt":  # after hundreds of them the model works as on the first day
        code = code.replace(
            "model.close()\nmodel =", "assert count > 3 and answer() == alone, count\nmodel.close()\nmodel ="
        )
    command = [sys.executable, "-X", "faulthandler", "-c", code, str(path)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]


def test_a_cancel_that_comes_late_ends_no_later_generation(path: Path) -> None:
    with load(path, threads=1, speculate="off") as model:
        one, two, over = model.session(), model.session(), threading.Event()

        def cancel() -> None:
            while not over.is_set():
                one.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            for _ in range(20):
                list(one.generate(IDS, GREEDY))
                assert list(two.generate(IDS, GREEDY))[-1].finish_reason in ("length", "stop")
        finally:
            over.set()
            canceller.join()


def test_a_model_that_was_loaded_twice_computes_twice_at_once(path: Path) -> None:
    def read(model: Model, found: list[Any]) -> None:
        found += [token.token_id for token in model.generate(IDS, GREEDY)]

    with load(path, threads=1) as one, load(path, threads=1) as two:
        texts: list[list[Any]] = [[], []]
        readers = [threading.Thread(target=read, args=pair) for pair in zip((one, two), texts, strict=True)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert texts[0] == texts[1] and len(texts[0]) > 1
