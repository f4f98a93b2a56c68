"""A killed calibration goes on where it was, its files are those of a run that was not killed, and nobody is fooled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import kept_work
from mimo_mobile.quantize.calibrate import calibrate, layout_of
from mimo_mobile.quantize.kept_work import KeptAnswers, KeptLayers, KeptWork
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests.tiny import write_tiny_checkpoint

LAYERS, MTP_LAYERS = 4, 1

KILLED = """if True:
    import os, sys
    from pathlib import Path
    from mimo_mobile.quantize import kept_work
    from mimo_mobile.quantize.pipeline import quantize_checkpoint

    kept_work.EVERY_S = 0.0
    checkpoint, out, text, effort, stage, done = sys.argv[1:]

    def kill(step):
        if step.stage.startswith(stage) and step.done >= int(done):
            os.kill(os.getpid(), 9)

    quantize_checkpoint(
        checkpoint, out, ["q4_0", "int4_b32"], problems=0, effort=effort, progress=kill,
        calibration=Path(text) if text else None,
    )
"""

TEXTS = [(320, 72, 101, 5, 5, 300, 17, 322, 1), (7, 7, 200)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    return Source(write_tiny_checkpoint(folder, layers=LAYERS, mtp_layers=MTP_LAYERS), "tiny")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Seven boxes hold 12 pens each. Let x = 3; then 4x + 5 = 17. " * 6)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed(source: Source, out: Path, text: Path | None, effort: str, stage: str, done: int) -> None:
    """Begin to quantize in a process that kills itself when a stage has come so far."""
    given = [str(source.path), str(out), str(text or ""), effort, stage, str(done)]
    ended = subprocess.run([sys.executable, "-c", KILLED, *given], capture_output=True, text=True, check=False)
    assert ended.returncode == -9, ended.stderr


def quantized(source: Source, out: Path, text: Path | None, effort: kept_work.Any) -> list[Progress]:
    """Quantize, and what was told on the way."""
    seen: list[Progress] = []
    quantize_checkpoint(
        source, out, ["q4_0", "int4_b32"], problems=0, effort=effort, calibration=text, progress=seen.append
    )
    assert not (out / kept_work.NAME).exists()
    return [step for step in seen if step.stage.startswith("calibrate")]


@pytest.fixture(scope="module")
def uninterrupted(tiny: Source, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    made: dict[str, dict[str, bytes]] = {}

    def of(effort: str) -> dict[str, bytes]:
        if effort not in made:
            out = tmp_path_factory.mktemp(effort)
            quantized(tiny, out, text, effort)
            made[effort] = content(out)
        return made[effort]

    return of


@pytest.mark.parametrize(
    ("effort", "stage", "done"),
    [
        ("normal", "calibrate", 2),
        pytest.param("normal", "calibrate", LAYERS, marks=pytest.mark.slow),
        pytest.param("high", "calibrate", 3, marks=pytest.mark.slow),
        pytest.param("none", "calibrate", 1, marks=pytest.mark.slow),
        ("normal", "write tiny-int4_b32", 1),
        pytest.param("high", "write tiny-q4_0.gguf", 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_calibration_goes_on_and_gives_the_same_bytes(
    effort: str, stage: str, done: int, tiny: Source, text: Path, uninterrupted: Callable[[str], dict], tmp_path: Path
) -> None:
    given = None if effort == "none" else text
    expected = uninterrupted(effort) if given else None
    if expected is None:
        quantized(tiny, tmp_path / "whole", None, effort)
        expected = content(tmp_path / "whole")
    out = tmp_path / "out"
    killed(tiny, out, given, effort, stage, done)
    assert (out / kept_work.NAME).is_dir()
    steps = quantized(tiny, out, given, effort)
    layers = LAYERS + MTP_LAYERS
    if stage == "calibrate":
        assert [step.done for step in steps] == list(range(done + 1, layers + 1))
        assert steps[0].stage == f"calibrate, goes on at layer {done + 1} of {layers}"
    else:
        assert steps == [], "a calibration that was done is not done again"
    found = content(out)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def run(source: Source, kept: KeptLayers | None, stop: int | None = None) -> list[Progress]:
    """Calibrate, and what was told; the pass ends by an exception when so many layers are done."""
    checkpoint, seen = Checkpoint.open(source.path), list[Progress]()

    class Stopped(Exception):
        pass

    def told(step: Progress) -> None:
        seen.append(step)
        if step.done == stop:
            raise Stopped

    with suppress(Stopped):
        calibrate(checkpoint.config, checkpoint.tensors, TEXTS, told, kept)
    return seen


def first_layer(source: Source, kept: KeptLayers) -> int:
    """The first layer that a pass computes."""
    return run(source, kept)[0].done


def layers_in(folder: Path, *, every: bool = False) -> KeptLayers:
    return KeptLayers(KeptWork.of(folder / "kept", "layers", "a checkpoint", TEXTS), every)


@pytest.fixture(autouse=True)
def _each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_work, "EVERY_S", 0.0)


def spoil_content(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(10_000_000_000)  # as sparse as a file can be


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def come_from_another_step(path: Path) -> None:
    path.rename(path.with_name(path.name[:-4] + "0004"))


def write_a_layer_too_many(path: Path) -> None:
    path.with_name(path.name[:-4] + "9999").write_bytes(b"x")


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        spoil_content, cut_off, grow, empty, become_a_pipe, become_a_folder, become_a_link, come_from_another_step,
        write_a_layer_too_many,
    ],
)  # fmt: skip
def test_what_is_damaged_is_computed_anew_and_one_line_says_so(
    damage: Callable[[Path], object], every: bool, tiny: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tiny, layers_in(tmp_path, every=every), stop=3)
    kept = layers_in(tmp_path, every=every)
    assert kept.work.steps() == ([0, 1, 2, 3] if every else [3])
    damage(kept.work.path(3))
    before = len(caplog.records)
    stranger = kept.work.path(9999).exists()
    assert first_layer(tiny, kept) == (1 if not every else 4 if stranger else 3)
    silent = every and damage in (come_from_another_step, write_a_layer_too_many)  # nobody asks for these
    assert len(caplog.records) - before == (0 if silent else 1), caplog.text


def test_what_was_computed_for_something_else_is_not_taken(tiny: Source, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    run(tiny, layers_in(tmp_path), stop=3)
    (ours,) = folder.iterdir()
    for parts in (("another checkpoint", TEXTS), ("a checkpoint", TEXTS[:1])):
        other = KeptLayers(KeptWork.of(folder, "layers", *parts))
        data = ours.read_bytes()
        other.work.path(3).write_bytes(data)  # even under its name
        assert first_layer(tiny, other) == 1
        assert not ours.exists(), "nobody wants it any more"
        ours.write_bytes(data)


def test_a_key_holds_all_that_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def key(*parts: object) -> str:
        return KeptWork.of(tmp_path, "layers", *parts).key

    first = key("checkpoint", "normal", TEXTS)
    assert first == key("checkpoint", "normal", TEXTS)
    others = {key("other", "normal", TEXTS), key("checkpoint", "high", TEXTS), key("checkpoint", "normal", TEXTS[:1])}
    monkeypatch.setattr(kept_work.manifest, "tool_versions", lambda: {"numpy": "0"})
    others.add(key("checkpoint", "normal", TEXTS))
    monkeypatch.undo()
    monkeypatch.setattr(kept_work, "VERSION", kept_work.VERSION + 1)
    others.add(key("checkpoint", "normal", TEXTS))
    assert len(others) == 5 and first not in others


def test_numbers_that_are_none_are_not_taken(tiny: Source, tmp_path: Path) -> None:
    kept, config = layers_in(tmp_path), Checkpoint.open(tiny.path).config
    layout = layout_of(config, 1, [len(ids) for ids in TEXTS])
    kept.work.write(1, [np.full(shape, np.nan, kind) for kind, shape in layout])
    assert first_layer(tiny, kept) == 1


def test_a_short_pass_writes_nothing(tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_work, "EVERY_S", 60.0)
    run(tiny, layers_in(tmp_path))
    assert not (tmp_path / "kept").exists()


def test_a_link_in_the_folder_s_place_leads_nowhere(tiny: Source, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "layers-mine").write_text("x")
    (tmp_path / "kept").symlink_to(elsewhere)
    run(tiny, layers_in(tmp_path), stop=2)
    assert [path.name for path in elsewhere.iterdir()] == ["layers-mine"]
    assert layers_in(tmp_path).work.steps() == [2]


def test_calibration_is_done_where_nothing_can_be_kept(
    tiny: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(KeptWork, "write", full)
    assert run(tiny, layers_in(tmp_path))[-1].done == LAYERS + MTP_LAYERS
    assert caplog.text.count("would begin anew") == 1
    with pytest.raises(OSError, match="No space left"):
        run(tiny, layers_in(tmp_path, every=True))


def test_answers_are_kept_one_by_one_and_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = KeptWork.of(tmp_path / "kept", "answers", "a checkpoint")
    answers = KeptAnswers(work, 100)
    answers[0], answers[3] = [5, 6], []
    assert dict(KeptAnswers(work, 100)) == {0: (5, 6), 3: ()} and KeptAnswers(work, 100).texts == []
    answers.complete([(1, 2), (3,)])
    assert KeptAnswers(work, 100).texts == [(1, 2), (3,)]
    assert not caplog.records
    assert dict(KeptAnswers(work, 6)) == {} and len(caplog.records) == 1  # 6 is no token of a vocabulary of 6
    for nonsense in (b"[", b"[[1]]", b'{"x": [1]}', b'{"0": 1}', b"\xff"):
        work.write(0, [nonsense])
        assert dict(KeptAnswers(work, 100)) == {}, nonsense
    shutil.rmtree(tmp_path / "kept")
    assert KeptAnswers(work, 100) == {}


@pytest.mark.slow
def test_a_run_that_was_killed_while_the_model_answers_asks_the_rest_only(tiny: Source, tmp_path: Path) -> None:
    quantized(tiny, tmp_path / "whole", None, "high")
    out = tmp_path / "out"
    killed(tiny, out, None, "high", "answer for calibration", 2600)
    assert [path.name.split("-")[0] for path in (out / kept_work.NAME).glob("answers-*")] == ["answers"]
    seen: list[Progress] = []
    quantize_checkpoint(tiny, out, ["q4_0", "int4_b32"], problems=0, effort="high", progress=seen.append)
    assert min(step.done for step in seen if step.stage == "answer for calibration") > 2000
    assert content(out) == content(tmp_path / "whole")
