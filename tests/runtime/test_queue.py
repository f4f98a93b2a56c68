"""Generations that wait for their turn on a model: in order, and out of the queue when they are cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_mobile.errors import SessionError
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Model, Session, load

GREEDY = GenerationConfig(temperature=0, max_tokens=12)
IDS = [3, 50, 99, 200, 17, 41, 8, 301]


@pytest.fixture(params=["gguf", "onnx"])
def model(request: pytest.FixtureRequest, nano_q4: dict[str, Path]) -> Iterator[Model]:
    with load(nano_q4[request.param], threads=1, speculate="off", queue=True) as made:
        yield made


class Asker:
    """A thread that asks a session, and what came of it: records, or an error."""

    def __init__(self, session: Session, config: GenerationConfig = GREEDY) -> None:
        self.session, self.config = session, config
        self.records, self.error = list[GeneratedToken](), ""
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        try:
            for record in self.session.generate(IDS, self.config):
                self.records.append(record)
        except SessionError as error:
            self.error = str(error)

    @property
    def ids(self) -> list[int | None]:
        return [each.token_id for each in self.records]

    def over(self) -> Asker:
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self


def until(model: Model, waiting: int) -> None:
    """Wait until so many wait."""
    ends = time.monotonic() + 30
    while len(model.turns._waiters) != waiting:
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_those_who_wait_come_in_order_and_get_what_each_would_get_alone(model: Model) -> None:
    alone = [each.token_id for each in model.session().generate(IDS, GREEDY)]
    first, order = model.session().generate(IDS, GREEDY), list[int]()
    found = [next(first).token_id]
    askers = list[Asker]()
    for place in range(4):
        session = model.session()
        take_back = session.take_back
        session.take_back = lambda backend, place=place, old=take_back: (order.append(place), old(backend))  # type: ignore[method-assign, misc]
        askers.append(Asker(session))
        until(model, place + 1)
    assert found + [each.token_id for each in first] == alone
    assert [asker.over().ids for asker in askers] == [alone] * 4
    assert order == [0, 1, 2, 3]


def test_who_was_cancelled_in_the_queue_may_wait_again(model: Model) -> None:
    reading, patient, asked = model.session().generate(IDS, GREEDY), model.session(), list[list[GeneratedToken]]()
    next(reading)

    def ask_twice() -> None:
        asked.extend(list(patient.generate(IDS, GREEDY)) for _ in range(2))

    thread = threading.Thread(target=ask_twice, daemon=True)
    thread.start()
    until(model, 1)
    patient.cancel()
    ends = time.monotonic() + 30
    while len(asked) < 1 or len(model.turns._waiters) != 1:
        assert thread.is_alive() and time.monotonic() < ends, "it was told that it would wait for itself"
        time.sleep(0.001)
    expected = [each.token_id for each in reading]
    thread.join(30)
    assert [each.finish_reason for each in asked[0]] == ["cancelled"]
    assert [each.token_id for each in asked[1]][1:] == expected


def test_who_is_cancelled_in_the_queue_leaves_it_and_the_others_go_on(model: Model) -> None:
    first = model.session().generate(IDS, GREEDY)
    next(first)
    askers = [Asker(model.session()) for _ in range(3)]
    until(model, 3)
    askers[1].session.cancel()
    (last,) = askers[1].over().records
    assert last.finish_reason == "cancelled" and last.token_id is None
    first.close()
    assert [askers[place].over().records[-1].finish_reason for place in (0, 2)] == ["stop"] * 2


def test_closing_tells_all_who_wait(model: Model) -> None:
    first = model.session().generate(IDS, GREEDY)
    next(first)
    askers = [Asker(model.session()) for _ in range(3)]
    until(model, 3)
    model.close()
    assert [asker.over().error for asker in askers] == ["the model is closed; load it again"] * 3
    assert [each.finish_reason for each in first] == ["cancelled"]
    model.close()


def test_a_thread_does_not_wait_for_itself(model: Model) -> None:
    first = model.session().generate(IDS, GREEDY)
    next(first)
    with pytest.raises(SessionError, match="a generation of this same thread, which would wait for itself"):
        list(model.session().generate(IDS, GREEDY))
    with pytest.raises(SessionError, match="of this same thread"):
        model.logits(IDS)
    first.close()
    assert model.logits(IDS).shape[0] == len(IDS)


def test_a_stream_that_is_dropped_gives_its_turn_to_who_waits(model: Model) -> None:
    streams = [model.session().generate(IDS, GREEDY)]
    next(streams[0])
    asker = Asker(model.session())
    until(model, 1)
    streams.clear()
    assert asker.over().records[-1].finish_reason == "stop"


def test_a_generation_ends_when_its_time_is_up_while_it_waits_and_while_it_computes(model: Model) -> None:
    first = model.session().generate(IDS, GREEDY)
    next(first)
    hasty = Asker(model.session(), GenerationConfig(temperature=0, max_tokens=12, timeout=0.01)).over()
    assert [(each.finish_reason, each.notice) for each in hasty.records] == [("cancelled", "timed_out")]
    first.close()
    slow = model.session().generate(IDS, GenerationConfig(temperature=0, max_tokens=12, timeout=0.2))
    next(slow)
    time.sleep(0.3)
    assert [(each.finish_reason, each.notice) for each in slow] == [("cancelled", "timed_out")]
    patient = list(model.session().generate(IDS, GenerationConfig(temperature=0, max_tokens=12, timeout=600)))
    assert (patient[-1].finish_reason, patient[-1].notice) == ("stop", None)
