"""A part of the table in docs/quality.md is measured anew: what calibration gains on a model not trained for int4."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import npu_quality
from benchmarks.peers.weights import PEERS
from benchmarks.quantization_quality import BEGIN, TEXTS, Yardstick, mean_squares, measure_peer, measure_recipes
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.entries import EFFORTS
from tests import smollm

pytestmark = pytest.mark.slow

CALIBRATION = TEXTS / "calibration.txt"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first four of its sixteen answers, since the highest effort reads them many times."""
    path = tmp_path_factory.mktemp("texts") / "calibration.txt"
    path.write_text(BEGIN.join(CALIBRATION.read_text(encoding="utf-8").split(BEGIN)[:5]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(smollm.write_smollm(tmp_path_factory.mktemp("smollm") / "scaled", scaled=True))


@pytest.fixture(scope="module")
def yardstick(checkpoint: Checkpoint) -> Yardstick:
    return Yardstick(checkpoint, texts=2)


def test_each_effort_loses_less_than_the_one_before(
    checkpoint: Checkpoint, yardstick: Yardstick, calibration: Path, tmp_path: Path
) -> None:
    beside = {"int4_b32": "ort-asymmetric", "q4_0": "ggml-imatrix"}
    found = [
        list(measure_recipes(checkpoint, yardstick, list(beside), effort, calibration, tmp_path / effort))
        for effort in EFFORTS
    ]
    squares = mean_squares(checkpoint, calibration)
    for rows, peer in zip(zip(*found, strict=True), beside.values(), strict=True):
        none, normal, high = (each.divergence.mean_kld for each in rows)
        assert high < normal < 0.5 * none, rows
        assert max(each.bits for each in rows) == pytest.approx(min(each.bits for each in rows), rel=1e-3)
        other = measure_peer(checkpoint, yardstick, PEERS[peer], squares)
        assert normal < 0.7 * other.divergence.mean_kld, other


def test_what_npus_get_loses_at_most_twice_as_much(
    checkpoint: Checkpoint, yardstick: Yardstick, calibration: Path, tmp_path: Path
) -> None:
    found = npu_quality.rows(checkpoint, yardstick, "normal", tmp_path, calibration)
    lost = {name: each.mean_kld for name, each in found}
    free, activations, in_units, head, npu = lost.values()
    assert free < activations < npu and in_units < npu < 2 * free and head < npu, lost


def test_texts_that_measure_do_not_calibrate() -> None:
    lines = [
        set((TEXTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()) for name in ("calibration", "evaluation")
    ]
    common = {line for line in lines[0] & lines[1] if len(line) > 25}
    assert not common
