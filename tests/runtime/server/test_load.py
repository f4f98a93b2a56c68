"""Fifty clients at once on one server: some leave, some read slowly, the rest get what the runtime gives alone."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from mimo_mobile.runtime import GenerationConfig, Model
from tests.runtime.server.conftest import Served, serving
from tests.runtime.server.test_server import own_answer, until

CLIENTS, REQUESTS = 50, 6
QUESTIONS = ("What is 348 + 27 * 6?", "Solve 7x + 12 = 3x + 52.", "What is 779 - 343?", "What is 5 + 5 + 5 + 5?")


@pytest.mark.slow
def test_fifty_clients_that_come_and_go_get_right_answers_or_are_told_to_come_again(model: Model) -> None:
    expected, before = {}, set(threading.enumerate())
    for question in QUESTIONS:
        expected[question] = own_answer(model, GenerationConfig(temperature=0), [{"role": "user", "content": question}])
    outcomes: Counter[str] = Counter()

    def ask(running: Served, number: int) -> None:
        dice = random.Random(number)
        for _ in range(REQUESTS):
            question = dice.choice(QUESTIONS)
            asked: Any = {"model": "nano", "messages": [{"role": "user", "content": question}], "temperature": 0}
            how = dice.choice(["whole", "stream", "slowly", "leave"])
            try:
                if how == "whole":
                    found = running.client.chat.completions.create(**asked).choices[0].message.content
                else:
                    found = streamed(running, asked, how, dice)
            except openai.RateLimitError as error:
                assert int(error.response.headers["retry-after"]) >= 1
                outcomes["told to come again"] += 1
                time.sleep(dice.random())
                continue
            assert found in (expected[question][1], None), (found, expected[question])
            outcomes[how] += 1

    with serving(model, queue=20, sessions=3) as running, ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(ask, running, number) for number in range(CLIENTS)]:
            done.result(timeout=300)
        until(lambda: running.metric("mimo_requests_waiting") == running.metric("mimo_requests_running") == 0)
        assert running.http.get("/health").status_code == 200
    assert sum(outcomes.values()) == CLIENTS * REQUESTS
    assert min(outcomes[how] for how in ("whole", "stream", "slowly", "leave", "told to come again")) > 0, outcomes
    assert not {each for each in threading.enumerate() if each.name == "mimo-serve"} - before


def streamed(running: Served, asked: Any, how: str, dice: random.Random) -> str | None:
    """The answer of a stream; None when the client left it."""
    text = ""
    with running.client.chat.completions.create(**asked, stream=True) as chunks:
        for place, chunk in enumerate(chunks):
            if how == "leave" and place == dice.randrange(1, 8):
                return None
            if how == "slowly":
                time.sleep(0.01)
            text += chunk.choices[0].delta.content or ""
    return text
