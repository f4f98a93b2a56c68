"""Random use by many threads, in a process of its own: it must neither die nor hang, and no text may be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


QUEUED = int(os.environ.get("MIMO_TEST_REQUESTS", "400"))
CYCLES = int(os.environ.get("MIMO_TEST_CYCLES", "100"))
"""How many requests wait in queues, and how often models are loaded and closed: 8000 and 500 for the whole of it."""


def soak(model: Path, seconds: float, speculate: str, requests: int | None = None) -> int:
    """Soak a model; how many operations were done."""
    command = [sys.executable, "-X", "dev", "-m", "tests.runtime.soak", str(model), str(seconds), speculate]
    command += [] if requests is None else [str(requests)]
    timeout = 3 * seconds + 120 + (requests or 0)
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    found = json.loads(done.stdout)
    assert not found["wrong"] and found["done"]["loads"] >= 2
    return int(found["operations"])


@pytest.mark.parametrize(("kind", "speculate"), [("gguf", "mtp"), ("onnx", "ngram")])
def test_eight_threads_use_a_model_at_random_for_some_seconds(
    nano_q4: dict[str, Path], kind: str, speculate: str
) -> None:
    assert soak(nano_q4[kind], 5, speculate) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_eight_threads_use_a_model_at_random_for_three_minutes(nano_q4: dict[str, Path], kind: str) -> None:
    done = [soak(nano_q4[kind], seconds, speculate) for seconds, speculate in ((60, "off"), (60, "ngram"), (60, "mtp"))]
    assert sum(done) >= 500, f"{done} operations"  # 1,900 to 7,500 were done beside other work


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_eight_threads_queue_for_a_model_and_none_is_told_that_it_is_busy(nano_q4: dict[str, Path], kind: str) -> None:
    assert soak(nano_q4[kind], 0, "off", QUEUED) >= QUEUED


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_memory_stays_as_it_is_when_models_come_and_go(nano_q4: dict[str, Path], kind: str) -> None:
    command = [sys.executable, "-m", "tests.runtime.cycles", str(nano_q4[kind]), str(CYCLES)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120 + 2 * CYCLES, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
