"""What each effort gives: files of the same formats and function, in which less is lost the more is done."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.entries import Effort
from mimo_mobile.hub import Source
from mimo_mobile.quantize import disjoint, forward, texts
from mimo_mobile.quantize.calibrator import statistics_of
from mimo_mobile.quantize.importance import read_importance
from mimo_mobile.quantize.pipeline import IMPORTANCE, quantize_checkpoint
from mimo_mobile.quantize.recipe_file import write_model
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.quantize.written import read_written
from mimo_mobile.runtime import load
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.calibrations import calibration
from tests.tiny import write_tiny_checkpoint, write_weights

TEXT = "Seven boxes hold 12 pens each. " * 20 + "Let x = 3; then 4x + 5 = 17. " * 20
OTHER = "Nine birds sat on 5 wires; 2 flew off. How many are left? Add 31 to 46, and divide it by 7. " * 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A checkpoint some of whose channels are much larger than others, as those of trained models are."""
    folder, random = (
        write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny"),
        np.random.Generator(np.random.PCG64(1)),
    )
    weights = {name: view.float32() for name, view in Checkpoint.open(folder).tensors.items()}
    for name, values in weights.items():
        if name == "lm_head.weight":
            values /= 4
        if "norm" in name:
            values *= np.exp(random.standard_normal(values.shape, np.float32))
    write_weights(folder, weights, shards=2)
    return Source(folder, "tiny")


def divergence(path: Path, checkpoint: Checkpoint, ids: list[int]) -> float:
    """The mean KL divergence of a written file from its checkpoint, in float64."""

    def log_probabilities(config: forward.MimoConfig, tensors: forward.Tensors) -> np.ndarray:
        (x,) = forward.run(config, tensors, [ids])
        normed = forward.rms_norm(x, tensors["model.norm.weight"].float32(), config.rms_norm_eps)
        logits = np.concatenate([part for _, part in forward.logits(tensors, normed)], axis=1).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    p = log_probabilities(checkpoint.config, checkpoint.tensors)
    q = log_probabilities(*read_written(path, checkpoint.config))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.mark.parametrize("recipe", ["q4_0", "int4_b32"])
def test_more_effort_loses_less(tiny: Source, tmp_path: Path, recipe: str) -> None:
    checkpoint, lost, sizes = Checkpoint.open(tiny.path), {}, set()
    (tmp_path / "text.txt").write_text(TEXT)
    ids = TextTokenizer.from_file(tiny.path / "tokenizer.json").encode(OTHER)
    efforts: list[Effort] = ["none", "normal", "high"]
    for effort in efforts:
        made = quantize_checkpoint(
            tiny, tmp_path / effort, [recipe], problems=0, effort=effort,
            calibration=None if effort == "none" else tmp_path / "text.txt",
        )  # fmt: skip
        (entry,) = made.entries
        assert entry.effort == effort
        lost[effort] = divergence(tmp_path / effort / entry.path, checkpoint, ids)
        sizes.add(round(entry.size_bytes / 1e5))
        with load(tmp_path / effort / entry.path, ep="cpu", speculate="off") as model:
            assert np.isfinite(model.logits(ids)).all()
        assert not [path for path in (tmp_path / effort).iterdir() if path.name.endswith(".partial")]
    assert len(sizes) == 1
    assert 0.95 * lost["none"] > lost["normal"] > lost["high"], lost  # random weights leave less to gain than real ones


def test_the_matrix_that_is_written_is_one_that_is_taken(tiny: Source, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.path)
    quantize_checkpoint(tiny, tmp_path / "first", ["q4_k_m"], problems=0)
    matrix = tmp_path / "first" / IMPORTANCE
    expected_of = statistics_of(checkpoint).mean_squares
    for name, values in read_importance(matrix, checkpoint.config).items():
        np.testing.assert_allclose(values, expected_of[name], rtol=1e-5)
    made = quantize_checkpoint(tiny, tmp_path / "second", ["q4_k_m"], problems=0, importance=matrix)
    expected = tmp_path / "expected.gguf"
    known = calibration(read_importance(matrix, checkpoint.config))
    write_model(checkpoint, expected, RECIPES["q4_k_m"], {"name": "tiny"}, calibrated=known)
    ours, theirs = (gguf.GGUFReader(path).tensors for path in (tmp_path / "second" / made.entries[0].path, expected))
    assert len(ours) == len(theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        assert one.name == other.name and np.array_equal(one.data, other.data), one.name


@pytest.mark.slow
def test_the_highest_effort_reads_the_model_s_own_answers(nano: Source, tmp_path: Path) -> None:
    made = quantize_checkpoint(nano, tmp_path, ["int4_b32", "q4_0"], problems=60, effort="high")
    assert made.baseline is not None
    for entry in made.entries:
        assert entry.score is not None and entry.score.exact_match >= made.baseline.exact_match - 0.02, entry.recipe
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    ours = disjoint.hashes([tokenizer.encode(texts.TEXT.read_text(encoding="utf-8"))])
    assert len(disjoint.calibrated_on(tmp_path / made.entries[0].path)) > 2 * len(ours)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
