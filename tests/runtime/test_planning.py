"""What a model takes is told before it is loaded: right to a tenth, and with the settings that would fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.cli import main
from mimo_mobile.errors import BackendUnavailableError, BadArgumentError, MemoryFullError, ModelLoadError
from mimo_mobile.runtime import Plan, load, plan
from mimo_mobile.runtime.devices import memory
from tests.commands import runner

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("gguf", "onnx")


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, nano_q4: dict[str, Path]) -> Path:
    return nano_q4[request.param]


def needed(path: Path, **changes: Any) -> int:
    """What the preferred way takes."""
    return plan(path, **changes).ways[0].total_bytes


def with_room(monkeypatch: pytest.MonkeyPatch, available: int | None) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: available)


def test_a_plan_says_what_load_then_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(path)
    assert made.verdict == "fits" and made.need == made.ways[0] and not made.settings and made.need.drafts
    with_room(monkeypatch, min(each.total_bytes for each in made.ways))
    short = plan(path)
    assert short.verdict == "fits" and not short.need.drafts
    with load(path) as model, model.exclusive() as backend:
        assert backend.mtp is None and model.context_length == short.context_length


def test_what_fits_with_other_settings_is_named_and_fits_with_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, needed(path, context_length=1024, speculate="off"))
    made = plan(path, context_length=2048)
    assert made.verdict == "fits with other settings" and made.settings
    with pytest.raises(MemoryFullError, match="take a smaller recipe, or close other programs"):
        load(path, context_length=2048)
    with load(path, **{"context_length": 2048, **made.settings}) as model:
        assert model.context_length == made.context_length
    with_room(monkeypatch, 1_000_000)
    refused = plan(path)
    assert refused.verdict == "refused" and not refused.settings


def test_auto_takes_the_longest_context_that_leaves_a_tenth(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for context in (768, 1536):
        room = needed(path, context_length=context, speculate="off") / memory.KNOWN_WITHIN
        with_room(monkeypatch, int(room) + 1)
        with load(path, context_length="auto", speculate="off") as model:
            assert model.context_length == plan(path, context_length="auto", speculate="off").context_length == context
    with_room(monkeypatch, 10**12)
    trained = plan(path, context_length="auto").context_length
    with pytest.raises(ModelLoadError, match=f"the model was trained for {trained}"):
        load(path, context_length=trained + 1)


def test_nobody_knows_the_memory_and_a_usual_context_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, None)
    assert plan(path, context_length="auto").context_length <= 4096
    assert plan(path).verdict == "fits"


def test_what_a_plan_is_not_for_is_an_error(path: Path) -> None:
    with pytest.raises(BadArgumentError, match="device 'phone-7gb' found; one of phone-6gb"):
        plan(path, device="phone-7gb")
    with pytest.raises(BadArgumentError, match="context_length 'most' is unknown; one of auto expected"):
        plan(path, context_length="most")
    with pytest.raises(BackendUnavailableError):
        plan(path, ep="qnn")


def test_the_command_prints_the_table_the_verdict_and_json(path: Path) -> None:
    said = runner().invoke(main, ["plan", str(path), "--context-length", "auto", "--device", "phone-6gb"])
    assert said.exit_code == 0, said.output
    assert "memory on phone-6gb, 3.54 GB available" in " ".join(said.stdout.split())  # the title may need two lines
    assert "fits with" in said.stdout.splitlines()[-1]
    found = json.loads(runner().invoke(main, ["plan", str(path), "--json"]).stdout)
    assert found["verdict"] == "fits" and found["need"]["kv_bytes"] > 0
    wrong = runner().invoke(main, ["plan", str(path), "--context-length", "most"])
    assert wrong.exit_code == 2 and "a number of tokens or auto expected" in wrong.stderr


def test_the_command_fails_when_nothing_fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 1_000_000)
    said = runner().invoke(main, ["plan", str(path)])
    assert said.exit_code == 1 and said.stdout.splitlines()[-1].startswith("does not fit: ")


@pytest.mark.slow
def test_memory_is_what_was_planned_to_a_tenth_at_7b_shapes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.fit",
        "--layers",
        "2",
        "--most",
        "2",
        "--work",
        str(tmp_path),
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=True)
    rows = json.loads(done.stdout)
    assert len(rows) == 4  # the benchmark's other settings take minutes
    for row in rows:
        assert abs(row["private"] - row["private_planned"]) <= 0.1 * row["private"], row
        assert abs(row["file"] - row["file_planned"]) <= 0.1 * row["file"], row


def test_a_plan_is_a_value(path: Path) -> None:
    assert isinstance(plan(path), Plan) and plan(path, device="phone-8gb") == plan(path, device="phone-8gb")
