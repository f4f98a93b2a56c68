"""A model and its sessions: turns on one KV cache, own backends, constraints, threads, forks, numbers that are none."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.errors import NumericsError, SessionError
from mimo_mobile.hub import resolve
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, LoadConfig, Message, Model, load
from mimo_mobile.runtime.backend import Backend, BackendState, Cancelled

GREEDY = GenerationConfig(temperature=0, max_tokens=24)
IDS = [3, 50, 99, 200, 17, 41, 8, 301]


@pytest.fixture(params=["gguf", "onnx"])
def path(request: pytest.FixtureRequest, tiny_gguf: Path, tiny_onnx: Path) -> Path:
    return tiny_gguf if request.param == "gguf" else tiny_onnx


@pytest.fixture(scope="module")
def nano_int4(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("sessions")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32", "q8_0"], problems=0)
    return {"onnx": out / "mimo-nano-int4_b32-onnx", "gguf": out / "mimo-nano-q8_0.gguf"}


def ids_of(tokens: Iterator[GeneratedToken]) -> list[int]:
    return [token.token_id for token in tokens if token.token_id is not None]


@pytest.mark.parametrize("kind", ["onnx", "gguf"])
@pytest.mark.parametrize("kv_dtype", [None, "int8"])
@pytest.mark.parametrize("speculate", ["off", "mtp"])
def test_sessions_take_turns_and_each_goes_on_where_it_was(
    nano_int4: dict[str, Path], kind: str, kv_dtype: Any, speculate: Any
) -> None:
    config = LoadConfig(threads=1, kv_dtype=kv_dtype, speculate=speculate)
    questions = ["What is 348 + 27 * 6?", "Solve 7x + 12 = 3x + 52.", "What is 779 - 343?"]
    with load(nano_int4[kind], config) as model:
        ids = [model.encode_prompt([Message("user", each)], GREEDY) for each in questions]
        alone = []
        for prompt in ids:
            first = ids_of(model.session().generate(prompt, GREEDY))
            alone.append([first, ids_of(model.session().generate([*prompt, *first, *prompt], GREEDY))])
        sessions = [model.session() for _ in ids]
        firsts = [ids_of(session.generate(prompt, GREEDY)) for session, prompt in zip(sessions, ids, strict=True)]
        for number, (session, prompt) in enumerate(zip(sessions, ids, strict=True)):
            tokens = list(session.generate([*prompt, *firsts[number], *prompt], GREEDY))
            assert [firsts[number], ids_of(iter(tokens))] == alone[number]
            stats = tokens[-1].stats
            assert stats is not None and stats.cached_tokens >= len(prompt) + len(firsts[number]) - 2


def test_a_state_is_a_copy_that_gives_the_same_logits_again(path: Path) -> None:
    never = threading.Event()
    with load(path, threads=1, speculate="mtp") as model, model.exclusive() as backend:
        backend.decode(IDS, 0, never)
        kept = backend.state(len(IDS))
        expected = backend.decode([7], len(IDS), never).copy()
        backend.decode([9] * 30, 0, never)
        backend.restore(kept)
        assert np.array_equal(backend.decode([7], len(IDS), never), expected)
        assert kept.tokens == len(IDS) and kept.size_bytes >= len(IDS) * backend.kv_bytes_per_token


def test_a_state_of_another_model_is_refused(tiny_gguf: Path, tiny_onnx: Path, nano_onnx: Path) -> None:
    with load(tiny_gguf, speculate="off") as llama, load(tiny_onnx, speculate="off") as onnx:
        with load(nano_onnx, speculate="off") as nano:
            with llama.exclusive() as one, onnx.exclusive() as two, nano.exclusive() as three:
                for each in (one, two, three):
                    each.decode(IDS, 0, threading.Event())
                states = {name: each.state(4) for name, each in (("llama", one), ("onnx", two), ("nano", three))}
                with pytest.raises(SessionError, match=r"not llama\.cpp's"):
                    one.restore(states["onnx"])
                with pytest.raises(SessionError, match="of another model or KV cache"):
                    one.restore(BackendState(4, {"trunk": np.zeros(100, np.uint8)}))
                for wrong in ("llama", "nano"):
                    with pytest.raises(SessionError, match="the state of another model or KV cache"):
                        two.restore(states[wrong])


def test_measurements_leave_the_conversation_as_it_was(path: Path) -> None:
    with load(path, threads=1, speculate="off") as model:
        first = ids_of(model.generate(IDS, GREEDY))
        expected = ids_of(model.session().generate([*IDS, *first, 5], GREEDY))
        model.logits([1, 2, 3])
        tokens = list(model.generate([*IDS, *first, 5], GREEDY))
        assert ids_of(iter(tokens)) == expected
        assert tokens[-1].stats is not None and tokens[-1].stats.cached_tokens >= len(IDS)


def test_cancelling_one_session_leaves_the_other_alone(path: Path) -> None:
    with load(path, threads=1, speculate="off") as model:
        one, two = model.session(), model.session()
        waiting, running = one.generate(IDS, GREEDY), two.generate(IDS, GREEDY)
        next(running)
        one.cancel()
        assert [token.finish_reason for token in running][-1] in ("stop", "length")
        assert [token.finish_reason for token in waiting] == ["cancelled"]


class Even:
    """Allows even ids only, and after thirty of them the end."""

    def __init__(self, ends: Iterable[int]) -> None:
        self.ends, self.seen = list(ends), list[int]()

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        masked = np.full_like(logits, -np.inf)
        masked[::2] = logits[::2]
        masked[self.ends] = logits[self.ends] if len(self.seen) >= 30 else -np.inf
        return masked

    def accept(self, token: int) -> None:
        self.seen.append(token)


@pytest.mark.parametrize("kind", ["onnx", "gguf"])
@pytest.mark.parametrize("mode", ["mtp", "ngram"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_constraint_holds_and_drafts_change_no_token_under_it(
    nano_int4: dict[str, Path], kind: str, mode: Any, temperature: float
) -> None:
    config = GenerationConfig(temperature=temperature, seed=5, max_tokens=60)
    with (
        load(nano_int4[kind], threads=1, speculate="off") as plain,
        load(nano_int4[kind], threads=1, speculate=mode, cache=False) as drafting,
    ):
        drafted = 0
        for question in ("What is 348 + 27 * 6?", "What is 5 + 5 + 5 + 5?"):
            found = []
            for model in (plain, drafting):
                constraint = Even(plain.tokenizer.stop_ids)
                tokens = list(model.generate([Message("user", question)], config, constraint=constraint))
                assert constraint.seen == ids_of(iter(tokens)) and all(each % 2 == 0 for each in constraint.seen)
                found.append(constraint.seen)
                assert tokens[-1].stats is not None
                drafted += tokens[-1].stats.drafted_tokens
            assert found[0] == found[1] and len(found[0]) >= 30
        assert drafted > 0


def test_a_constraint_that_allows_nothing_is_an_error(path: Path) -> None:
    class Nothing(Even):
        def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.full_like(logits, -np.inf)

    with load(path, speculate="off") as model, pytest.raises(SessionError, match="allows no token at all"):
        list(model.generate(IDS, GREEDY, constraint=Nothing([0])))


class Scripted:
    """A backend of a test's own: rows of given logits, one after the other."""

    context_length, kv_bytes_per_token, mtp = 64, 0, None

    def __init__(self, rows: Sequence[NDArray[np.float32]], size: int) -> None:
        self.rows, self.size, self.closed, self.pause = list(rows), size, 0, 0.0
        self.in_run = False

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        assert not self.closed, "use after free"
        self.in_run = True
        ends = time.monotonic() + self.pause
        while time.monotonic() < ends:
            if cancel.is_set():
                self.in_run = False
                raise Cancelled
            time.sleep(0.001)
        self.in_run = False
        return self.rows[min(position + len(ids) - 1, len(self.rows) - 1)][None]

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return np.stack(self.rows[: len(ids)])

    def state(self, tokens: int) -> BackendState:
        return BackendState(tokens, {})

    def restore(self, state: BackendState) -> None:
        pass

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        assert not self.in_run, "freed during a run"
        self.closed += 1


