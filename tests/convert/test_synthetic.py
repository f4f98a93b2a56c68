"""Synthetic checkpoints: MiMo-7B's table to the byte, and marked all the way to the session."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.convert import synthetic
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import Target, convert_checkpoint
from mimo_mobile.errors import CheckpointError
from mimo_mobile.hub import Source
from mimo_mobile.manifest import identify
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.runtime import load
from tests.tiny import tiny_config


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Source) -> Source:
    """The same code at the tiny model's shapes."""
    monkeypatch.setattr(synthetic, "MIMO_7B", tiny_config(layers=4))
    monkeypatch.setattr(synthetic, "POOL_WEIGHTS", 1 << 16)
    monkeypatch.setattr(synthetic, "SHARD_BYTES", 2_000_000)
    return Source(synthetic.write_synthetic(tmp_path / "random", layers=4, tokenizer=tiny.path), "random")


def test_all_shards_of_mimo_7b_hold_its_451_tensors_in_order() -> None:
    shards = list(synthetic._shards(MIMO_7B))
    assert len(shards) == 4
    assert [item for shard in shards for item in shard.items()] == list(MIMO_7B.tensor_shapes().items())
    assert "model.embed_tokens.weight" in shards[0] and "lm_head.weight" in shards[3]
    assert all("model.mtp_layers.0.input_proj.weight" not in shard for shard in shards[:3])


def test_it_is_a_checkpoint_of_random_weights_and_says_so(small: Source) -> None:
    checkpoint = Checkpoint.open(small.path)
    assert checkpoint.raw_config["mimo_mobile_synthetic"] is True
    assert len({view.path for view in checkpoint.tensors.values()}) > 2
    weights = checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].float32()
    assert weights.std() == pytest.approx(0.02, rel=0.02) and abs(weights.mean()) < 1e-3
    other = checkpoint.tensors["model.layers.1.mlp.up_proj.weight"].float32()
    assert not np.array_equal(weights, other)
    assert identify(small)["synthetic"] == "true"


@pytest.mark.parametrize("target", ["gguf", "onnx"])
def test_the_runtime_says_so_too(
    target: Target, small: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = convert_checkpoint(small, tmp_path / "x.gguf", to=target)[0]
    with caplog.at_level(logging.WARNING), load(model) as session:
        assert session.synthetic
    assert "random weights in MiMo-7B's shapes; the text means nothing" in caplog.text


def test_a_real_model_is_not_called_synthetic(tiny_gguf: Path, tiny_onnx: Path) -> None:
    for path in (tiny_gguf, tiny_onnx):
        with load(path) as session:
            assert not session.synthetic


def test_bad_arguments_are_errors_that_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers 37 is out of range, 1…36 expected"):
        synthetic.write_synthetic(tmp_path / "x", layers=37)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    (tmp_path / "words" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="normalizer is missing; not MiMo's tokenizer"):
        synthetic.write_synthetic(tmp_path / "x", tokenizer=tmp_path / "words")
    assert not (tmp_path / "x").exists()
