"""What a user gives to quantize by: options without effect are refused, and another text or matrix makes files anew."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mimo_mobile import manifest
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.entries import Effort
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize.calibrator import Calibrator
from mimo_mobile.quantize.given import Given
from mimo_mobile.quantize.pipeline import IMPORTANCE, quantize_checkpoint
from mimo_mobile.quantize.recipes import RECIPES
from tests.tiny import write_json, write_tiny_checkpoint

TEXT, OTHER = "Seven boxes hold 12 pens each. " * 20, "def twice(x): return x * 2\n" * 20
NAME = "tiny-q4_0.gguf"


def written(folder: Path, name: str = NAME) -> int:
    return (folder / name).stat().st_mtime_ns


def text(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("recipes", "effort", "given", "reason"),
    [
        (["q4_0", "int4_b32"], "none", {"importance"}, "--importance .* --effort none"),
        (["q4_0"], "high", {"importance"}, "--effort high .* --importance"),
        (["q4_0", "int4_b32"], "normal", {"importance", "calibration"}, "--importance .* --calibration"),
        (["q4_0", "q4_k_m"], "none", {"calibration"}, "--calibration .* --effort none"),
    ],
)
def test_an_option_without_effect_is_refused_before_any_work(
    tiny: Source, tmp_path: Path, recipes: list[str], effort: Effort, given: set[str], reason: str
) -> None:
    named = dict.fromkeys(given, tmp_path / "missing")
    with pytest.raises(BadArgumentError, match=reason):
        quantize_checkpoint(tiny, tmp_path / "out", recipes, effort=effort, **named)
    assert not (tmp_path / "out").exists()


def test_a_text_tells_the_ranges_of_onnx_files_that_are_made_without_effort(tiny: Source, tmp_path: Path) -> None:
    mine = text(tmp_path, "mine.txt", TEXT)
    recipes = ["q4_0", "int4_b32"]
    made = quantize_checkpoint(tiny, tmp_path / "out", recipes, effort="none", calibration=mine, problems=0)
    assert [bool(entry.calibrated_by) for entry in made.entries] == [False, True]  # GGUF holds no ranges then


def test_another_text_makes_files_anew_and_the_same_text_keeps_them(tiny: Source, tmp_path: Path) -> None:
    mine, copy = text(tmp_path, "mine.txt", TEXT), text(tmp_path, "copy.txt", TEXT)
    other, out = text(tmp_path, "other.txt", OTHER), tmp_path / "out"
    times, known = [], []
    for given in (None, None, mine, copy, other, None):
        made = quantize_checkpoint(tiny, out, ["q4_0"], problems=0, calibration=given)
        times.append(written(out))
        known.append(dict(made.entries[0].calibrated_by))
        assert manifest.read(out) == made
    ours, again, first, same, second, back = times
    assert ours == again < first == same < second < back
    assert known[0] == known[1] == known[5] == {} and known[2] == known[3] != known[4]
    assert set(known[2]) == {"text"}


def test_another_matrix_makes_files_anew_and_is_not_mistaken_for_ours(tiny: Source, tmp_path: Path) -> None:
    out, matrix = tmp_path / "out", tmp_path / "first" / IMPORTANCE
    mine = text(tmp_path, "mine.txt", TEXT)
    quantize_checkpoint(tiny, tmp_path / "first", ["q4_0"], problems=0, calibration=mine)
    quantize_checkpoint(tiny, out, ["q4_0"], problems=0)
    before, ours = written(out), (out / IMPORTANCE).read_bytes()
    made = quantize_checkpoint(tiny, out, ["q4_0"], problems=0, importance=matrix)
    after = written(out)
    assert before < after and set(made.entries[0].calibrated_by) == {"importance"}
    quantize_checkpoint(tiny, out, ["q4_0"], problems=0, importance=matrix)
    assert written(out) == after
    quantize_checkpoint(tiny, out, ["q4_0"], problems=0)
    assert written(out) > after and (out / IMPORTANCE).read_bytes() == ours
    alone = tmp_path / "alone"
    quantize_checkpoint(tiny, alone, ["q4_0"], problems=0, importance=matrix)
    assert not (alone / IMPORTANCE).exists()  # ours weighed nothing there


def test_what_is_finished_stays_while_more_effort_is_calibrated(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, ["q4_0"], problems=0)

    class Killed(Exception):
        pass

    def kill(step: Progress) -> None:
        if step.stage == "calibrate":
            raise Killed

    before = manifest.read(tmp_path)
    mine = text(tmp_path.parent, "mine.txt", TEXT)
    with pytest.raises(Killed):
        quantize_checkpoint(tiny, tmp_path, ["q4_0"], problems=0, effort="high", calibration=mine, progress=kill)
    assert manifest.read(tmp_path) == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize("length", [12, 64])
def test_a_short_context_is_calibrated_with_what_fits_in_it(tmp_path: Path, length: int) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "max_position_embeddings": length})
    made = quantize_checkpoint(folder, tmp_path / "out", ["q4_0"], problems=0, effort="high")
    assert made.entries[0].effort == "high"


def test_files_without_channel_scales_serve_everywhere_and_others_not_where_activations_are_quantized(
    tiny: Source, tmp_path: Path
) -> None:
    (entry,) = quantize_checkpoint(tiny, tmp_path / "out", ["int4_b32"], problems=0).entries
    recipe, plain = RECIPES["int4_b32"], {"channels": "unbalanced"}
    cpu, npu = Given("normal"), Given("normal", balanced=False)
    unbalanced = dataclasses.replace(entry, calibrated_by=npu.calibrated_by(recipe))
    assert unbalanced.calibrated_by == plain and entry.calibrated_by == {}
    assert [cpu.made(each, recipe) for each in (entry, unbalanced)] == [True, True]
    assert [npu.made(each, recipe) for each in (entry, unbalanced)] == [False, True]
    rounded = dataclasses.replace(entry, effort="none")
    assert Given("none", balanced=False).made(rounded, recipe) and Given("none").made(rounded, recipe)
    checkpoint = Checkpoint.open(tiny.path)
    for given, scaled in ((cpu, True), (npu, False)):
        known = Calibrator(checkpoint, given, [recipe], tmp_path / "work").calibrated(recipe)
        assert known is not None and bool(known.factors) is scaled and known.importance
