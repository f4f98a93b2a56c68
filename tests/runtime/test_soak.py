"""Random use by many threads, in a process of its own: it must neither die nor hang, and no text may be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def soak(model: Path, seconds: float, speculate: str) -> int:
    """Soak a model; how many operations were done."""
    command = [sys.executable, "-X", "dev", "-m", "tests.runtime.soak", str(model), str(seconds), speculate]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=3 * seconds + 120, check=False
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
