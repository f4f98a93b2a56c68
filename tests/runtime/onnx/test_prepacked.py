"""Prepacked weights on disk: same tokens, one entry a model, and no run or process can leave a bad one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from mimo_mobile import cache as kept
from mimo_mobile import files
from mimo_mobile.cli import main
from mimo_mobile.hub import resolve
from mimo_mobile.layout import REFERENCE
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


def damage(path: Path) -> None:
    """Zero bytes in the middle of a file, whose size and time of modification stay."""
    state = path.stat()
    with path.open("r+b") as handle:
        handle.seek(state.st_size // 2)
        handle.write(bytes(state.st_size // 4))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)


def silent_copy(model: Path, to: Path) -> None:
    """A copy that does not say what it computes: the self-test at first use would refuse it once it is damaged."""
    shutil.copytree(model, to)
    (to / REFERENCE).unlink()


def test_a_changed_model_takes_the_place_of_the_old_entry(quantized: Path, cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "changing-onnx"
    silent_copy(quantized, model)
    before = text(model)
    (old,) = entries(cache)
    damage(model / "model.onnx.data")
    changed = text(model)
    (new,) = entries(cache)
    assert new != old and before != changed == text(model, cache=False)


def test_a_touched_or_moved_back_model_keeps_its_entry(quantized: Path, cache: Path, tmp_path: Path) -> None:
    text(quantized)
    before = entries(cache), entries(cache)[0].stat().st_ino
    os.utime(quantized / "model.onnx.data")
    quantized.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(quantized)
    text(quantized)
    assert before == (entries(cache), entries(cache)[0].stat().st_ino)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_damaged_entry_is_noticed_before_it_is_used_and_made_anew(
    quantized: Path, cache: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    plain = text(quantized)
    (made,) = entries(cache)
    damage(made.with_name(name))
    assert text(quantized) == plain and "not what was saved; it is made anew" in caplog.text
    (again,) = entries(cache)
    assert text(quantized) == plain and again == made


def test_an_entry_of_another_model_is_not_used(quantized: Path, cache: Path, tmp_path: Path) -> None:
    plain, other = text(quantized), tmp_path / "other-onnx"
    (ours,) = [each.parent for each in entries(cache)]
    silent_copy(quantized, other)
    damage(other / "model.onnx.data")
    wrong = text(other)
    (theirs,) = [each.parent for each in entries(cache) if each.parent != ours]
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    assert text(quantized) == plain != wrong


def test_a_large_entry_is_read_whole_once_and_again_when_it_was_copied(
    quantized: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sha256 = list[str](), files.sha256

    def reading(path: Path, *others: Any) -> str:
        read.append(path.name)
        return sha256(path, *others)

    monkeypatch.setattr(files, "sha256", reading)
    text(quantized)
    assert read.count("model.onnx.data") == 2  # the model's and, as it is saved, the entry's
    read.clear()
    text(quantized)
    assert "model.onnx.data" not in read
    shutil.copytree(cache, tmp_path / "copied")
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "copied"))
    text(quantized)
    assert read.count("model.onnx.data") == 1
    text(quantized)
    assert read.count("model.onnx.data") == 1


def test_an_entry_that_cannot_be_loaded_is_dropped_and_the_model_loaded_without_it(
    quantized: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = text(quantized)
    (made,) = entries(cache)
    made.write_bytes(b"no graph")
    record = kept.read_record(made.with_name("entry.json"))
    kept.write_record(made.parent, replace(record, files=kept.Sums.of(made)))
    assert text(quantized) == plain
    assert "cannot be loaded, made anew next time" in caplog.text and not entries(cache)
    assert text(quantized) == plain and entries(cache)


def test_weights_in_another_file_than_the_one_that_is_hashed_get_no_entry(
    quantized: Path, cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other-onnx"
    shutil.copytree(quantized, other)
    graph = (other / "model.onnx").read_bytes()
    assert b"model.onnx.data" in graph
    (other / "model.onnx").write_bytes(graph.replace(b"model.onnx.data", b"model.onnx.aaaa", 1))
    shutil.copy(other / "model.onnx.data", other / "model.onnx.aaaa")
    assert prepacked.place(onnxruntime, other / "model.onnx") is None
    assert text(other) == text(quantized) and len(entries(cache)) == 1


def test_while_another_process_makes_it_a_model_loads_without(quantized: Path, cache: Path) -> None:
    text(quantized)
    (made,) = entries(cache)
    place = prepacked.place(onnxruntime, quantized / "model.onnx")
    assert place is not None and place.folder == made.parent
    prepacked.discard(place)
    with files.locked(made.parent.parent):
        assert text(quantized)
    assert not entries(cache)


def test_an_entry_that_another_process_made_meanwhile_is_taken(quantized: Path, cache: Path) -> None:
    place = prepacked.place(onnxruntime, quantized / "model.onnx")
    text(quantized)
    before = entries(cache)[0].stat().st_ino
    assert place is not None
    assert prepacked.make(onnxruntime, place, 1, onnxruntime.SessionOptions()) == entries(cache)[0].parent
    assert entries(cache)[0].stat().st_ino == before


def test_a_model_goes_on_when_its_entry_is_removed_while_it_is_loaded(quantized: Path, cache: Path) -> None:
    plain = text(quantized)
    with load(quantized, speculate="off") as session:
        assert kept.clear() > 0 and not entries(cache)
        assert "".join(token.text for token in session.generate("What is 12 + 30?", GREEDY)) == plain


def test_without_room_on_the_disk_a_model_loads_without_and_no_other_entry_goes(
    quantized: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text(quantized)
    before, other = entries(cache), tmp_path / "other-onnx"
    shutil.copytree(quantized, other)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(prepacked, "GROWTH", 4.5)
    limit = int(4.5 * prepacked.weight_bytes(other / "model.onnx")) + 1  # enough, if what is there went
    monkeypatch.setenv("MIMO_CACHE_LIMIT", str(limit))
    assert text(other)
    assert "GB needed" in caplog.text and entries(cache) == before  # nothing went for what could not come


def test_a_run_killed_while_it_saves_leaves_no_entry(quantized: Path, cache: Path) -> None:
    script = (
        "import os, onnxruntime as ort, pathlib, sys\n"
        "from mimo_mobile import files\n"
        "from mimo_mobile.runtime.onnx import prepacked\n"
        "prepacked.LEAST_BYTES = 0\n"
        "files._flush = lambda path: path.is_dir() and os.kill(os.getpid(), 9)\n"
        "place = prepacked.place(ort, pathlib.Path(sys.argv[1]))\n"
        "prepacked.make(ort, place, 1, ort.SessionOptions())\n"
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
    monkeypatch.setattr(kept, "write_record", fail)
    assert text(quantized) == plain
    assert entries(cache) == [] and "cannot keep prepacked weights" in caplog.text


def test_a_damaged_entry_that_cannot_be_removed_loads_plainly(
    quantized: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = text(quantized)
    (made,) = entries(cache)
    made.write_bytes(b"damaged")

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
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
    damage(changed / "model.onnx.data")
    text(quantized)
    (left,) = entries(cache)
    assert kept.read_record(left.with_name("entry.json")).model == str(quantized / "model.onnx")


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
    plain, lstat = text(quantized), Path.lstat

    def refused_in_the_cache(path: Path) -> os.stat_result:
        if path.is_relative_to(cache):
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", refused_in_the_cache)
    assert text(quantized) == plain


def test_a_touched_graph_is_the_same_model_and_what_a_killed_write_left_goes(quantized: Path, cache: Path) -> None:
    text(quantized)
    os.utime(quantized / "model.onnx")
    assert [each.unused for each in kept.entries() if each.kind == "prepacked"] == [False]
    left = entries(cache)[0].parent.parent / ".0123456789abcdef.7.partial"
    left.mkdir()
    (left / "model.onnx").write_bytes(bytes(100))
    kept.clear(unused_only=True)
    assert not left.exists() and len(entries(cache)) == 1
