"""Channel scales leave the function as it is, make nothing larger, and let rounding lose less."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.convert.calibrated import Factors
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import POST_NORM, PRE_NORM
from mimo_mobile.quantize.calibrate import Statistics, calibrate
from mimo_mobile.quantize.channel_scales import after, channel_factors
from mimo_mobile.quantize.kernels import Blocks
from tests import reference
from tests.tiny import write_json, write_tiny_checkpoint, write_weights

IDS = [320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90]
Weights = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module", params=["nano", PRE_NORM, POST_NORM])
def checkpoint(request: pytest.FixtureRequest, nano: Source, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Models of which some channels read much larger numbers than others, as those of large models do."""
    source = nano.path
    if request.param != "nano":
        source = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny")
        config = json.loads((source / "config.json").read_text()) | {"mtp_hidden_state": request.param}
        write_json(source / "config.json", config)
        write_weights(source, uneven(Checkpoint.open(source)))
    return Checkpoint.open(source)


@pytest.fixture(scope="module")
def statistics(checkpoint: Checkpoint) -> Statistics:
    return calibrate(checkpoint.config, checkpoint.tensors, [IDS, IDS[::-1]])


@pytest.fixture(scope="module")
def factors(checkpoint: Checkpoint, statistics: Statistics) -> Mapping[str, Factors]:
    return channel_factors(
        checkpoint.config, checkpoint.tensors, statistics.mean_squares, lambda name: Blocks(blocks(name), 32)
    )


def blocks(name: str) -> int:
    return 8 if "mtp" in name or "lm_head" in name else 4


def uneven(checkpoint: Checkpoint) -> Weights:
    rng = np.random.Generator(np.random.PCG64(1))
    weights = {name: view.float32() for name, view in checkpoint.tensors.items()}
    for name, values in weights.items():
        if "norm" in name or "up_proj" in name or "v_proj.weight" in name:
            factors = np.exp(rng.standard_normal(len(values))).astype(np.float32)
            values *= factors.reshape(-1, *[1] * (values.ndim - 1))
    return weights


def folded(checkpoint: Checkpoint, factors: Mapping[str, Factors]) -> Weights:
    made = {}
    for name, view in checkpoint.tensors.items():
        each = factors.get(name, Factors())
        rows = np.reshape(each.rows, (-1, 1)) if len(view.shape) == 2 else each.rows
        made[name] = np.asarray(view.float32() * each.columns * rows, np.float32)
    return made


def test_the_float32_function_stays_the_same(checkpoint: Checkpoint, factors: Mapping[str, Factors]) -> None:
    config, ids = checkpoint.config, IDS
    plain, scaled = reference.load_weights(checkpoint), folded(checkpoint, factors)
    assert any(np.abs(scaled[name] - values).max() > 0.1 for name, values in plain.items())
    expected, found = reference.trunk(plain, config, ids).logits, reference.trunk(scaled, config, ids).logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    state = config.mtp_hidden_state
    drafts, same = (reference.mtp(each, config, ids, 7, hidden_state=state) for each in (plain, scaled))
    np.testing.assert_allclose(same, drafts, rtol=0, atol=1e-5 * np.abs(drafts).max())


def test_every_matrix_but_embedding_and_head_has_scales(checkpoint: Checkpoint, factors: Mapping[str, Factors]) -> None:
    shapes = checkpoint.config.tensor_shapes()
    with_columns = {name for name, each in factors.items() if np.ndim(each.columns)}
    matrices = {name for name, shape in shapes.items() if len(shape) == 2} - {"model.embed_tokens.weight"}
    # A second draft reads what the head reads.
    assert with_columns == matrices - {"lm_head.weight"}
    assert not any("final_layernorm" in name for name in factors)
    for name in with_columns:
        assert np.shape(factors[name].columns) == shapes[name][1:], name


def test_no_activation_becomes_larger(factors: Mapping[str, Factors]) -> None:
    for name, each in factors.items():
        assert np.all(np.asarray(each.rows) <= 1) and np.all(np.asarray(each.rows) > 1e-3), name


