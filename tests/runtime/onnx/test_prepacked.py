"""Prepacked weights on disk: same tokens, one entry a model, and no run or process can leave a bad one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from mimo_mobile import cache as kept
from mimo_mobile import files
from mimo_mobile.cli import main
from mimo_mobile.hub import resolve
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.runtime.onnx import prepacked
from tests.commands import runner

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


LIMITED = """if True:
    import logging, resource, sys
    from mimo_mobile.runtime import GenerationConfig, load
    from mimo_mobile.runtime.onnx import prepacked

    prepacked.LEAST_BYTES = 0
    logging.basicConfig(format="%(message)s")
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    with load(sys.argv[1], speculate="off") as model:
        greedy = GenerationConfig(temperature=0, max_tokens=24)
        print("".join(token.text for token in model.generate("What is 12 + 30?", greedy)), end="")
"""


def test_a_write_that_fails_half_way_costs_a_warning_and_not_the_model(quantized: Path, cache: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(quantized)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == text(quantized, cache=False)
    assert "prepacked" in result.stderr and len(result.stderr.strip().splitlines()) <= 2
    assert text(quantized) == result.stdout and len(entries(cache)) == 1  # the next one, without the limit, can


@pytest.mark.parametrize("error", [RuntimeError("[ONNXRuntimeError] : 1 : FAIL : write failed"), OSError(28, "full")])
def test_a_failure_to_save_of_any_kind_loads_plainly(
    quantized: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    plain = text(quantized, cache=False)
    monkeypatch.setattr(prepacked, "write_record", fail)
    assert text(quantized) == plain
    assert entries(cache) == [] and "cannot keep prepacked weights" in caplog.text


def test_a_damaged_entry_that_cannot_be_removed_loads_plainly(
    quantized: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = text(quantized)
    (made,) = entries(cache)
    made.write_bytes(b"damaged")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(files, "remove", refuse)
    assert text(quantized) == plain


def test_copies_of_models_that_are_gone_or_changed_go_when_another_is_made(
    quantized: Path, cache: Path, tmp_path: Path
) -> None:
    gone, changed = tmp_path / "gone-onnx", tmp_path / "changed-onnx"
    for each in (gone, changed):
        shutil.copytree(quantized, each)
        text(each)
    assert len(entries(cache)) == 2
    shutil.rmtree(gone)
    os.utime(changed / "model.onnx.data", ns=(1, 1))
    text(quantized)
    (left,) = entries(cache)
    assert kept.read_record(left.with_name("entry.json"))[0] == str(quantized / "model.onnx")


def test_the_cache_stays_below_its_limit_and_the_longest_unused_goes_first(
    quantized: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [tmp_path / f"model-{number}" for number in range(3)]
    for each in models:
        shutil.copytree(quantized, each)
    text(models[0])
    text(models[1])
    for number, each in enumerate(reversed(kept.entries())):
        if each.kind == "prepacked":
            os.utime(each.path / "entry.json", (1000 + number, 1000 + number))
    text(models[0])  # used now
    size = max(each.size_bytes for each in kept.entries())
    monkeypatch.setenv("MIMO_CACHE_LIMIT", f"{int(2.6 * size)}B")
    text(models[2])
    left = {Path(each.model).parent for each in kept.entries() if each.kind == "prepacked"}
    assert left == {models[0], models[2]}
    monkeypatch.setenv("MIMO_CACHE_LIMIT", "10KB")
    text(models[1])
    assert {Path(each.model).parent for each in kept.entries() if each.kind == "prepacked"} == left


def test_a_limit_that_is_no_size_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for text_, size in (("20GB", 20e9), ("1.5 t", 1.5e12), ("7", 7), ("", kept.DEFAULT_LIMIT_BYTES)):
        monkeypatch.setenv("MIMO_CACHE_LIMIT", text_)
        assert kept.limit_bytes() == size
    monkeypatch.setenv("MIMO_CACHE_LIMIT", "much")
    with pytest.raises(ValueError, match="MIMO_CACHE_LIMIT is 'much'"):
        kept.limit_bytes()


def test_the_command_lists_and_clears(quantized: Path, cache: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved-onnx"
    shutil.copytree(quantized, moved)
    text(quantized)
    text(moved)
    shutil.rmtree(moved)
    listed = json.loads(runner().invoke(main, ["cache", "list", "--json"]).output)
    states = {each["model"]: each["unused"] for each in listed["entries"] if each["kind"] == "prepacked"}
    assert states == {str(quantized / "model.onnx"): False, str(moved / "model.onnx"): True}
    assert listed["size_bytes"] == sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert "gone or changed" in runner().invoke(main, ["cache", "list"]).output
    assert runner().invoke(main, ["cache", "clear", "--unused"]).exit_code == 0
    assert len(entries(cache)) == 1
    assert "freed" in runner().invoke(main, ["cache", "clear"]).output
    assert kept.entries() == []


def test_a_cache_that_cannot_be_read_loads_plainly(
    quantized: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, is_file = text(quantized, cache=False), Path.is_file

    def refused_in_the_cache(path: Path) -> bool:
        if path.is_relative_to(cache):
            raise PermissionError(
                13, "Permission denied", str(path)
            )  # as Python 3.11 does in a folder of another owner
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused_in_the_cache)
    assert text(quantized) == plain


def test_a_touched_graph_is_the_same_model_and_what_a_killed_write_left_goes(quantized: Path, cache: Path) -> None:
    text(quantized)
    os.utime(quantized / "model.onnx")
    assert [each.unused for each in kept.entries() if each.kind == "prepacked"] == [False]
    left = entries(cache)[0].parent.parent / ".key.7.partial"
    left.mkdir()
    (left / "model.onnx").write_bytes(bytes(100))
    kept.clear(unused_only=True)
    assert not left.exists() and len(entries(cache)) == 1