def scripted(values: Sequence[float], tiny_onnx: Path) -> tuple[Model, Scripted]:
    from mimo_mobile.runtime.text.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.from_file(tiny_onnx / "tokenizer.json")
    rows = [np.full(tokenizer.size, value, np.float32) for value in values]
    for row in rows:
        row[7] += 1
    backend = Scripted(rows, tokenizer.size)
    own: Backend = backend
    return Model(own, tokenizer), backend


def test_a_backend_of_ones_own_can_be_driven(tiny_onnx: Path) -> None:
    model, backend = scripted([0, 0, 0], tiny_onnx)
    with model:
        assert ids_of(model.generate([1], replace(GREEDY, max_tokens=5))) == [7] * 5
        assert model.logits([1, 2]).shape == (2, model.tokenizer.size)
    assert backend.closed == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_are_no_numbers_are_an_error_that_says_so(tiny_onnx: Path, bad: float, temperature: float) -> None:
    model, _ = scripted([0, 0, bad], tiny_onnx)
    session, seen = model.session(), list[int]()
    with pytest.raises(NumericsError, match="NaN or infinity for token 3 of the answer"):
        for token in session.generate([1], GenerationConfig(temperature=temperature, seed=1)):
            seen += [] if token.token_id is None else [token.token_id]
    assert len(seen) == 2 and session.tokens == []