def test_statistics_are_those_of_the_folded_checkpoint(
    checkpoint: Checkpoint, statistics: Statistics, factors: Mapping[str, Factors], tmp_path: Path
) -> None:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint.path / file, tmp_path)
    write_weights(tmp_path, folded(checkpoint, factors), dtype="F32")
    written = Checkpoint.open(tmp_path)
    expected, found = calibrate(written.config, written.tensors, statistics.texts), after(statistics, factors)
    for name, values in expected.mean_squares.items():
        np.testing.assert_allclose(found.mean_squares[name], values, rtol=2e-3, err_msg=name)
    for one, other in zip(found.kv_scales, expected.kv_scales, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)
    for before, now in zip(found.ranges.layers, expected.ranges.layers, strict=True):
        for name in ("normed", "product", "value"):
            assert getattr(now, name) <= getattr(before, name) * 1.001, (now.layer, name)


def test_rounding_loses_less(checkpoint: Checkpoint, statistics: Statistics, factors: Mapping[str, Factors]) -> None:
    even = checkpoint.path.name != "tiny"  # MiMo-nano was trained with the noise of int4
    scaled, squares = folded(checkpoint, factors), after(statistics, factors).mean_squares
    ratios = []
    for end in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        (name,) = (each for each in scaled if "model.layers.1." in each and f"{end}.weight" in each)
        before = lost(checkpoint.tensors[name].float32(), statistics.mean_squares[name])
        now = lost(scaled[name], squares[name]) / np.square(factors[name].rows)
        ratios.append(float(now.mean() / before.mean()))
    assert max(ratios) < 1.02 and np.mean(ratios) < (1.0 if even else 0.9), ratios


def lost(weights: NDArray[np.float32], squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """The error of each row's result, when the largest of each 32 weights becomes -8 or 8."""
    cut = weights.reshape(len(weights), -1, 32)
    steps = np.abs(cut).max(axis=-1, keepdims=True) / 8
    errors = (cut - steps * np.clip(np.rint(cut / steps), -8, 7)).reshape(weights.shape)
    made: NDArray[np.float32] = np.square(errors) @ squares
    return made


def test_channels_that_read_or_weigh_nothing_get_scales_too(tmp_path: Path) -> None:
    source = Checkpoint.open(write_tiny_checkpoint(tmp_path / "tiny"))
    weights = {name: view.float32() for name, view in source.tensors.items()}
    weights["model.layers.0.input_layernorm.weight"][:40] = 0
    weights["model.layers.1.input_layernorm.weight"][:] = 0
    for which in "qkv":
        weights[f"model.layers.0.self_attn.{which}_proj.weight"][:, 30:70] = 0
    weights["model.layers.1.mlp.down_proj.weight"][:] = 0
    write_weights(source.path, weights)
    checkpoint = Checkpoint.open(source.path)
    found = calibrate(checkpoint.config, checkpoint.tensors, [IDS])
    factors = channel_factors(checkpoint.config, checkpoint.tensors, found.mean_squares, lambda _: Blocks(4, 32))
    for name, each in factors.items():
        for values in (each.rows, each.columns):
            assert np.all(np.isfinite(values)) and np.all(np.asarray(values) > 0), name
            assert np.max(values) < 1e4, name


def test_the_head_has_scales_where_no_second_draft_reads_what_it_reads(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_checkpoint(tmp_path / "tiny", mtp_layers=0))
    found = calibrate(checkpoint.config, checkpoint.tensors, [IDS])
    factors = channel_factors(checkpoint.config, checkpoint.tensors, found.mean_squares, lambda _: Blocks(4, 32))
    expected = reference.trunk(reference.load_weights(checkpoint), checkpoint.config, IDS).logits
    scaled = reference.trunk(folded(checkpoint, factors), checkpoint.config, IDS).logits
    assert np.ndim(factors["lm_head.weight"].columns) == 1
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_matrices_that_are_not_rounded_stay_as_they_are(checkpoint: Checkpoint, statistics: Statistics) -> None:
    only = "model.layers.0.mlp.down_proj.weight"
    found = channel_factors(
        checkpoint.config,
        checkpoint.tensors,
        statistics.mean_squares,
        lambda name: Blocks(4, 32) if name == only else None,
    )
    assert set(found) == {only, "model.layers.0.mlp.up_proj.weight"}
    assert np.ndim(found[only].rows) == 0 and np.ndim(found["model.layers.0.mlp.up_proj.weight"].columns) == 0
