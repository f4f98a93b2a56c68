"""``mimo eval`` end to end: figures of files that are known to be worse or better, and what it keeps and refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile import cache_folder
from mimo_mobile.cli import main
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import answering, references, texts
from mimo_mobile.quantize.answering import Asking
from mimo_mobile.quantize.evaluate import Problem
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.quality import Job, Quality, measure_quality
from mimo_mobile.runtime import LoadConfig, load
from mimo_mobile.scores import Divergence
from tests import reference
from tests.commands import runner
from tests.tiny import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PLAIN = LoadConfig()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "own cache"
    folder.mkdir(0o700)
    monkeypatch.setenv("MIMO_CACHE", str(folder))
    cache_folder.tell.cache_clear()
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something that MiMo-nano knows nothing of, so that formats differ visibly."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((ROOT / "docs/architecture.md").read_text(encoding="utf-8")[:12_000], encoding="utf-8")
    return path


def divergence(found: Quality) -> Divergence:
    assert found.divergence is not None
    return found.divergence


@pytest.mark.parametrize("engine", ["gguf", "onnx"])
def test_a_text_is_measured_as_full_distributions_say(
    engine: str, nano_q4: dict[str, Path], nano: Source, text: Path
) -> None:
    job = Job(PLAIN, against="nano", text=text, tokens=1100, problems=0)
    found = measure_quality(nano_q4[engine], job)
    checkpoint = Checkpoint.open(nano.path)
    weights = reference.load_weights(checkpoint)
    klds, nlls, nlls_bf16, same = [], [], [], []
    with load(nano_q4[engine], speculate="off") as model:
        ids = model.tokenizer.encode(text.read_text(encoding="utf-8"))
        for start in (0, 512):
            window = ids[start : start + 512]
            logits = [reference.trunk(weights, checkpoint.config, window).logits, model.logits(window)]
            log_p, log_q = (
                each - np.logaddexp.reduce(each, axis=1, keepdims=True)
                for each in (np.asarray(both, np.float64)[256:511] for both in logits)
            )
            klds.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
            rows, after = np.arange(255), window[257:]
            nlls.append(-log_q[rows, after])
            nlls_bf16.append(-log_p[rows, after])
            same.append(log_p.argmax(axis=1) == log_q.argmax(axis=1))
    kld, measured = np.concatenate(klds), divergence(found)
    assert (found.tokens, measured.tokens) == (1024, 510)
    assert measured.mean_kld == pytest.approx(kld.mean(), rel=1e-3) and measured.mean_kld > 1e-3
    assert measured.median_kld == pytest.approx(np.median(kld), rel=1e-3)
    assert measured.p99_kld == pytest.approx(np.percentile(kld, 99), rel=1e-3)
    assert measured.same_top == np.concatenate(same).mean()
    assert found.perplexity == measured.perplexity == pytest.approx(np.exp(np.concatenate(nlls).mean()), rel=1e-5)
    assert measured.reference_perplexity == pytest.approx(np.exp(np.concatenate(nlls_bf16).mean()), rel=1e-4)
    assert (found.thinking, found.greedy, found.sampled) == (None, None, None)


@pytest.mark.slow
def test_held_out_problems_give_text_answers_and_intervals(nano_q4: dict[str, Path], own_cache: Path) -> None:
    seen: list[Progress] = []
    job = Job(PLAIN, against="nano", tokens=600, problems=11, seeds=2)
    found = measure_quality(nano_q4["gguf"], job, seen.append)
    assert found.text == "answers to held-out problems" and 500 < found.tokens <= 600
    measured = divergence(found)
    assert 0 < measured.mean_kld < 0.01 and measured.same_top > 0.98 and 1 <= found.perplexity < 1.1
    assert found.greedy is not None and found.sampled is not None and found.thinking is not None
    assert (found.greedy.problems, found.greedy.seeds, found.sampled.seeds) == (11, 0, 2)
    assert found.greedy.low < found.greedy.share <= found.greedy.high <= 1 and found.greedy.share > 0.6
    assert found.drafts is not None and found.drafts.acceptance > 0.9
    assert found.thinking.answers == 33 and found.thinking.mean_tokens > 20 and found.thinking.unclosed == 0
    stages = list(dict.fromkeys(each.stage for each in seen))
    assert stages == [
        "answer for evaluation", "reference", "reference, head", "read", "answer greedily", "answer with seed 0",
        "answer with seed 1",
    ]  # fmt: skip
    assert len(list((own_cache / "references").iterdir())) == 1


def test_a_second_file_is_measured_on_the_same_kept_text_without_the_checkpoints_weights(
    nano_q4: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(PLAIN, against="nano", tokens=400, problems=0)
    first = measure_quality(nano_q4["gguf"], job)
    monkeypatch.setattr(references, "of_checkpoint", None)
    monkeypatch.setattr(texts, "evaluation_texts", None)
    second = measure_quality(nano_q4["onnx"], job)
    assert second.tokens == first.tokens
    assert divergence(second).reference_perplexity == divergence(first).reference_perplexity
    assert divergence(second).mean_kld != divergence(first).mean_kld
    assert measure_quality(nano_q4["gguf"], job) == first


def test_eight_bits_are_nearer_than_four_and_a_model_is_no_distance_from_itself(
    nano: Source, nano_q4: dict[str, Path], nano_gguf: Path, text: Path
) -> None:
    job = Job(PLAIN, against=str(nano_gguf), text=text, tokens=600, problems=0)
    itself, four = (divergence(measure_quality(path, job)) for path in (nano_gguf, nano_q4["gguf"]))
    assert itself.max_kld < 1e-6 and itself.same_top == 1
    assert four.mean_kld > 1e-3 and four.reference_perplexity == pytest.approx(itself.perplexity)
    by_checkpoint = divergence(measure_quality(nano_q4["gguf"], Job(PLAIN, "nano", text, 600, 0)))
    assert four.mean_kld == pytest.approx(by_checkpoint.mean_kld, rel=0.01)


def test_without_a_reference_there_is_perplexity_and_thinking(nano_q4: dict[str, Path]) -> None:
    found = measure_quality(nano_q4["onnx"], Job(PLAIN, tokens=300, problems=2, seeds=1, max_tokens=64))
    assert found.text == "answers to our prompts" and found.divergence is None and found.against is None
    assert found.greedy is None and found.sampled is None
    assert found.thinking is not None and found.thinking.answers == 4 and found.perplexity > 1


def test_thinking_that_reaches_the_limit_is_unclosed(nano_q4: dict[str, Path]) -> None:
    problem = Problem("x", "What is 348 + 27 * 6?", "510")
    (cut_off,) = answering.answer_all(nano_q4["gguf"], [problem], asking=Asking(max_tokens=8))
    assert cut_off.unclosed and cut_off.thinking_tokens == len(cut_off.tokens) == 8 and not cut_off.right
    (whole,) = answering.answer_all(nano_q4["gguf"], [problem])
    assert not whole.unclosed and 20 < whole.thinking_tokens < len(whole.tokens) and whole.right


def test_seeds_sample_differently_and_each_gives_the_same_again(tiny_gguf: Path) -> None:
    problems = [Problem("x", "the answer", "")] * 3

    def answers(seed: int | None) -> list[tuple[int, ...]]:
        asking = Asking(seed=seed, max_tokens=12)
        return [each.tokens for each in answering.answer_all(tiny_gguf, problems, asking=asking, processes=1)]

    first, second, greedy = answers(0), answers(1), answers(None)
    assert first == answers(0) and first != second
    assert len(set(first)) > 1 and len(set(greedy)) == 1


def test_a_text_that_a_model_of_another_tokenizer_was_made_for_is_refused(
    nano_q4: dict[str, Path], tiny: Source, text: Path
) -> None:
    with pytest.raises(BadArgumentError, match="its tokenizer cuts texts differently from the reference's; name the"):
        measure_quality(nano_q4["gguf"], Job(PLAIN, against=str(tiny.path), text=text, tokens=100, problems=0))


def test_another_number_of_logits_is_refused(tiny_gguf: Path, tmp_path: Path, text: Path) -> None:
    padded = write_tiny_checkpoint(tmp_path / "padded", vocab_size=384)
    with pytest.raises(BadArgumentError, match="logits for 352 tokens found, 384 as the reference has expected"):
        measure_quality(tiny_gguf, Job(PLAIN, against=str(padded), text=text, tokens=100, problems=0))


def test_the_command_prints_a_table_or_json(nano_q4: dict[str, Path], text: Path) -> None:
    words = ["eval", str(nano_q4["onnx"]), "--against", "nano", "--text", str(text), "--tokens", "600"]
    shown = runner().invoke(main, [*words, "--problems", "2", "--seeds", "1"])
    assert shown.exit_code == 0, shown.output
    for figure in ("perplexity of nano", "mean KL divergence", "99 % stay below", "exact match, 1 sampled"):
        assert figure in shown.stdout
    found = json.loads(runner().invoke(main, [*words, "--problems", "0", "--json"]).stdout)
    assert found["divergence"]["tokens"] == 255 and found["greedy"] is None
    assert found["text"] == str(text)


LINES = {
    "mean_kld": r"^Mean +KLD: +([\d.-]+)",
    "median_kld": r"^Median +KLD: +([\d.-]+)",
    "p99_kld": r"^99\.0% +KLD: +([\d.-]+)",
    "max_kld": r"^Maximum KLD: +([\d.-]+)",
    "same_top": r"^Same top p: +([\d.]+)",
    "perplexity": r"^Mean PPL\(Q\) +: +([\d.]+)",
    "reference_perplexity": r"^Mean PPL\(base\) +: +([\d.]+)",
}
"""Where llama-perplexity prints each figure."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), [("tiny", "q4_0"), ("tiny", "q4_k_m"), ("nano", "q4_0")])
def test_llama_perplexity_finds_the_same(
    name: str, recipe: str, nano: Source, tiny: Source, text: Path, tmp_path: Path
) -> None:
    source = {"nano": nano, "tiny": tiny}[name]
    base = convert_checkpoint(source, tmp_path / "base.gguf", to="gguf", dtype="f32")[0]
    quantize_checkpoint(source, tmp_path / "out", [recipe], problems=0)
    file = tmp_path / "out" / f"{source.name}-{recipe}.gguf"

    def run(model: Path, *more: str) -> str:
        kv = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
        command = [
            Path(os.environ["MIMO_LLAMA_PROGRAMS"]) / "llama-perplexity",
            "-m",
            model,
            "-f",
            text,
            "-c",
            "512",
            "-t",
            "1",
            *kv,
            *more,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    kept = ["--kl-divergence-base", str(tmp_path / "kld")]
    run(base, *kept)
    # It does not wait for its thread that prints, which has not printed all when other programs were in the way.
    printed = (run(file, *kept, "--kl-divergence") for _ in range(60))
    said = next(each for each in printed if all(re.search(line, each, re.MULTILINE) for line in LINES.values()))
    job = Job(LoadConfig(kv_dtype="f32"), against=str(source.path), text=text, tokens=100_000, problems=0)
    ours = divergence(measure_quality(file, job))
    # It keeps no logit that is more than 16 below the largest, which nano has for many tokens of this text.
    for figure in LINES.keys() - ({"reference_perplexity"} if name == "nano" else set()):
        match = re.search(LINES[figure], said, re.MULTILINE)
        assert match is not None, (figure, said)
        theirs = float(match[1]) / (100 if figure == "same_top" else 1)
        # It prints six digits, and keeps the base's logits in 16 bits: steps of 0.00024.
        assert getattr(ours, figure) == pytest.approx(theirs, rel=0.005, abs=2e-5), (figure, ours, said)


@pytest.mark.slow
def test_a_peers_file_is_measured_as_ours_is(nano: Source, text: Path, tmp_path: Path) -> None:
    base = convert_checkpoint(nano, tmp_path / "base.gguf", to="gguf", dtype="bf16")[0]
    peer = tmp_path / "peer.gguf"
    tool = Path(os.environ["MIMO_LLAMA_PROGRAMS"]) / "llama-quantize"
    subprocess.run([tool, base, peer, "Q4_0"], capture_output=True, timeout=300, check=True)
    quantize_checkpoint(nano, tmp_path / "out", ["q4_0"], problems=0, effort="none")
    job = Job(PLAIN, against="nano", text=text, tokens=1100, problems=4, seeds=0)
    theirs, ours = (measure_quality(each, job) for each in (peer, tmp_path / "out"))
    assert theirs.greedy is not None and theirs.greedy.share > 0.7
    # llama-quantize leaves the head at six bits.
    assert 0.3 < divergence(theirs).mean_kld / divergence(ours).mean_kld <= 1.1


@pytest.mark.parametrize("against", ["", "/dev/null", "missing/folder", "x.gguf", "\udcff", "no\n\x1b[2J"])
def test_what_it_cannot_be_compared_with_is_told_in_one_line(against: str, tiny_gguf: Path, text: Path) -> None:
    result = runner().invoke(main, ["eval", str(tiny_gguf), "--against", against, "--text", str(text)])
    assert result.exit_code in (1, 2), result.output
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1, result.stderr
    assert "\x1b" not in result.output