@pytest.mark.parametrize("bad", [1e-320, 1e-9, float("inf"), float("nan"), -1.0])
def test_a_temperature_that_would_overflow_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        GenerationConfig(temperature=bad)


def test_closing_waits_for_a_run_and_for_no_reader(tiny_onnx: Path) -> None:
    model, backend = scripted([0], tiny_onnx)
    abandoned = model.generate([1], GREEDY)
    next(abandoned)  # and never read again, nor closed
    closer = threading.Thread(target=model.close)
    closer.start()
    closer.join(60)
    assert not closer.is_alive() and backend.closed == 1
    assert [token.finish_reason for token in abandoned] == ["cancelled"]


def test_closing_from_the_loop_that_reads_ends_it(path: Path) -> None:
    with load(path, threads=1, speculate="off") as model:
        reasons = []
        for token in model.generate(IDS, replace(GREEDY, temperature=1.0, max_tokens=500)):
            model.close()
            reasons.append(token.finish_reason)
    assert reasons[-1] in ("cancelled", "stop")


def test_closing_while_another_thread_reads_never_frees_under_a_run(tiny_onnx: Path) -> None:
    for number in range(60):
        model, backend = scripted([0], tiny_onnx)
        backend.pause = 0.002
        ended, reader_is_on = list[str | None](), threading.Event()

        def read(model: Model = model, ended: list[str | None] = ended, on: threading.Event = reader_is_on) -> None:
            on.set()
            try:
                ended.append([token.finish_reason for token in model.generate([1], GREEDY)][-1])
            except SessionError as error:
                ended.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        reader_is_on.wait()
        time.sleep(0.0003 * (number % 20))
        model.close()
        reader.join(60)
        assert not reader.is_alive() and backend.closed == 1
        assert ended[0] in ("cancelled", "length") or "closed" in str(ended[0])


def _child(model: Model, pipe: Any) -> None:
    try:
        pipe.send(ids_of(model.generate(IDS, GREEDY)))
    except SessionError as error:
        pipe.send(str(error))
    model.close()  # neither waits for locks nor frees what is the parent's
    pipe.send("closed")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_gets_an_error_instead_of_waiting_for_threads_that_are_not_there(path: Path) -> None:
    with load(path, threads=2, speculate="off") as model:
        expected = ids_of(model.generate(IDS, GREEDY))
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_child, args=(model, theirs))
        child.start()
        assert ours.poll(60), "the child hangs"
        assert "is a fork without its threads" in ours.recv()
        assert ours.poll(60) and ours.recv() == "closed"
        child.join(60)
        assert child.exitcode == 0
        assert ids_of(model.session().generate(IDS, GREEDY)) == expected


def _loading_child(path: Path, pipe: Any) -> None:
    try:
        with load(path, threads=2, speculate="off") as model:
            pipe.send(ids_of(model.generate(IDS, GREEDY)))
    except SessionError as error:
        pipe.send(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_that_loads_a_gguf_file_anew_is_told_to_be_spawned(tiny_gguf: Path) -> None:
    with load(tiny_gguf, threads=2, speculate="off") as model:
        assert ids_of(model.generate(IDS, GREEDY))
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_loading_child, args=(tiny_gguf, theirs))
    child.start()
    assert ours.poll(60), "the child hangs"
    assert "start processes with multiprocessing's 'spawn'" in ours.recv()
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize("wrong", [{"speculate": "x"}, {"kv_dtype": "f8"}, {"ep": "foo"}, {"threads": 513}])
def test_a_load_option_that_is_none_of_the_choices_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} .* expected"):
        LoadConfig(**wrong)


def test_costs_are_measured_when_a_model_is_loaded(path: Path) -> None:
    with load(path, threads=1, cache=False) as model:
        assert model.speculator is not None and len(model.speculator.costs.rows_s) > 1
        stats = list(model.generate(IDS, GREEDY))[-1].stats
        assert stats is not None and stats.time_to_first_token_s < sum(model.speculator.costs.rows_s) + 5
