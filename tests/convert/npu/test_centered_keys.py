"""Keys that lose what they have in common give the same answers, from scores that float16 can hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.convert.npu import graph as npu_graph
from mimo_mobile.convert.npu.centered_keys import MOST_TURN, NOTHING, Centers, center
from mimo_mobile.convert.npu.file import float16_compute, graphs_of, parts_of
from mimo_mobile.convert.npu.graph import Window
from mimo_mobile.convert.npu.pieces import Cut
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import QuantizationError
from mimo_mobile.hub import Source
from mimo_mobile.quantize.npu_keys import key_centers
from mimo_mobile.ranges import MOST_SCORE
from tests.hot import BIAS, write_hot
from tests.tiny import write_tiny_checkpoint, write_weights

CONTEXT = 64
IDS = list(range(5, 29))

Change = Callable[[dict[str, NDArray[np.float32]]], None]


def written(root: Path, change: Change | None = None) -> Path:
    """A tiny model in float32 in which q·k is too large for float16, after a change of its weights."""
    hot = write_hot(root / "hot", "scores", source=write_tiny_checkpoint(root / "tiny"))
    if change is not None:
        weights = {name: view.float32() for name, view in Checkpoint.open(hot.path).tensors.items()}
        change(weights)
        write_weights(hot.path, weights)
    convert_checkpoint(Source(hot.path, "tiny"), root / "out", to="onnx", dtype="f32")
    return root / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """The states `[T, E]` in float32 of the same model without the bias that softmax takes out again."""

    def without(weights: dict[str, NDArray[np.float32]]) -> None:
        for name, values in weights.items():
            values[values == BIAS] = 0 if name.endswith("bias") else BIAS

    return whole_states(written(tmp_path_factory.mktemp("plain"), without))


def run(folder: Path, centers: Centers) -> tuple[NDArray[np.float32], float]:
    """The states `[T, E]` that all layers give for ``IDS``, in three windows; and the largest key that is kept."""
    weights = WrittenWeights(folder)
    config, compute = weights.config, float16_compute(weights, centers)
    caches = {f"past_key_values.{layer}.{kind}": np.zeros((1, 2, CONTEXT, 64), np.float16)
              for layer in range(2) for kind in ("key", "value")}  # fmt: skip
    position, rows = 0, []
    for tokens in (16, 7, 1):
        feeds = {"input_ids": np.array([IDS[position : position + tokens]])}
        states = piece(folder, npu_graph.embedding(config, weights, compute), feeds)["x"]
        graph = npu_graph.layers(config, weights, compute, range(2), Window(tokens, CONTEXT), centers=centers)
        seqlens = np.array([position + tokens - 1], np.int32)
        found = piece(folder, graph, {"x": states, "seqlens_k": seqlens, **caches})
        caches = {name: found[name.replace("past_key_values", "present")] for name in caches}
        rows.append(found["x_out"][0])
        position += tokens
    return np.concatenate(rows), max(float(np.abs(each).max()) for name, each in caches.items() if "key" in name)


def piece(folder: Path, graph: object, feeds: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
    import onnx_ir as ir

    path = folder / "piece.onnx"
    ir.save(graph, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    path.unlink()
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def whole_states(folder: Path) -> NDArray[np.float32]:
    """The hidden states `[T, E]` of model.onnx."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([IDS]), "attention_mask": np.ones((1, len(IDS)), np.int64)}
    for each in session.get_inputs():
        if each.name.startswith("past_key_values."):
            feeds[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
    hidden: NDArray[np.float32] = session.run(["hidden_states"], feeds)[0]
    return hidden[0]


def test_centered_keys_change_no_state_and_are_small(folder: Path, expected: NDArray[np.float32]) -> None:
    centers = key_centers(folder, IDS, CONTEXT)
    assert set(centers) == {"model.layers.0.", "model.layers.1.", "model.mtp_layers.0."}
    assert all(np.abs(each).max() == pytest.approx(BIAS, rel=0.01) for each in centers.values())
    states, largest_key = run(folder, centers)
    assert np.abs(states - expected).max() < 0.004 * np.abs(expected).max()
    assert largest_key < BIAS / 20


def test_any_center_gives_the_same_states(folder: Path, expected: NDArray[np.float32]) -> None:
    """Those of pairs that rotary embedding turns fast, too: what softmax does not see needs no measuring."""
    weights, random = WrittenWeights(folder), np.random.Generator(np.random.PCG64(3))
    true = key_centers(folder, IDS, CONTEXT)
    other = {name: each + random.normal(0, 2, each.shape).astype(np.float32) for name, each in true.items()}
    assert set(other) >= weights.compute.float32
    assert np.abs(run(folder, other)[0] - expected).max() < 0.004 * np.abs(expected).max()


def test_only_pairs_that_turn_little_over_the_context_have_a_center(folder: Path) -> None:
    config = WrittenWeights(folder).config
    keys, half = np.ones((5, 2, 64), np.float32), config.head_dim // 2
    counts = []
    for context in (1, 64, 4096, 100_000_000):
        found = center(keys, config, context)
        np.testing.assert_array_equal(found[:, :half], found[:, half:])
        slow = [pair for pair in range(half) if context * config.rope_theta ** (-pair / half) <= MOST_TURN]
        assert np.flatnonzero(found[0, :half]).tolist() == slow
        counts.append(len(slow))
    assert counts == sorted(counts, reverse=True) and counts[0] == half and counts[-1] == 0


def large_where_rotary_embedding_turns(weights: dict[str, NDArray[np.float32]]) -> None:
    for which in "qk":
        weights[f"model.layers.1.self_attn.{which}_proj.bias"].reshape(-1, 64)[:, 3] = 300


def large_values(weights: dict[str, NDArray[np.float32]]) -> None:
    weights["model.mtp_layers.0.self_attn.v_proj.bias"][5] = 6000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (large_where_rotary_embedding_turns, r"layers\.1: a score \(q·k after scaling\) of 1\.\d+e\+04 found"),
        (large_values, r"mtp_layers\.0: a value of \d{4} found, at most 4094 expected for an NPU"),
    ],
)
def test_what_is_too_large_without_the_center_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(QuantizationError, match=message + r".*; run this model on the CPU"):
        key_centers(written(tmp_path, change), IDS, CONTEXT)


def test_scores_are_measured_at_the_context_s_end_too(folder: Path) -> None:
    """There even the slowest pair has turned, so that a constant of all keys is not the same any more."""
    config = WrittenWeights(folder).config
    slowest = config.rope_theta ** (2 / config.head_dim - 1)
    context = int(MOST_TURN / slowest)
    assert BIAS**2 * config.head_dim**-0.5 > MOST_SCORE
    with pytest.raises(
        QuantizationError, match=r"layers\.0: a score .* where all that its keys have in common is taken"
    ):
        key_centers(folder, IDS, context)


def test_without_centers_such_layers_are_refused(folder: Path) -> None:
    weights, cut = WrittenWeights(folder), Cut(CONTEXT, (16, 2, 1))
    parts = parts_of(weights, cut)
    with pytest.raises(QuantizationError, match=r"model\.layers\.0: attention in float32 found, .* no center of"):
        graphs_of(weights, cut, parts)
    assert graphs_of(weights, cut, parts, centers=key_centers(folder, IDS, CONTEXT))


def test_ordinary_models_have_no_centers(nano_q4: dict[str, Path]) -> None:
    assert key_centers(nano_q4["onnx"], IDS, CONTEXT) == NOTHING
