"""The float32 forward pass gives what the float64 reference gives, layer by layer, and keeps texts apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import POST_NORM
from mimo_mobile.quantize import forward
from tests import reference
from tests.tiny import write_tiny_checkpoint

IDS = [320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny"))


def whole_logits(checkpoint: Checkpoint, normed: forward.Array) -> forward.Array:
    return np.concatenate([part for _, part in forward.logits(checkpoint.tensors, normed)], axis=1)


def test_texts_give_the_reference_s_states_and_logits(nano: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(nano.path)
    weights, config = reference.load_weights(checkpoint), checkpoint.config
    texts = [list(range(40)), [7], list(range(300, 520))]
    states = forward.run(config, checkpoint.tensors, texts)
    monkeypatch.setattr(forward, "HEAD_WEIGHTS", 5000)  # so that the head comes in many pieces
    for ids, x in zip(texts, states, strict=True):
        expected = reference.trunk(weights, config, ids)
        np.testing.assert_allclose(x, expected.hidden, atol=1e-4 * np.abs(expected.hidden).max())
        normed = forward.rms_norm(x, checkpoint.tensors["model.norm.weight"].float32(), config.rms_norm_eps)
        np.testing.assert_allclose(whole_logits(checkpoint, normed), expected.logits, atol=2e-3)


@pytest.mark.parametrize("states", ["pre_norm", POST_NORM])
def test_mtp_layers_give_the_reference_s_logits(tiny: Checkpoint, states: str) -> None:
    config = dataclasses.replace(tiny.config, mtp_hidden_state=states)
    seen: dict[str, forward.Trace] = {}
    forward.run(config, tiny.tensors, [IDS], seen.__setitem__, mtp=True)
    assert list(seen) == ["layers.0", "layers.1", "mtp_layers.0"]
    norm = tiny.tensors["model.mtp_layers.0.final_layernorm.weight"].float32()
    made = whole_logits(tiny, forward.rms_norm(seen["mtp_layers.0"].x_out, norm, config.rms_norm_eps))
    expected = reference.mtp(
        reference.load_weights(tiny),
        config,
        IDS,
        IDS[-1],
        hidden_state="post_norm" if states == POST_NORM else "pre_norm",
    )
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_what_matrices_read_times_the_matrices_is_what_they_give(tiny: Checkpoint) -> None:
    seen: dict[str, forward.Trace] = {}
    forward.run(tiny.config, tiny.tensors, [IDS], seen.__setitem__, mtp=True)
    matrices = {name for name, shape in tiny.config.tensor_shapes().items() if len(shape) == 2 and "layers" in name}
    named = {f"model.{layer}.{end}" for layer, trace in seen.items() for end in trace.inputs()}
    assert named == matrices
    trace = seen["mtp_layers.0"]
    for end, given in (("input_proj", trace.x), ("self_attn.o_proj", trace.attended), ("mlp.down_proj", trace.added)):
        weight = tiny.tensors[f"model.mtp_layers.0.{end}.weight"].float32()
        expected = trace.inputs()[f"{end}.weight"].astype(np.float64) @ weight.T.astype(np.float64)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(trace.x + trace.attended + trace.added, trace.x_out, atol=1e-6)


def test_progress_counts_layers(tiny: Checkpoint) -> None:
    seen: list[tuple[int, int, str]] = []
    forward.run(
        tiny.config,
        tiny.tensors,
        [IDS, IDS],
        mtp=True,
        progress=lambda each: seen.append((each.done, each.total, each.name)),
    )
    assert seen == [(1, 3, "layers.0"), (2, 3, "layers.1"), (3, 3, "mtp_layers.0")]
