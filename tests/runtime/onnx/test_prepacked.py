"""Prepacked weights on disk: same tokens, one entry a model, and no run or process can leave a bad one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from mimo_mobile import files
from mimo_mobile.hub import resolve
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.runtime.onnx import prepacked

GREEDY = GenerationConfig(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int4")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32"], problems=0)
    return out / "mimo-nano-int4_b32-onnx"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepacked, "LEAST_BYTES", 0)
    return tmp_path / "cache"


def text(model: Path, *, cache: bool = True) -> str:
    with load(model, cache=cache, speculate="off") as session:
        return "".join(token.text for token in session.generate("What is 12 + 30?", GREEDY))


def entries(cache: Path) -> list[Path]:
    return sorted(each for each in cache.glob("prepacked/*/*/model.onnx") if not each.parent.name.startswith("."))


def test_the_first_load_saves_and_the_second_maps_the_same_model(quantized: Path, cache: Path) -> None:
    plain = text(quantized, cache=False)
    assert not cache.exists()
    assert text(quantized) == plain
    (made,) = entries(cache)
    before = made.stat().st_mtime_ns
    assert text(quantized) == plain
    assert [made] == entries(cache) and made.stat().st_mtime_ns == before


def test_an_entry_holds_the_rearranged_weights(quantized: Path, cache: Path) -> None:
    text(quantized)
    (made,) = entries(cache)
    assert made.with_name("model.onnx.data").stat().st_size > 1.2 * (quantized / "model.onnx.data").stat().st_size


def test_a_changed_model_takes_the_place_of_the_old_entry(quantized: Path, cache: Path) -> None:
    text(quantized)
    (old,) = entries(cache)
    os.utime(quantized / "model.onnx.data")
    text(quantized)
    (new,) = entries(cache)
    assert new != old


def test_a_damaged_entry_is_dropped_and_the_model_loaded_without_it(
    quantized: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = text(quantized)
    (made,) = entries(cache)
    os.truncate(made.with_name("model.onnx.data"), 1000)
    assert text(quantized) == plain
    assert "made anew" in caplog.text and not entries(cache)
    assert text(quantized) == plain and entries(cache)


def test_while_another_process_makes_it_a_model_loads_without(quantized: Path, cache: Path) -> None:
    text(quantized)
    (made,) = entries(cache)
    prepacked.discard(onnxruntime, quantized / "model.onnx")
    with files.locked(made.parent.parent):
        assert text(quantized)
    assert not entries(cache)


def test_without_room_on_the_disk_a_model_loads_without(
    quantized: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepacked, "GROWTH", 1e9)
    assert text(quantized) and not entries(cache)
    assert "GB needed" in caplog.text


def test_a_run_killed_while_it_saves_leaves_no_entry(quantized: Path, cache: Path) -> None:
    script = (
        "import os, onnxruntime as ort, pathlib, sys\n"
        "from mimo_mobile import files\n"
        "from mimo_mobile.runtime.onnx import prepacked\n"
        "prepacked.LEAST_BYTES = 0\n"
        "files._flush = lambda path: os.kill(os.getpid(), 9)\n"
        "prepacked.prepare(ort, pathlib.Path(sys.argv[1]), ort.SessionOptions())\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(quantized / "model.onnx")], check=False)
    assert killed.returncode == -9 and not entries(cache)
    assert list(cache.glob("prepacked/*/.*.partial"))
    assert text(quantized) and entries(cache)
    assert not list(cache.glob("prepacked/*/.*.partial"))
