"""What calibration knows of a checkpoint is what the float64 reference computes; texts count as they are long."""

from __future__ import annotations

import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import QuantizationError
from mimo_mobile.quantize.calibrate import Statistics, calibrate
from tests import reference
from tests.tiny import write_tiny_checkpoint, write_weights

IDS = [320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90]
OTHER = [7, 7, 200]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny"))


def statistics(checkpoint: Checkpoint, *texts: list[int]) -> Statistics:
    return calibrate(checkpoint.config, checkpoint.tensors, texts)


def test_mean_squares_are_those_of_what_matrices_read(tiny: Checkpoint) -> None:
    found, weights = statistics(tiny, IDS), reference.load_weights(tiny)
    matrices = {name for name, shape in tiny.config.tensor_shapes().items() if len(shape) == 2}
    assert set(found.mean_squares) == matrices - {"model.embed_tokens.weight"}
    embedded = weights["model.embed_tokens.weight"][IDS]
    first = reference.rms_norm(embedded, weights["model.layers.0.input_layernorm.weight"], tiny.config.rms_norm_eps)
    for which in "qkv":
        np.testing.assert_allclose(
            found.mean_squares[f"model.layers.0.self_attn.{which}_proj.weight"],
            np.square(first).mean(axis=0),
            rtol=1e-4,
        )
    last = reference.trunk(weights, tiny.config, IDS)
    np.testing.assert_allclose(found.mean_squares["lm_head.weight"], np.square(last.normed).mean(axis=0), rtol=1e-3)
    assert found.head == pytest.approx(max(np.abs(last.normed).max(), np.abs(last.logits[-1]).max()), rel=1e-3)
    norm = weights["model.mtp_layers.0.hidden_layernorm.weight"]
    hidden = reference.rms_norm(last.hidden, norm, tiny.config.rms_norm_eps)
    half = found.mean_squares["model.mtp_layers.0.input_proj.weight"][: tiny.config.hidden_size]
    np.testing.assert_allclose(half, np.square(hidden).mean(axis=0), rtol=1e-3)


def test_several_texts_count_as_they_are_long(tiny: Checkpoint) -> None:
    one, other, both = statistics(tiny, IDS), statistics(tiny, OTHER), statistics(tiny, IDS, OTHER)
    for name, values in both.mean_squares.items():
        expected = (len(IDS) * one.mean_squares[name] + len(OTHER) * other.mean_squares[name]) / (len(IDS) + len(OTHER))
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    for first, second, joined in zip(one.ranges.layers, other.ranges.layers, both.ranges.layers, strict=True):
        assert joined.product == max(first.product, second.product)
        assert joined.query_key == max(first.query_key, second.query_key)
        assert joined.quietest == min(first.quietest, second.quietest)
    for (key, value), (first_key, first_value), (second_key, second_value) in zip(
        both.kv_scales, one.kv_scales, other.kv_scales, strict=True
    ):
        np.testing.assert_array_equal(key, np.maximum(first_key, second_key))
        np.testing.assert_array_equal(value, np.maximum(first_value, second_value))


def test_numbers_that_float32_cannot_hold_are_an_error_that_names_the_layer(tiny: Checkpoint) -> None:
    weights = {name: view.float32() for name, view in tiny.tensors.items()}
    folder = tiny.path.parent / "hot"
    write_tiny_checkpoint(folder)
    for name in ("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        weights[name] *= np.float32(1e30)
    write_weights(folder, weights)
    with pytest.raises(QuantizationError, match=r"calibration: layers\.1 makes NaN or infinity; a damaged checkpoint"):
        statistics(Checkpoint.open(folder), IDS)
