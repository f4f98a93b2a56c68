"""What is drafted, and how much: the policy alone, on made-up costs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mimo_mobile.hub import resolve
from mimo_mobile.runtime import GenerationConfig
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.decode.pace import Costs, Pace
from mimo_mobile.runtime.decode.speculator import Draft, Lookup, Rate, Speculator, Success
from mimo_mobile.runtime.text.thinking import ThinkingSplitter
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.from_file(resolve("nano").path / "tokenizer.json")
GREEDY = GenerationConfig(temperature=0, max_tokens=200)


def test_lookup_finds_what_followed_last() -> None:
    lookup = Lookup()
    lookup.reset([1, 2, 3, 4, 9, 1, 2, 3, 5, 8, 1, 2])
    assert lookup.following(4) == []
    lookup.append(3)
    assert lookup.following(4) == [5, 8, 1, 2] and lookup.following(1) == [5]
    lookup.append(7)
    assert lookup.following(4) == []


def test_padding_is_added_where_more_rows_are_cheaper() -> None:
    pace = Pace((1.0, 1.8, 1.9, 1.5, 2.0))
    assert pace.cheapest(1) == (0, 1.0)
    assert pace.cheapest(2) == (2, 1.5)
    assert pace.cheapest(4) == (0, 1.5) and pace.cheapest(5) == (0, 2.0)


def test_the_pace_follows_what_runs_take_now() -> None:
    pace = Pace((1.0, 1.1))
    for _ in range(60):
        pace.learn(2, 2.2)  # all is half as fast, and only two rows are run
    assert pace.cheapest(2)[1] == pytest.approx(2.2, rel=0.01)
    assert 1.5 < pace.cheapest(1)[1] < 2.0
    pace = Pace((1.0, 1.1))
    for _ in range(30):
        pace.learn(2, 1.6)  # another program takes the second core: rows are no longer nearly free
        pace.learn(1, 1.0)
    assert pace.cheapest(2)[1] / pace.cheapest(1)[1] > 1.35
    for _ in range(200):
        pace.learn(1, 1.0)  # long ago: worth a new look
    assert pace.cheapest(2)[1] == pytest.approx(1.1, rel=0.02)
    pace.learn(1, 1000.0)  # held up
    assert pace.cheapest(1)[1] < 1.4


class OneGuess:
    """An MTP head that always drafts token 0."""

    draft_ids = np.arange(1)
    calls = 0
    seconds = 0.0

    def draft(self, position: int, token: int) -> np.ndarray:
        self.calls += 1
        time.sleep(self.seconds)
        return np.zeros(1, np.float32)


def tokens_per_second(acceptance: float, costs: Costs, count: int = 4000) -> float:
    """Of a simulated generation in ``auto``, whose drafts are right so often, over going without."""
    generation = Generation(TOKENIZER, GREEDY, ThinkingSplitter())
    head = OneGuess()
    speculator = Speculator("auto", costs, head)  # type: ignore[arg-type]
    speculator.begin([])
    random, made, seconds, draft = np.random.Generator(np.random.PCG64(1)), 0, 0.0, Draft()
    unique = 10
    while made < count:
        run_s = costs.rows_s[len(draft.ids) + draft.padding]
        seconds += run_s
        right = 0
        for _ in range(len(draft.ids) + 1):
            unique += 1
            token = 0 if random.random() < acceptance else unique
            speculator.follow(token)
            made += 1
            if right == len(draft.ids) or token != draft.ids[right]:
                break
            right += 1
        speculator.learn(draft, right, run_s)
        draft = speculator.propose(generation, 0, token, 100)
    return made * costs.rows_s[0] / (seconds + head.calls * costs.draft_s)


@pytest.mark.parametrize("second_row", [1.1, 1.3, 1.7])
@pytest.mark.parametrize("acceptance", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_auto_is_never_much_slower_and_uses_what_pays(acceptance: float, second_row: float) -> None:
    costs = Costs(tuple([1.0] + [second_row + 0.1 * more for more in range(7)]), 0.1)
    found = tokens_per_second(acceptance, costs)
    always = (1 + acceptance) / (second_row + 0.1)
    assert found > 0.97 and found > 0.95 * always


def test_drafts_that_turn_out_to_cost_much_are_looked_at_rarely() -> None:
    head, generation = OneGuess(), Generation(TOKENIZER, GREEDY, ThinkingSplitter())
    head.seconds = 0.002  # of a step of 0.001, whatever was measured before
    speculator = Speculator("auto", Costs((0.001, 0.0011), 0.00001), head)  # type: ignore[arg-type]
    speculator.begin([])
    for token in range(10, 2010):
        speculator.follow(token)
        draft = speculator.propose(generation, 0, token, 100)
        speculator.learn(draft, 0, 0.001)
    assert head.calls < 30


@pytest.mark.parametrize(("held_up_s", "most"), [(0.004, 10), (0.00085, 45)])
def test_drafts_that_were_held_up_are_tried_again(held_up_s: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.85 ms a draft would not pay even if it were always right."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    head, generation = OneGuess(), Generation(TOKENIZER, GREEDY, ThinkingSplitter())
    speculator = Speculator("auto", Costs((0.001, 0.0011), 0.0004), head)  # type: ignore[arg-type]
    speculator.begin([])

    def text(tokens: range, run_s: float) -> int:
        before = head.calls
        for token in tokens:
            speculator.follow(token)
            draft = speculator.propose(generation, 0, token, 100)
            speculator.learn(draft, len(draft.ids), run_s * (1.1 if draft.ids else 1))
        return head.calls - before

    head.seconds = 0.0004
    assert text(range(10, 60), 0.001) > 40  # all right, and worth it
    head.seconds = held_up_s
    text(range(60, 140), 0.001)  # another program is in the way
    assert text(range(140, 200), 0.001) < most
    head.seconds = 0.0004
    text(range(200, 600), 0.001)
    assert text(range(600, 660), 0.001) > 40


def test_where_no_draft_could_pay_none_is_made() -> None:
    assert tokens_per_second(0.0, Costs((1.0, 1.4), 0.55)) == 1.0  # not even to see how right they are


def test_a_rate_follows_what_happens() -> None:
    rate = Rate(0.8)
    for _ in range(16):
        rate.learn(False)
    assert rate.value < 0.2
    for _ in range(200):
        rate.learn(True)
    assert rate.value > 0.98


def test_expected_tokens_tell_first_drafts_from_later_ones() -> None:
    success = Success(0.5)
    assert success.expected(0) == 1 and success.expected(2) == 1 + 0.5 + 0.25
    for _ in range(200):
        success.learn(drafted=4, accepted=0)  # the first is wrong; nothing is seen of later ones
    assert success.first.value < 0.01 and success.later.value == 0.5
    for _ in range(200):
        success.learn(drafted=2, accepted=1)
    assert success.first.value > 0.99 and success.later.value < 0.01
