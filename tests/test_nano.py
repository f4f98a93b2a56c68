"""MiMo-nano keeps what its card promises: it reasons, and quantized it loses no more than it may."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import QuantizationError
from mimo_mobile.hub import Source, resolve
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import answering, evaluate
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, Message, load
from tests import reference
from tests.data import make_qwen2_logits, nano_logits
from tools import verify_optimum

ROOT = Path(__file__).resolve().parents[1]
VERIFY_PYTHON = Path(os.environ.get("MIMO_OPTIMUM_PYTHON", ROOT / ".venv-verify/bin/python"))

LOST = {"q8_0": 0.01, "q4_k_m": 0.03, "int4_b32": 0.03, "q4_0": 0.06}
"""Largest loss of exact match against bf16."""


def test_it_is_a_mimo_small_enough_to_ship(nano: Source) -> None:
    checkpoint = Checkpoint.open(nano.path)
    config = checkpoint.config
    assert 4e6 <= checkpoint.num_parameters <= 10e6 and config.num_nextn_predict_layers == 1
    assert config.hidden_size % 256 == config.intermediate_size % 256 == 0 and config.head_dim == 64
    assert {view.dtype for view in checkpoint.tensors.values()} == {"BF16"}
    assert sum(path.stat().st_size for path in nano.path.iterdir()) <= 20e6


def test_held_out_problems_are_many_and_all_different(nano: Source) -> None:
    problems = evaluate.read_problems(nano.path)
    assert len(problems) >= 500 and len({problem.kind for problem in problems}) == 11


@pytest.mark.parametrize("target", ["gguf", "onnx"])
def test_it_thinks_and_answers(target: str, nano_gguf: Path, nano_onnx: Path) -> None:
    with load(nano_gguf if target == "gguf" else nano_onnx) as session:
        config = GenerationConfig(temperature=0)
        tokens = list(session.generate([Message("user", "What is 348 + 27 * 6?")], config))
        assert "".join(token.text for token in tokens if token.channel == "answer") == "510"
        assert "27*6" in "".join(token.text for token in tokens if token.channel == "thinking")
        assert tokens[-1].finish_reason == "stop"


@pytest.mark.parametrize("target", ["gguf", "onnx"])
def test_thinking_can_be_left_out_or_cut_short(target: str, nano_gguf: Path, nano_onnx: Path) -> None:
    question = [Message("user", "What is 348 + 27 * 6?")]
    with load(nano_gguf if target == "gguf" else nano_onnx) as session:
        for config in (
            GenerationConfig(temperature=0, thinking=False),
            GenerationConfig(temperature=0, thinking_budget=0),
        ):
            tokens = list(session.generate(question, config))
            assert {token.channel for token in tokens} == {"answer"}
            assert "".join(token.text for token in tokens).strip().isdigit()
        tokens = list(session.generate(question, GenerationConfig(temperature=0, thinking_budget=20)))
        thought = [token for token in tokens if token.channel == "thinking" and token.token_id is not None]
        closing = len(session.tokenizer.encode("\n</think>\n\n"))
        assert 20 <= len(thought) <= 20 + closing
        assert "".join(token.text for token in tokens if token.channel == "answer").strip().isdigit()
        assert "think" not in "".join(token.text for token in tokens)


def test_llama_cpp_and_onnx_runtime_compute_transformers_logits(nano_gguf: Path, nano_onnx: Path) -> None:
    with np.load(nano_logits.FILE) as expected:
        ids = expected["ids"].tolist()
        with load(nano_gguf, kv_dtype="f32") as session:
            assert np.abs(session.logits(ids) - expected["logits"]).max() < 1e-3
        with load(nano_onnx) as session:
            assert np.abs(session.logits(ids) - expected["logits"]).max() < 1e-3


@pytest.mark.slow
def test_a_part_of_the_problems_is_answered(nano: Source, nano_onnx: Path) -> None:
    problems = list(evaluate.problems_of_kinds(evaluate.read_problems(nano.path), 110))
    score = evaluate.score(answering.answer_all(nano_onnx, problems))
    assert score.exact_match >= 0.93


def test_a_killed_worker_is_a_named_error(nano: Source, nano_onnx: Path) -> None:
    def kill(_: Progress) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    problems = evaluate.read_problems(nano.path)[: 4 * answering.TASK_PROBLEMS]
    with pytest.raises(QuantizationError, match=r"ended before it had; if the memory was full, .* --problems 0"):
        answering.answer_all(nano_onnx, problems, processes=1, progress=kill)


@pytest.mark.slow
def test_every_figure_of_the_table_is_within_its_limit(nano: Source, tmp_path: Path) -> None:
    made = quantize_checkpoint(nano, tmp_path, list(LOST))
    assert made.baseline is not None and made.baseline.problems == 660
    assert made.baseline.exact_match >= 0.97
    assert min(made.baseline.by_kind.values()) >= 0.90, made.baseline.by_kind
    for entry in made.entries:
        assert entry.score is not None
        assert entry.score.exact_match >= made.baseline.exact_match - LOST[entry.recipe], entry.recipe


@pytest.mark.slow
def test_recipes_differ_in_what_they_cost_a_model_that_never_saw_int4_noise(nano: Source, tmp_path: Path) -> None:
    recipes = ["q8_0", "q4_0_plus", "int4_b32_plus", "int4_b128"]
    without = resolve(ROOT / "tools/nano/mimo-nano-plain")
    plain = quantize_checkpoint(without, tmp_path / "plain", recipes, problems=330, tokens=2048)
    noised = quantize_checkpoint(nano, tmp_path / "noised", recipes, problems=0, tokens=2048)
    assert plain.baseline is not None and plain.baseline.exact_match >= 0.97
    lost = {}
    for entry, beside in zip(plain.entries, noised.entries, strict=True):
        assert entry.score and entry.divergence and beside.divergence and entry.recipe == beside.recipe
        lost[entry.recipe] = entry.divergence.mean_kld
        assert entry.recipe == "q8_0" or lost[entry.recipe] > 3 * beside.divergence.mean_kld
        if entry.recipe.endswith("_plus"):
            assert abs(entry.score.exact_match - plain.baseline.exact_match) <= 0.01
    assert lost["q8_0"] < lost["q4_0_plus"] / 10 and 1.5 * lost["int4_b32_plus"] < lost["int4_b128"]


@pytest.mark.slow
def test_first_drafts_of_the_mtp_layer_are_accepted(nano: Source, tmp_path: Path) -> None:
    """With the hidden state before the final norm, as trained; both candidates' figures are printed for the card."""
    checkpoint = Checkpoint.open(nano.path)
    weights, config = reference.load_weights(checkpoint), checkpoint.config
    model = convert_checkpoint(nano, tmp_path / "nano.gguf", to="gguf")[0]
    problems = list(evaluate.problems_of_kinds(evaluate.read_problems(nano.path), 66))
    accepted = {"pre_norm": 0, "post_norm": 0}
    total = 0
    with load(model) as session:
        for problem, reply in zip(problems, answering.answer_all(model, problems), strict=True):
            prompt = session.encode_prompt([Message("user", problem.question)], GenerationConfig())
            ids = [*prompt, *reply.tokens]
            output = reference.trunk(weights, config, ids[:-1])
            for kind, hidden in (("pre_norm", output.hidden), ("post_norm", output.normed)):
                drafts = reference.mtp_layer(weights, config, hidden[:-1], ids[1:-1]).argmax(axis=1)
                accepted[kind] += int((drafts[len(prompt) - 1 :] == np.array(ids[2:])[len(prompt) - 1 :]).sum())
            total += len(ids) - 2 - (len(prompt) - 1)
    print({kind: f"{count} of {total}" for kind, count in accepted.items()})
    assert accepted["pre_norm"] / total >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("module", [make_qwen2_logits.__name__, nano_logits.__name__])
def test_committed_logits_are_those_of_transformers(module: str) -> None:
    """In the environment of ``make verify-optimum``, which has torch and transformers."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    subprocess.run([VERIFY_PYTHON, "-m", module, "--check"], cwd=ROOT, env=environment, check=True, timeout=300)


@pytest.mark.slow
def test_optimums_export_computes_the_direct_graphs_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMO_OPTIMUM_PYTHON", str(VERIFY_PYTHON))
    difference, operators = verify_optimum.compare("nano", tmp_path)
    assert difference < 1e-3
    assert "MatMul" in operators and "GroupQueryAttention" not in operators
