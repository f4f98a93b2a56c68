"""``make quantize``'s work: what it leaves, what it keeps, and what it survives."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile import manifest
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import CheckpointError, OutputExistsError, QuantizationError
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import answering, evaluate, report
from mimo_mobile.quantize.evaluate import Reply
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.scores import Drafts
from tests.tiny import tiny_weights, write_tiny_checkpoint, write_weights

RECIPES = ["q8_0", "int4_b32"]


def times(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".gguf", ".onnx", ".data")
    }


def test_the_manifest_tells_the_truth(nano: Source, tmp_path: Path) -> None:
    seen: list[Progress] = []
    made = quantize_checkpoint(nano, tmp_path / "out", RECIPES, problems=11, progress=seen.append)
    data = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert data["model"] == "mimo-nano" and "tools" not in data
    for entry in data["entries"]:
        assert entry["tools"].keys() >= {"mimo-mobile", "gguf", "onnx-ir", "numpy"}
    listed = [part for entry in data["entries"] for part in entry["parts"]]
    for part in listed:
        content = (tmp_path / "out" / part["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part["size_bytes"], part["sha256"])
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {part["path"] for part in listed} | {
        "manifest.json",
        "bf16-replies.json",
        "calibrated-on.json",
        "report.json",
        "importance.imatrix",
        "report.html",
        ".lock",
    }
    assert made == manifest.read(tmp_path / "out")
    assert made.baseline is not None and made.baseline.problems == 11 and len(made.baseline.by_kind) == 11
    for entry in made.entries:
        assert entry.score is not None and entry.score.same_top > 0.9
        assert entry.score.drafts and made.baseline.drafts and made.baseline.drafts.tokens > 500, "all few problems are"
        assert entry.score.drafts.acceptance == pytest.approx(made.baseline.drafts.acceptance, abs=0.01)
        assert 1 <= entry.score.perplexity < 1.2
    assert [row[0] for row in report.rows(made)] == [
        "(bf16, not kept)",
        "mimo-nano-q8_0.gguf",
        "mimo-nano-int4_b32-onnx",
    ]
    assert {step.stage for step in seen} >= {"write mimo-nano-q8_0.gguf", "evaluate bf16", "evaluate int4_b32"}
    with load(tmp_path / "out", recipe="int4_b32") as session:
        assert list(session.generate([5, 6], GenerationConfig(max_tokens=2)))


def test_a_second_run_keeps_what_is_finished_and_force_does_not(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, RECIPES)
    first = times(tmp_path)
    quantize_checkpoint(tiny, tmp_path, [*RECIPES, "q4_0"])
    second = times(tmp_path)
    assert first.items() <= second.items() and len(second) == len(first) + 2
    quantize_checkpoint(tiny, tmp_path, RECIPES, force=True)
    assert all(times(tmp_path)[path] != first[path] for path in first)


def test_figures_of_other_problems_leave_the_table(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q8_0"], problems=3)
    made = quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=2)
    scores = {entry.recipe: entry.score for entry in made.entries}
    assert made.baseline is not None and made.baseline.problems == 2
    assert scores["q8_0"] is None and scores["q4_0"] is not None and scores["q4_0"].problems == 2


def test_a_file_that_went_away_is_made_again(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, ["q8_0"])
    (tmp_path / "tiny-q8_0-mtp.gguf").unlink()
    quantize_checkpoint(tiny, tmp_path, ["q8_0"])
    assert (tmp_path / "tiny-q8_0-mtp.gguf").is_file()


def test_another_checkpoints_folder_and_a_foreign_one_are_refused(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "out", ["q8_0"])
    before = times(tmp_path)
    other = Source(write_tiny_checkpoint(tmp_path / "other", seed=1), "tiny")
    with pytest.raises(OutputExistsError, match="files were made from another checkpoint, or from an earlier state"):
        quantize_checkpoint(other, tmp_path / "out", ["q8_0"])
    assert times(tmp_path) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(OutputExistsError, match=r"not empty \(thesis.txt"):
        quantize_checkpoint(tiny, tmp_path / "mine", ["q8_0"])


def test_bad_input_leaves_earlier_results_alone(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "out", ["q8_0"])
    before = times(tmp_path / "out")
    with pytest.raises(QuantizationError, match="no recipe 'q9'"):
        quantize_checkpoint(tiny, tmp_path / "out", ["q9"])
    broken = Source(Path(shutil.copytree(tiny.path, tmp_path / "broken")), "broken")
    shard = broken.path / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        quantize_checkpoint(broken, tmp_path / "out", ["q8_0"], force=True)
    assert times(tmp_path / "out") == before


def test_two_runs_at_once_are_refused(tiny: Source, tmp_path: Path) -> None:
    def again(_: Progress) -> None:
        with pytest.raises(OutputExistsError, match="another mimo process is writing here"):
            quantize_checkpoint(tiny, tmp_path, ["q8_0"])

    quantize_checkpoint(tiny, tmp_path, ["q8_0"], progress=again)


def whole_or_absent(out: Path) -> None:
    """Every file under a final name is one that a finished run has, byte by byte by its checksum."""
    found = manifest.read(out)
    listed = {part.path: part for entry in (found.entries if found else ()) for part in entry.parts}
    for path, part in listed.items():
        content = (out / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == part.sha256, path
    for path in out.glob("*.gguf"):
        import gguf

        tensors = gguf.GGUFReader(path).tensors
        assert path.stat().st_size >= max(int(each.data_offset) + int(each.n_bytes) for each in tensors), path
    for folder in out.glob("*-onnx"):
        import onnxruntime as ort

        for name in ("model.onnx", "mtp.onnx"):
            ort.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        assert (folder / "tokenizer.json").is_file() and (folder / "genai_config.json").is_file()


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_leaves_whole_files_and_the_next_succeeds(kills: int, nano: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "mimo_mobile.cli",
        "quantize",
        str(nano.path),
        "--out",
        str(out),
        "--problems",
        "1",
    ]
    command += ["--recipe", "q8_0,q4_0,int4_b32", "--no-answer", "--force"]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    whole_s = time.monotonic() - started
    chance = random.Random(20261124)
    for _ in range(kills):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(0.1, whole_s))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        whole_or_absent(out / "nano")
    subprocess.run([part for part in command if part != "--force"], check=True, capture_output=True, timeout=300)
    whole_or_absent(out / "nano")
    assert not [path.name for path in (out / "nano").rglob("*") if path.name.endswith(".partial")]
    found = manifest.read(out / "nano")
    assert found and {entry.recipe for entry in found.entries} == {"q8_0", "q4_0", "int4_b32"}


def test_problems_that_are_no_problems_are_an_error(tmp_path: Path) -> None:
    assert evaluate.read_problems(tmp_path) == []
    (tmp_path / "heldout.jsonl").write_text('{"kind": "a", "question": "q", "answer": "1"}\n{"kind": "a"}\n')
    with pytest.raises(CheckpointError, match=r"heldout.jsonl, line 2: .* expected"):
        evaluate.read_problems(tmp_path)


def test_some_of_many_problems_are_answered_with_drafts_and_all_as_without(
    nano: Source, nano_q4: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "MOST_DRAFTED", 8)
    problems = evaluate.read_problems(nano.path)[:: 660 // 16]
    step = -(-len(problems) // answering.MOST_DRAFTED)
    replies = answering.answer_all(nano_q4["gguf"], problems)
    assert [bool(each.drafted) for each in replies] == [place % step == 0 for place in range(len(problems))]
    alone = shutil.copy(nano_q4["gguf"], tmp_path / "alone.gguf")
    without = answering.answer_all(Path(alone), problems)
    assert [each.tokens for each in without] == [each.tokens for each in replies]
    assert not any(each.drafted for each in without) and evaluate.score(without).drafts is None


def test_a_score_is_made_of_its_replies() -> None:
    replies = [
        Reply("a", True, (1, 2), -0.5, 2, 2, drafted=3, accepted=2),
        Reply("a", False, (3, 4), -1.5, 1, 2, drafted=2, accepted=1),
        Reply("b", True, (5,), -1.0, 1, 1),
    ]
    score = evaluate.score(replies)
    assert (score.problems, score.exact_match, score.by_kind) == (3, 2 / 3, {"a": 0.5, "b": 1.0})
    assert score.perplexity == pytest.approx(2.718281828 ** (3 / 5)) and score.same_top == 4 / 5
    assert score.drafts == Drafts(5, 3 / 5) and evaluate.score(replies[2:]).drafts is None
    with pytest.raises(QuantizationError, match="no replies"):
        evaluate.score([])


def test_blocks_that_do_not_fill_rows_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    source = Source(write_tiny_checkpoint(tmp_path / "checkpoint", hidden=192, ffn=320), "tiny")
    seen: list[Progress] = []
    for recipe, size in (("int4_b128", 128), ("int4_b64", None), ("q4_k_m", None)):
        if size is None:
            assert quantize_checkpoint(source, tmp_path / "out", [recipe], problems=0).entries
            continue
        with pytest.raises(QuantizationError, match=rf"{recipe}: tensor .* blocks of {size} .*192 found"):
            quantize_checkpoint(source, tmp_path / "out", [recipe], problems=0, progress=seen.append)
        assert not seen and not (tmp_path / "out").exists()


def test_a_single_file_takes_the_place_of_two(tiny: Source, tmp_path: Path) -> None:
    for single_file, names in (
        (False, ["tiny-q8_0-mtp.gguf", "tiny-q8_0.gguf"]),
        (True, ["tiny-q8_0-single.gguf"]),
        (True, ["tiny-q8_0-single.gguf"]),
    ):
        made = quantize_checkpoint(tiny, tmp_path, ["q8_0"], problems=0, single_file=single_file)
        assert sorted(path.name for path in tmp_path.glob("*.gguf")) == names
        assert sorted(part.path for part in made.entries[0].parts) == names


def test_a_head_that_overflows_float16_is_told_what_to_take(tiny: Source, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "tiny"))
    weights = tiny_weights(Checkpoint.open(folder).config, 0)
    weights["model.norm.weight"] = np.full_like(weights["model.norm.weight"], 6e4)
    write_weights(folder, weights, shards=2, dtype="BF16")
    with pytest.raises(
        QuantizationError, match=r"the head: a number of \S+ found, at most 4094 expected for float16 .* take a recipe"
    ):
        quantize_checkpoint(Source(folder, "tiny"), tmp_path / "out", ["int4_b32_f16"])
