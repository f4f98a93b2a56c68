"""What each matrix lost: nothing in a plain file, just what was changed in a changed one, and scales do not count."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.convert.calibrated import Factors
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.folding import Folded
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.quantize import tensor_errors as module
from mimo_mobile.quantize.calibrator import Calibrator
from mimo_mobile.quantize.given import Given, texts_for
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.quantize.tensor_errors import blamed, tensor_errors
from tests.hot import write_hot
from tests.tiny import tiny_weights, write_weights

CHANGED = "model.layers.1.mlp.down_proj.weight"


def test_a_plain_file_lost_nothing_and_a_changed_matrix_just_what_was_changed(tiny: Source, tmp_path: Path) -> None:
    (path, _) = convert_checkpoint(tiny, tmp_path / "m.gguf", to="gguf", dtype="f32")
    checkpoint = Checkpoint.open(tiny.path)
    errors = tensor_errors(checkpoint, path, None, None, {})
    assert {each.tensor for each in errors} == {
        name for name, view in checkpoint.tensors.items() if len(view.shape) == 2
    }
    assert {each.error for each in errors} == {0.0}
    other = Path(shutil.copytree(tiny.path, tmp_path / "other"))
    weights = tiny_weights(checkpoint.config, 0)
    weights[CHANGED] = weights[CHANGED] * 1.25  # a bfloat16 stays one up to rounding
    write_weights(other, weights, shards=2, dtype="BF16")
    found = {each.tensor: each.error for each in tensor_errors(Checkpoint.open(other), path, None, None, {})}
    assert found.pop(CHANGED) == pytest.approx(0.2, rel=0.01)
    assert set(found.values()) == {0.0}
    assert blamed(errors, 2) == errors[:2], "of equal ones the first"


def test_errors_in_columns_count_by_what_they_are_multiplied_with(tiny: Source, tmp_path: Path) -> None:
    (path, _) = convert_checkpoint(tiny, tmp_path / "m.gguf", to="gguf", dtype="f32")
    other = Path(shutil.copytree(tiny.path, tmp_path / "other"))
    weights = tiny_weights(Checkpoint.open(tiny.path).config, 0)
    weights[CHANGED][:, 7] = 0
    write_weights(other, weights, shards=2, dtype="BF16")
    squares = np.full(512, 1e-6, np.float32)

    def error(loud: int) -> float:
        squares[:] = 1e-6
        squares[loud] = 1e6
        found = tensor_errors(Checkpoint.open(tiny.path), changed, None, None, {CHANGED: squares})
        return next(each.error for each in found if each.tensor == CHANGED)

    (changed, _) = convert_checkpoint(Source(other, "other"), tmp_path / "other.gguf", to="gguf", dtype="f32")
    assert error(7) == pytest.approx(1, rel=1e-3) and error(8) < 1e-3
    assert path.is_file()


@pytest.mark.parametrize("recipe", ["q4_0", "int4_b32"])
def test_powers_of_two_that_a_model_was_written_with_are_no_errors(recipe: str, tiny: Source, tmp_path: Path) -> None:
    found = []
    for source in (tiny, write_hot(tmp_path / "hot", "activations", source=tiny.path)):
        checkpoint = Checkpoint.open(source.path)
        calibrator = Calibrator(
            checkpoint, Given("normal", texts_for(checkpoint)), [RECIPES[recipe]], tmp_path / "work"
        )
        (entry,) = quantize_checkpoint(source, tmp_path / source.name, [recipe], problems=0).entries
        path, squares = tmp_path / source.name / entry.path, calibrator.statistics.mean_squares
        found.append(tensor_errors(checkpoint, path, entry.ranges, calibrator.calibrated(RECIPES[recipe]), squares))
    plain, hot = ([each.error for each in errors] for errors in found)
    assert 0.003 < min(plain) and max(plain) < 0.2
    np.testing.assert_allclose(hot, plain, rtol=0.15)


def test_factors_are_undone_row_by_row_and_column_by_column(tiny: Source) -> None:
    view = Checkpoint.open(tiny.path).tensors[CHANGED]
    rng = np.random.Generator(np.random.PCG64(1))
    factors = Factors(rng.uniform(0.5, 2, 256).astype(np.float32), rng.uniform(0.5, 2, 512).astype(np.float32))
    tensor = Folded(view, (Factors(0.25), factors))
    np.testing.assert_allclose(tensor.undone(tensor.float32(32, 64), 32), view.float32(32, 64), rtol=1e-6)


def test_large_matrices_are_compared_in_groups_from_the_first_row_to_the_last() -> None:
    groups = list(module._groups(151_680))
    assert groups[0] == (0, 16) and groups[-1][1] == 151_680 and len(groups) == 16
    assert all(stop - start == 16 for start, stop in groups)
    assert list(module._groups(100)) == [(0, 100)]
