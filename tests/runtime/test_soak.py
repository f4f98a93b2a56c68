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
SOAK_S = int(os.environ.get("MIMO_TEST_SOAK_S", "10"))
"""How many requests wait in queues, how often models are loaded and closed, and how many seconds they are used at
random with each drafter: 8000, 500 and 60 for the whole of it."""


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
def test_eight_threads_use_a_model_at_random(nano_q4: dict[str, Path], kind: str, speculate: str) -> None:
    assert soak(nano_q4[kind], 3, speculate) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_eight_threads_use_a_model_at_random_for_long(nano_q4: dict[str, Path], kind: str) -> None:
    done = [soak(nano_q4[kind], SOAK_S, speculate, 167) for speculate in ("off", "ngram", "mtp")]
    assert sum(done) >= 500, f"{done} operations"


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
