"""The gate: a file that lost too much goes aside, with the reason, and everything else stays."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from mimo_mobile import manifest
from mimo_mobile.cli import main
from mimo_mobile.documents import parse
from mimo_mobile.entries import Entry, Part, read_entry
from mimo_mobile.errors import BadArgumentError, ModelLoadError, QualityGateError
from mimo_mobile.hub import Source
from mimo_mobile.inspection import verify
from mimo_mobile.manifest import Manifest
from mimo_mobile.quantize import rejection, report_file
from mimo_mobile.quantize.gate import DEFAULTS, WORDS, Limits, judge, read_thresholds, require_passed
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.quantize.report import rows
from mimo_mobile.quantize.tensor_errors import TensorError
from mimo_mobile.runtime import load
from mimo_mobile.scores import Divergence, Drafts, OnNpu, Score
from tests.commands import runner
from tests.damage import Bytes, damage, scaled, shuffled
from tests.schemas import check

ENTRY = Entry("q4_0", "gguf", "m-q4_0.gguf", 4.5, 1, (), {})
BF16 = Score(660, 0.99, {"a": 0.99}, 1.0, 1.0, 88.0, "set")
APART = Divergence(4096, 2.1, 2.0, 0.2, 0.01, 0.1, 1.0, 4.0, 0.0, 0.8)
STRICT = DEFAULTS | {"q4_0": Limits(answer_growth=0.5), "int4_b32": Limits(answer_growth=0.5)}
DOWN = "model.layers.{}.mlp.down_proj.weight"
FILES = ["mimo-nano-q4_0-mtp.gguf", "mimo-nano-q4_0.gguf"]


def mimo(*arguments: object) -> Result:
    return runner().invoke(main, [str(each) for each in arguments])


def failed(entry: Entry, limits: Limits, baseline: Score | None = BF16) -> list[str]:
    return [each.name for each in judge(entry, baseline, limits) if not each.passed]


def ggufs(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if ".gguf" in path.name)


def test_every_recipe_has_limits_and_more_bits_allow_no_more_loss() -> None:
    compiled = {"int4_b32", "int4_b32_plus", "int4_b64", "int4_b128"}  # --target qdq takes these
    assert set(DEFAULTS) == set(RECIPES) | {f"{name}_qdq" for name in compiled}
    for name in compiled:
        cpu, npu = DEFAULTS[name], DEFAULTS[f"{name}_qdq"]
        assert cpu.kld and npu.kld == 2 * cpu.kld and cpu.rounded and npu.rounded
        assert npu.rounded.kld == 2 * (cpu.rounded.kld or 0) and npu.exact_match_loss == cpu.exact_match_loss
    order = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0_plus", "q4_0", "int4_b64", "int4_b128")
    for limits in (DEFAULTS, {name: each.rounded for name, each in DEFAULTS.items()}):
        found = [each for name in order if (each := limits[name]) is not None]
        for figure in ("kld", "matrix_error", "exact_match_loss", "answer_growth", "acceptance_loss"):
            losses = [getattr(each, figure) for each in found]
            assert len(losses) == len(order) and losses == sorted(losses), figure


def test_a_folder_whose_form_for_npus_lost_too_much_goes_aside_with_it(tmp_path: Path) -> None:
    path = "m-int4_b32-onnx"
    parts = tuple(Part(f"{path}/{name}", 1, "0" * 64) for name in ("model.onnx", "qdq-SM8750/npu.json"))
    apart = dataclasses.replace(APART, mean_kld=0.1, same_top=0.9)
    entry = Entry("int4_b32", "onnx", path, 5, 2, parts, {}, divergence=apart, effort="normal")
    for part in parts:
        (tmp_path / part.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part.path).write_text("{}")
    for lost, kept in ((0.3, True), (0.5, False)):
        measured = OnNpu(divergence=dataclasses.replace(APART, mean_kld=lost))
        found = dataclasses.replace(entry, on_npu=measured)
        assert found.npu_form is not None and found.npu_form.recipe == "int4_b32_qdq"
        state = Manifest("m", {}, (found,))
        state = rejection.judged(tmp_path, state, ["int4_b32"], DEFAULTS, {})
        assert bool(state.entries) is kept
    assert state.rejected[0].reasons == (
        "with quantized activations for NPUs mean KL divergence 0.5000, at most 0.44 allowed",
    )
    assert (tmp_path / f"{path}.rejected/qdq-SM8750/npu.json").is_file()
    written = [row[0] for row in rows(state)]
    assert written == [f"{path}.rejected", f"{path}.rejected/qdq-SM8750"]
    document = parse(json.dumps(state.rejected[0].entry.to_json()))
    assert read_entry(document, None) == state.rejected[0].entry


def test_what_was_only_rounded_may_lose_more_unless_a_limit_is_for_all() -> None:
    entry = dataclasses.replace(ENTRY, divergence=dataclasses.replace(APART, mean_kld=0.4))
    assert ENTRY.effort == "none" and failed(entry, DEFAULTS["q4_0"]) == []
    for effort in ("normal", "high"):
        assert failed(dataclasses.replace(entry, effort=effort), DEFAULTS["q4_0"]) == ["kld"]
    assert failed(entry, Limits(kld=0.3)) == ["kld"]


def test_a_single_matrix_is_held_to_its_limit() -> None:
    errors = [TensorError(DOWN.format(layer), error) for layer, error in enumerate((0.1, 0.5, 0.2))]
    assert [str(each) for each in judge(ENTRY, BF16, Limits(matrix_error=0.4), errors)] == [
        "a matrix whose results are 50% off, at most 40% allowed: model.layers.1.mlp.down_proj.weight (50.0 %)"
    ]
    several = [*errors, *(TensorError(DOWN.format(layer), 1 - layer / 100) for layer in range(3, 7))]
    assert str(judge(ENTRY, BF16, Limits(matrix_error=0.4), several)[0]).endswith(
        ": " + ", ".join(f"{DOWN.format(layer)} ({100 - layer:.1f} %)" for layer in (3, 4, 5)) + " and 2 more"
    )
    assert all(each.passed for each in judge(ENTRY, BF16, Limits(matrix_error=0.6), errors))
    lost = [*errors, TensorError("model.embed_tokens.weight", math.inf)]
    assert not judge(ENTRY, BF16, Limits(matrix_error=0.6), lost)[0].passed


def test_every_reason_names_the_matrices_to_blame() -> None:
    errors = [TensorError(DOWN.format(layer), layer / 100) for layer in range(4)]
    drafting = TensorError("model.mtp_layers.0.mlp.down_proj.weight", 0.001)
    score = dataclasses.replace(BF16, exact_match=0.5, answer_tokens=200.0, drafts=Drafts(2000, 0.5))
    before = dataclasses.replace(BF16, drafts=Drafts(2000, 0.9))
    entry = dataclasses.replace(ENTRY, score=score, divergence=APART)
    made = judge(entry, before, Limits(0.1, 0.9, 0.01, 1, 1, 1), [*errors, drafting])
    assert {each.name for each in made if not each.passed} == set(WORDS)
    worst = [DOWN.format(layer) for layer in (3, 2, 1)]
    for each in made:
        named = {"matrix_error": worst[:2], "acceptance_loss": [drafting.tensor]}.get(each.name, worst)
        assert [blamed.tensor for blamed in each.blamed] == named
        assert all(name in str(each) for name in named)
    assert not any(each.blamed for each in judge(entry, before, Limits(9, 0, 9, 99, 9, 99), errors)), "nothing failed"


def test_each_figure_is_held_to_its_limit() -> None:
    score = dataclasses.replace(BF16, exact_match=0.90, answer_tokens=110.0, same_top=0.95)
    entry = dataclasses.replace(ENTRY, score=score, divergence=APART)
    assert failed(entry, Limits(0.25, 0.75, None, 9, 1.3)) == []
    assert failed(entry, Limits(0.1, 0.75, None, 9, 1.3)) == ["kld"]
    assert failed(entry, Limits(0.25, 0.85, None, 9, 1.3)) == ["same_top"]
    assert failed(entry, Limits(0.25, 0.75, None, 2, 1.3)) == ["exact_match_loss"]
    assert failed(entry, Limits(0.25, 0.75, None, 9, 1.2)) == ["answer_growth"]
    assert failed(entry, Limits()) == []


def test_right_drafts_are_held_to_their_limit_where_there_is_an_mtp_layer() -> None:
    before = dataclasses.replace(BF16, drafts=Drafts(2000, 0.90))
    entry = dataclasses.replace(ENTRY, score=dataclasses.replace(BF16, drafts=Drafts(2000, 0.80)))
    assert failed(entry, Limits(acceptance_loss=5), before) == ["acceptance_loss"]
    assert failed(entry, Limits(acceptance_loss=9), before) == []
    few = dataclasses.replace(ENTRY, score=dataclasses.replace(BF16, drafts=Drafts(20, 0.80)))
    assert failed(few, Limits(acceptance_loss=5), before) == [], "chance explains it"
    for score, baseline in ((BF16, before), (entry.score, BF16)):
        assert failed(dataclasses.replace(ENTRY, score=score), Limits(acceptance_loss=0), baseline) == []


def test_a_damaged_mtp_layer_is_found_by_its_drafts(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q8_0"], problems=0)
    damage(tmp_path / "mimo-nano-q8_0-mtp.gguf", "blk.4.ffn_down.weight", shuffled)
    made = quantize_checkpoint(nano, tmp_path, ["q8_0"], problems=5)
    assert not made.entries
    assert re.match(r"\d+\.\d points fewer right drafts by MTP beyond chance", made.rejected[0].reasons[0])
    score = made.rejected[0].entry.score
    assert score is not None and score.exact_match == 1, "answers are the trunk's"


def test_a_loss_that_chance_explains_is_none() -> None:
    few = dataclasses.replace(BF16, problems=20)
    lost = dataclasses.replace(ENTRY, score=dataclasses.replace(few, exact_match=0.89))
    assert failed(lost, Limits(exact_match_loss=2), few) == []
    lost = dataclasses.replace(ENTRY, score=dataclasses.replace(BF16, exact_match=0.89))
    assert failed(lost, Limits(exact_match_loss=2)) == ["exact_match_loss"]


def test_nan_and_infinity_fail_and_what_was_not_measured_is_not_judged() -> None:
    for value in (math.nan, math.inf):
        entry = dataclasses.replace(ENTRY, divergence=dataclasses.replace(APART, mean_kld=value))
        assert failed(entry, DEFAULTS["q4_0"]) == ["kld"]
    assert judge(ENTRY, BF16, DEFAULTS["q4_0"]) == ()
    other = dataclasses.replace(ENTRY, score=dataclasses.replace(BF16, exact_match=0.0, problem_set="other"))
    assert failed(other, DEFAULTS["q4_0"]) == []


@pytest.mark.parametrize(("tensor", "how", "off"), [("attn_v", shuffled, 100), ("ffn_down", scaled(1.5), 50)])
def test_a_damaged_matrix_is_found_though_the_predictions_hardly_change(
    nano: Source, nano_q4: dict[str, Path], tmp_path: Path, tensor: str, how: Callable[[Bytes], Bytes], off: int
) -> None:
    shutil.copytree(nano_q4["gguf"].parent, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "mimo-nano-q4_0.gguf", f"blk.2.{tensor}.weight", how)
    (tmp_path / "report.json").unlink()  # it knows the errors of the undamaged file
    made = quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=0)
    assert [each.entry.recipe for each in made.rejected] == ["q4_0"]
    found = re.match(r"a matrix whose results are (\d+)% off, at most 40% allowed: (\S+)", made.rejected[0].reasons[0])
    assert found and int(found[1]) >= off and found[2].startswith("model.layers.2.")
    report = report_file.read(tmp_path / "report.json")
    (judged,) = next(each for each in report.recipes if each.rejected).checks
    assert [each.tensor for each in judged.blamed] == [found[2]]
    assert found[2] in (tmp_path / "report.html").read_text().split('class="reasons"')[1].split("</ul>")[0]
    with pytest.raises(QualityGateError, match=re.escape(found[2])):
        require_passed(made, ["q4_0"])
    (tmp_path / "report.json").unlink()  # whoever judges the file anew finds the same where it was set aside
    assert quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=0) == made


def test_thresholds_change_single_limits(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("[all]\nsame_top = 0.5\nkld = 2\n[q4_0]\nkld = 0.01\n")
    found = read_thresholds(path)
    for name, kld in (("q4_0", 0.01), ("int8", 2)):
        rounded = DEFAULTS[name].rounded
        assert rounded is not None
        rounded = dataclasses.replace(rounded, kld=kld, same_top=0.5)
        assert found[name] == dataclasses.replace(DEFAULTS[name], kld=kld, same_top=0.5, rounded=rounded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[q4]\nkld = 1", r"\[q4\] is no recipe; there are all, q4_0,"),
        (
            "[q4_0]\nkdl = 1",
            r"q4_0\.kdl is not known; there are kld, same_top, matrix_error, exact_match_loss, answer_growth",
        ),
        ("[q4_0]\nkld = '1'", r'q4_0\.kld: a number expected, "1" found'),
        ("[q4_0]\nkld = nan", r"q4_0\.kld: a number expected"),
        ("[q4_0]\nkld = 2024-01-01", r"q4_0\.kld: a number expected"),
        ("[q4_0]\nsame_top = 75", r"q4_0\.same_top: a number from 0 to 1 expected, 75 found"),
        ("kld = 1", r"\[kld\] is no recipe"),
        ("q4_0 = 1", r"q4_0: an object expected"),
        ("[q4_0", "tables such as"),
        ("[a.a.a]\n" + "a = [" * 5000, "tables such as"),
    ],
)
def test_thresholds_that_say_something_else_are_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(BadArgumentError, match=message):
        read_thresholds(path)


@pytest.mark.slow
def test_what_lost_too_much_goes_aside_and_nothing_else_is_lost(nano: Source, tmp_path: Path) -> None:
    made = quantize_checkpoint(nano, tmp_path, ["q8_0", "q4_0", "int4_b32"], problems=5, limits=STRICT)
    assert [each.recipe for each in made.entries] == ["q8_0"]
    check("manifest", tmp_path / "manifest.json")
    assert manifest.read(tmp_path) == made
    (gone, folder) = made.rejected
    assert gone.entry.recipe == "q4_0" and len(gone.reasons) == 1
    named = r"most was lost in (model\.\S+ \(\d+\.\d %\)(, )?){3}"
    assert re.fullmatch(rf"answers 1\.0\d times as long, at most 0\.5 allowed; {named}", gone.reasons[0])
    assert [name for name in ggufs(tmp_path) if "q4_0" in name] == [f"{name}.rejected" for name in FILES]
    assert (tmp_path / folder.aside.path / "model.onnx").is_file() and folder.aside.path.endswith("-onnx.rejected")
    assert not (tmp_path / folder.entry.path).exists()
    for part in (*gone.aside.parts, *folder.aside.parts):
        assert (tmp_path / part.path).stat().st_size == part.size_bytes
    with load(tmp_path) as model:
        assert model.name.endswith("mimo-nano-q8_0.gguf")
    with pytest.raises(ModelLoadError, match="q4_0"):
        load(tmp_path, recipe="q4_0")
    assert verify(tmp_path) == 2
    with pytest.raises(QualityGateError, match=r"mimo-nano-q4_0\.gguf\.rejected: answers 1\.0") as caught:
        require_passed(made, ["q8_0", "q4_0", "int4_b32"])
    assert caught.value.rejected == ("q4_0", "int4_b32")
    require_passed(made, ["q8_0"])


def test_a_rerun_knows_what_was_rejected_and_other_limits_take_it_back(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q4_0", "int4_b32"], problems=5, limits=STRICT)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.rejected*") if path.is_file()}
    again = quantize_checkpoint(nano, tmp_path, ["q4_0", "int4_b32"], problems=5, limits=STRICT)
    assert len(again.rejected) == 2 and not again.entries
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.rejected*") if path.is_file()}
    passed = quantize_checkpoint(nano, tmp_path, ["q4_0", "int4_b32"], problems=5)
    assert [each.recipe for each in passed.entries] == ["q4_0", "int4_b32"] and not passed.rejected
    assert ggufs(tmp_path) == FILES and (tmp_path / "mimo-nano-int4_b32-onnx/model.onnx").is_file()
    assert (tmp_path / FILES[0]).stat().st_mtime_ns in before.values(), "it is the same file"
    assert manifest.read(tmp_path) == passed


def test_what_was_rejected_is_made_anew_by_force_or_with_another_effort(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=5, limits=STRICT)
    made = quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=5, effort="none")
    assert not made.rejected and ggufs(tmp_path) == FILES
    quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=5, limits=STRICT, effort="none")
    assert ggufs(tmp_path) == [f"{name}.rejected" for name in FILES]
    made = quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=5, limits=STRICT, effort="none", force=True)
    assert made.rejected and ggufs(tmp_path) == [f"{name}.rejected" for name in FILES]


@pytest.mark.slow
def test_a_score_on_other_problems_takes_nothing_back(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q8_0", "q4_0"], problems=5, limits=STRICT)
    made = quantize_checkpoint(nano, tmp_path, ["q8_0"], problems=4)
    assert made.baseline is not None and made.baseline.problems == 4
    made = quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=4)
    assert [each.entry.recipe for each in made.rejected] == ["q4_0"]


def test_a_run_that_was_killed_while_it_renamed_is_put_right(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=5, limits=STRICT)
    os.replace(tmp_path / f"{FILES[1]}.rejected", tmp_path / FILES[1])
    made = quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=5, limits=STRICT)
    assert made.rejected and ggufs(tmp_path) == [f"{name}.rejected" for name in FILES]


@pytest.mark.slow
def test_another_checkpoints_rejected_files_are_removed_by_force(nano: Source, tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q4_0", "int4_b32"], problems=5, limits=STRICT)
    quantize_checkpoint(tiny, tmp_path, ["q8_0"], force=True)
    assert not list(tmp_path.glob("*.rejected"))


def test_mimo_quantize_ends_with_status_1_and_names_file_and_reason(nano: Source, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("[q4_0]\nanswer_growth = 0.5\n")
    options = ["--recipe", "q8_0,q4_0", "--problems", 5, "--no-answer", "--out", tmp_path / "out"]
    result = mimo("quantize", nano.path, *options, "--thresholds", limits)
    assert result.exit_code == 1, result.output
    assert "nano-q8_0.gguf" in result.stdout
    assert "Error: nano-q4_0.gguf.rejected: answers 1.0" in result.stderr and "--thresholds" in result.stderr
    assert mimo("quantize", nano.path, *options).exit_code == 0
