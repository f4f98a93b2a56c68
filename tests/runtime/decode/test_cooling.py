"""Rests between tokens: as long as the heat asks for, no longer, and over at once when a generation is cancelled."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.errors import SessionError
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.runtime.decode.cooling import MOST_S, Cooling, Heat
from mimo_mobile.runtime.devices import threads
from mimo_mobile.runtime.devices.threads import Power, threads_for

IDS = [3, 50, 99, 200]


@pytest.mark.parametrize(
    ("heat", "power", "rest"),
    [
        ("none", "balanced", 0), ("light", "balanced", 0), ("moderate", "balanced", 1 / 3), ("severe", "balanced", 1),
        ("critical", "balanced", 3), ("none", "eco", 1 / 3), ("severe", "eco", 1), ("moderate", "burst", 0),
        ("severe", "burst", 1),
    ],
)  # fmt: skip
def test_the_share_of_rest_is_the_heats_and_the_powers(heat: Heat, power: Power, rest: float) -> None:
    assert Cooling(lambda: heat, power).due(0.5) == pytest.approx(0.5 * rest)


def test_the_heat_is_asked_once_a_second_at_most_and_a_rest_is_bounded() -> None:
    asked, now = list[float](), [0.0]
    cooling = Cooling(lambda: asked.append(now[0]) or "critical", clock=lambda: now[0])  # type: ignore[arg-type, return-value, func-returns-value]
    for now[0] in (0.0, 0.5, 0.9, 1.1, 2.0, 2.2):
        assert cooling.due(100.0) == MOST_S
    assert asked == [0.0, 1.1, 2.2]


def test_a_heat_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(SessionError, match="heat gave 'hot'; one of none, light, moderate, severe, critical expected"):
        Cooling(lambda: "hot").due(1)  # type: ignore[arg-type, return-value]


def test_a_hot_device_rests_gives_the_same_text_and_ends_a_rest_when_cancelled(nano_q4: dict[str, Path]) -> None:
    config, found = GenerationConfig(temperature=0, max_tokens=6), dict[Any, Any]()
    for heat in ("none", "critical"):
        with load(nano_q4["onnx"], speculate="off", heat=lambda heat=heat: heat) as model:  # type: ignore[misc]
            found[heat] = list(model.generate(IDS, config))
    assert [each.token_id for each in found["none"]] == [each.token_id for each in found["critical"]]
    assert found["none"][-1].stats.rested_s == 0 < found["critical"][-1].stats.rested_s
    cancelled = threading.Event()
    cancelled.set()
    assert Cooling(lambda: "critical").rest(100, cancelled) < MOST_S


def test_eco_takes_half_of_the_threads_and_burst_all_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(threads.SMALL_WEIGHTS_BYTES)  # a hole: it takes no room
    (tmp_path / "small").write_bytes(b"x")
    powers: tuple[Power, ...] = ("eco", "balanced", "burst")
    assert [threads_for(each, tmp_path / "large") for each in powers] == [4, 8, 8]
    assert [threads_for(each, tmp_path / "small") for each in powers] == [1, 1, 8]
