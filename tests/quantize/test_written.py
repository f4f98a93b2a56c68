"""What a file's tensors stand for is what engines compute with: every recipe, read back without an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.hub import Source
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.quantize.written import read_written
from mimo_mobile.runtime import load
from tests.hot import write_hot
from tests.tiny import write_tiny_checkpoint

IDS = [320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("tiny")
    return write_hot(root / "hot", "activations", source=write_tiny_checkpoint(root / "tiny"))


def logits_of(path: Path, checkpoint: Checkpoint, ids: list[int]) -> forward.Array:
    config, tensors = read_written(path, checkpoint.config)
    assert set(tensors) == set(checkpoint.tensors)
    (x,) = forward.run(config, tensors, [ids])
    normed = forward.rms_norm(x, tensors["model.norm.weight"].float32(), config.rms_norm_eps)
    return np.concatenate([part for _, part in forward.logits(tensors, normed)], axis=1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_written_tensors_give_the_engine_s_logits(tiny: Source, tmp_path: Path, recipe: str) -> None:
    (entry,) = quantize_checkpoint(tiny, tmp_path, [recipe], problems=0).entries
    checkpoint = Checkpoint.open(tiny.path)
    made = logits_of(tmp_path / entry.path, checkpoint, IDS)
    with load(tmp_path / entry.path, ep="cpu", speculate="off", kv_dtype=None) as model:
        expected = model.logits(IDS)
    assert np.abs(made - expected).max() < 0.05 * np.abs(expected).max()  # engines round activations to 8 bits


@pytest.mark.parametrize(("to", "dtype"), [("gguf", "bf16"), ("onnx", "f32")])
def test_plain_files_hold_the_checkpoint_s_own_tensors(tiny: Source, tmp_path: Path, to: str, dtype: str) -> None:
    checkpoint, path = Checkpoint.open(tiny.path), tmp_path / ("m.gguf" if to == "gguf" else "m")
    convert_checkpoint(tiny, path, to=to, dtype=dtype)  # type: ignore[arg-type]  # parametrized words
    for name, rows in read_written(path, checkpoint.config)[1].items():
        view = checkpoint.tensors[name]
        np.testing.assert_array_equal(rows.float32(), view.float32(), name)
        np.testing.assert_array_equal(rows.float32(3, 7), view.float32(3, 7), name)


def test_another_model_s_file_is_an_error(tiny: Source, nano: Source, tmp_path: Path) -> None:
    (path, _) = convert_checkpoint(tiny, tmp_path / "m.gguf", to="gguf")
    with pytest.raises(ModelLoadError, match=r"blk\.2\.\S+: nothing found|expected: another model"):
        read_written(path, Checkpoint.open(nano.path).config)


def test_matrices_of_two_formats_that_read_the_same_are_written_apart(tiny: Source, tmp_path: Path) -> None:
    (entry,) = quantize_checkpoint(tiny, tmp_path, ["int4_b32_plus"], problems=0).entries
    weights = WrittenWeights(tmp_path / entry.path)
    for layer, bits in (("layers.0", [4, 8]), ("layers.1", [4, 8]), ("mtp_layers.0", [8])):
        names = [f"model.{layer}.self_attn.{which}_proj.weight" for which in "qkv"]
        found = weights.matrices(*names)
        assert [each.bits for each in found] == bits
        assert sum(each.out_features for each in found) == 512
    assert weights.matrix("model.layers.0.mlp.down_proj.weight").bits == 8
