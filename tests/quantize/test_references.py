"""References agree with the float64 oracle and with transformers, and are kept so that no damage is believed."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile import cache, cache_folder
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import NumericsError
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import forward, measures, references
from mimo_mobile.quantize.measures import compare, top_rows
from mimo_mobile.quantize.texts import Window
from mimo_mobile.runtime import load
from tests import reference
from tests.data import nano_logits
from tests.tiny import tiny_weights, write_tiny_checkpoint, write_weights

ROOT = Path(__file__).resolve().parents[2]

WINDOWS = [Window(tuple(range(30, 90)), 29), Window(tuple(range(200, 240)), 0)]


@pytest.fixture(scope="module")
def checkpoint(nano: Source) -> Checkpoint:
    return Checkpoint.open(nano.path)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir(0o700)
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    cache_folder.tell.cache_clear()
    found = references.place("a model", "1234", ("text", WINDOWS))
    assert found is not None
    return found


def test_a_checkpoint_predicts_what_the_float64_oracle_does(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "HEAD_WEIGHTS", 50_000)  # so that the head comes in many pieces
    rows = references.of_checkpoint(checkpoint, WINDOWS)
    weights = reference.load_weights(checkpoint)
    logits = [reference.trunk(weights, checkpoint.config, each.ids).logits[each.first : -1] for each in WINDOWS]
    oracle = np.concatenate(logits)
    log_probs = measures.log_softmax(oracle.astype(np.float32))
    targets = [*range(60, 90), *range(201, 240)]
    assert rows.targets.tolist() == targets and rows.vocabulary == checkpoint.config.vocab_size
    np.testing.assert_allclose(rows.target_log_probs, log_probs[np.arange(69), targets], atol=1e-3)
    found = compare(rows, oracle.astype(np.float32))
    assert found.same_top.all() and found.kld.max() < 1e-6


def test_a_checkpoint_predicts_what_transformers_does(checkpoint: Checkpoint) -> None:
    data = np.load(nano_logits.FILE)
    ids = tuple(data["ids"].tolist())
    rows = references.of_checkpoint(checkpoint, [Window(ids, 0)])
    found = compare(rows, data["logits"][:-1].astype(np.float32))
    assert found.same_top.all() and found.kld.max() < 1e-6


@pytest.mark.parametrize("engine", ["gguf", "onnx"])
def test_engines_that_run_the_same_weights_are_no_distance_from_it(
    engine: str, checkpoint: Checkpoint, nano_gguf: Path, nano_onnx: Path
) -> None:
    rows = references.of_checkpoint(checkpoint, WINDOWS)
    seen: list[Progress] = []
    with load(nano_gguf if engine == "gguf" else nano_onnx, speculate="off", kv_dtype="f32") as model:
        theirs = references.of_model(model, WINDOWS, seen.append)
        logits = np.concatenate([model.logits(each.ids)[each.first : -1] for each in WINDOWS])
    assert compare(rows, logits).kld.max() < 1e-5 and compare(theirs, logits).kld.max() < 1e-6
    assert [(each.done, each.total) for each in seen] == [(1, 2), (2, 2)]


def test_progress_tells_layers_and_then_the_head(checkpoint: Checkpoint) -> None:
    seen: list[Progress] = []
    references.of_checkpoint(checkpoint, WINDOWS, seen.append)
    layers = [each for each in seen if each.stage == "reference"]
    assert [each.done for each in layers] == [1, 2, 3, 4] and layers[0].unit == "layers"
    assert seen[-1].stage == "reference, head" and seen[-1].done == seen[-1].total


def test_a_checkpoint_with_numbers_that_are_too_large_is_an_error(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "huge")
    weights = tiny_weights(Checkpoint.open(folder).config)
    weights["lm_head.weight"] *= np.float32(1e38)
    write_weights(folder, weights)
    with pytest.raises(NumericsError, match="computed NaN or infinity"), np.errstate(all="ignore"):
        references.of_checkpoint(Checkpoint.open(folder), [Window(tuple(range(20)), 0)])


def test_what_is_kept_comes_back_as_it_was(checkpoint: Checkpoint, place: Path) -> None:
    rows = references.of_checkpoint(checkpoint, WINDOWS)
    assert references.kept(place) is None
    references.keep(place, WINDOWS, rows)
    found = references.kept(place)
    assert found is not None and found[0] == WINDOWS
    for name in ("vocabulary", "starts", "ids", "log_probs", "rest", "targets", "target_log_probs"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(rows, name))
    (entry,) = cache.entries()
    assert (entry.kind, entry.path) == ("references", place) and place.stat().st_mode & 0o777 == 0o600


def test_another_text_checkpoint_or_request_has_another_place(place: Path) -> None:
    others = [
        references.place("a model", "1235", ("text", WINDOWS)),
        references.place("a model", "1234", ("text", WINDOWS[:1])),
        references.place("a model", "1234", ("answers", 4096)),
    ]
    assert len({place, *others}) == 4


def spoil(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(40)),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"<f4", b"<q9")),
        lambda path: np.savez(path, ids=np.array([object()], object)),
        lambda path: spoil(path, lambda arrays: arrays.pop("rest")),
        lambda path: spoil(path, lambda arrays: arrays.update(starts=arrays["starts"][::-1])),
        lambda path: spoil(path, lambda arrays: arrays.update(ids=arrays["ids"] + 100_000)),
        lambda path: spoil(path, lambda arrays: arrays.update(window_firsts=arrays["window_firsts"] - 40)),
        lambda path: spoil(path, lambda arrays: arrays.update(vocabulary=np.zeros(2))),
        lambda path: spoil(path, lambda arrays: arrays.update(targets=np.full(69, "x"))),
        lambda path: spoil(path, lambda arrays: arrays.update(log_probs=arrays["log_probs"][:0])),
    ],
)
def test_a_damaged_file_is_made_anew_with_one_line(
    damage: Callable[[Path], None], place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.Generator(np.random.PCG64(0))
    logits = random.standard_normal((69, 512)).astype(np.float32)
    references.keep(place, WINDOWS, top_rows([(0, logits)], [t for each in WINDOWS for t in each.targets]))
    damage(place)
    place.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert references.kept(place) is None
    assert len(caplog.messages) == 1 and "not used, and made anew" in caplog.messages[0]


def test_the_limit_of_the_cache_holds_for_references_the_oldest_goes_first(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = top_rows([(0, np.zeros((69, 512), np.float32))], [t for each in WINDOWS for t in each.targets])
    places = [place.with_name(f"m-{number:016x}.npz") for number in range(3)]
    references.keep(places[0], WINDOWS, rows)
    monkeypatch.setenv("MIMO_CACHE_LIMIT", str(int(2.5 * places[0].stat().st_size)))
    references.keep(places[1], WINDOWS, rows)
    assert references.kept(places[0]) is not None  # used later than the other
    references.keep(places[2], WINDOWS, rows)
    assert [each.exists() for each in places] == [True, False, True]
    monkeypatch.setenv("MIMO_CACHE_LIMIT", "1KB")
    references.keep(place, WINDOWS, rows)
    assert not place.exists() and "larger than MIMO_CACHE_LIMIT" in caplog.text
    assert cache.clear() > 0 and not any(each.exists() for each in places)


def test_without_a_cache_nothing_is_kept() -> None:
    assert references.kept(None) is None
    references.keep(None, WINDOWS, top_rows([(0, np.zeros((1, 4), np.float32))], [0]))


@pytest.mark.slow
def test_at_7b_s_shapes_it_takes_no_more_than_3_gib(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.references", "--layers", "2", "--tokens", "1024", "--work", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = ast.literal_eval(done.stderr.splitlines()[-1])
    assert measured["layers"] == 2 and 0.6e9 < measured["memory"] < 3 * 2**30
