"""A small model is computed by one thread and a large one by all cores, unless the caller says how many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.runtime import load
from mimo_mobile.runtime.devices import threads
from mimo_mobile.runtime.devices.threads import SMALL_WEIGHTS_BYTES, default_threads

MIMO_7B_Q4_0_BYTES = 4_290_000_000


def threads_of(model: Path, **options: int) -> int:
    """How many threads the engine itself says that it was told to use."""
    with load(model, cache=False, speculate="off", **options) as loaded, loaded.exclusive() as backend:
        engine: Any = backend
        if model.suffix == ".gguf":
            import llama_cpp

            return llama_cpp.llama_n_threads(engine._context._context)
        return int(engine._graph._session.get_session_options().intra_op_num_threads)


def test_one_thread_computes_what_is_smaller_than_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    graph, data, missing = tmp_path / "model.onnx", tmp_path / "model.onnx.data", tmp_path / "none"
    graph.write_bytes(bytes(1000))
    for size, expected in (SMALL_WEIGHTS_BYTES - 1001, 1), (SMALL_WEIGHTS_BYTES - 1000, 8), (MIMO_7B_Q4_0_BYTES, 8):
        with data.open("wb") as file:
            file.truncate(size)  # a hole: it takes no room
        assert default_threads(graph, data) == expected
    assert default_threads(missing) == 1


@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_both_engines_follow_the_rule(
    monkeypatch: pytest.MonkeyPatch, nano_gguf: Path, nano_onnx: Path, kind: str
) -> None:
    model = {"gguf": nano_gguf, "onnx": nano_onnx}[kind]
    monkeypatch.setattr(threads, "physical_cores", lambda: 3)
    assert threads_of(model) == 1
    assert threads_of(model, threads=2) == 2
    monkeypatch.setattr(threads, "SMALL_WEIGHTS_BYTES", 1)
    assert threads_of(model) == 3
