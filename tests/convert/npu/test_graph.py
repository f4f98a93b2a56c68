"""The pieces for NPUs compute what the trunk and the MTP layer compute; ONNX Runtime's CPU kernels are the judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from mimo_mobile.convert.npu import graph as npu_graph
from mimo_mobile.convert.npu import pieces
from mimo_mobile.convert.npu.graph import Window
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.quantize.pipeline import quantize_checkpoint

CONTEXT = 64
IDS = list(range(5, 29))


@pytest.fixture(scope="module")
def folder(tiny: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("npu")
    quantize_checkpoint(tiny, out, ["int4_b32"], problems=0)
    return out / "tiny-int4_b32-onnx"


class Pieces:
    """The pieces on the CPU, with caches that they extend."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.weights = folder, WrittenWeights(folder)
        self.caches: dict[str, NDArray[Any]] = {}

    def run(self, graph: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        path = self.folder / "piece.onnx"
        ir.save(graph, path)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        path.unlink()
        inputs = {each.name: each for each in session.get_inputs()}
        past = {name for name in inputs if name.startswith("past_key_values.")}
        for name in past - set(self.caches):
            self.caches[name] = np.zeros(inputs[name].shape, np.float16)
        names = [each.name for each in session.get_outputs()]
        found = session.run(names, {**feeds, **{name: self.caches[name] for name in past}})
        for name, value in zip(names[1:], found[1:], strict=True):
            self.caches[name.replace("present", "past_key_values")] = value
        made: NDArray[np.float32] = found[0]
        return made


def whole_logits(folder: Path, ids: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(logits [T, V], hidden states [T, E]) of model.onnx."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    for each in session.get_inputs():
        if each.name.startswith("past_key_values."):
            feeds[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), np.float16)
    logits, hidden = session.run(["logits", "hidden_states"], feeds)
    return logits[0], hidden[0]


def test_layers_in_two_parts_and_three_windows_make_the_trunk(folder: Path) -> None:
    pieces = Pieces(folder)
    weights = pieces.weights
    config, compute = weights.config, weights.compute
    expected, hidden = whole_logits(folder, IDS)
    position, rows = 0, []
    for tokens in (16, 4, 2, 1, 1):
        x = pieces.run(
            npu_graph.embedding(config, weights, compute), {"input_ids": np.array([IDS[position:][:tokens]])}
        )
        for part in (range(1), range(1, 2)):
            graph = npu_graph.layers(config, weights, compute, part, Window(tokens, CONTEXT))
            x = pieces.run(graph, {"x": x, "seqlens_k": np.array([position + tokens - 1], np.int32)})
        assert np.abs(x[0] - hidden[position : position + tokens]).max() < 0.02 * np.abs(hidden).max()
        rows.append(pieces.run(npu_graph.head(config, weights, compute, tokens), {"x": x})[0])
        position += tokens
    # int8 activations are rounded, so that other sums of the same numbers differ a little.
    assert np.abs(np.concatenate(rows) - expected).max() < 0.02 * np.abs(expected).max()


def test_rows_that_pad_a_window_leave_no_trace(folder: Path) -> None:
    pieces = Pieces(folder)
    weights = pieces.weights
    expected, _ = whole_logits(folder, IDS)

    def step(ids: list[int], position: int) -> NDArray[np.float32]:
        x = pieces.run(npu_graph.embedding(weights.config, weights, weights.compute), {"input_ids": np.array([ids])})
        graph = npu_graph.layers(weights.config, weights, weights.compute, range(2), Window(len(ids), CONTEXT))
        return pieces.run(graph, {"x": x, "seqlens_k": np.array([position + len(ids) - 1], np.int32)})

    step([*IDS[:10], 7, 7, 7, 7, 7, 7], 0)  # ten tokens in a window of sixteen
    x = step(IDS[10:24], 10)
    logits = pieces.run(npu_graph.head(weights.config, weights, weights.compute, 14), {"x": x})[0]
    assert np.abs(logits - expected[10:24]).max() < 0.02 * np.abs(expected).max()


def test_the_mtp_layer_drafts_as_its_whole_graph(folder: Path) -> None:
    pieces = Pieces(folder)
    weights = pieces.weights
    config, compute = weights.config, weights.compute
    _, hidden = whole_logits(folder, IDS)
    session = ort.InferenceSession(str(folder / "mtp.onnx"), providers=["CPUExecutionProvider"])
    feeds = {
        "input_ids": np.array([IDS[1:]]),
        "attention_mask": np.ones((1, len(IDS) - 1), np.int64),
        "hidden_states": hidden[None, :-1],
    }
    for each in session.get_inputs():
        if each.name.startswith("past_key_values."):
            feeds[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), np.float16)
    expected, names = session.run(["logits", "draft_ids"], feeds)
    x = pieces.run(npu_graph.embedding(config, weights, compute), {"input_ids": np.array([IDS[1:]])})
    graph = npu_graph.mtp(config, weights, compute, Window(len(IDS) - 1, CONTEXT))
    feeds = {"x": x, "hidden_states": hidden[None, :-1], "seqlens_k": np.array([len(IDS) - 2], np.int32)}
    normed = pieces.run(graph, feeds)
    logits = pieces.run(npu_graph.draft_head(config, weights, compute, 1), {"x": normed[:, -1:]})
    assert np.abs(logits[0, 0] - expected[0, -1]).max() < 0.02 * np.abs(expected).max()
    assert weights.draft_ids is not None and (weights.draft_ids.numpy() == names).all()


def test_mimo_7b_is_split_so_that_each_part_fits_the_npus_address_space() -> None:
    config = MimoConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, vocab_size=151680, max_position_embeddings=32768,
        rope_theta=640000.0, rms_norm_eps=1e-5,
    )  # fmt: skip
    layer = 120_000_000  # of int4 blocks of 32 with float32 scales
    parts = pieces.Cut(4096, memory_bytes=10**12).parts(config, layer)
    assert len(parts) >= 2 and [i for part in parts for i in part] == list(range(36))
    for context in (1024, 4096, 16384, 32768):
        size = layer + 2 * 2 * 2 * context * 8 * 128
        found = pieces.Cut(context, memory_bytes=10**12).parts(config, layer)
        assert all(len(part) * size <= pieces.SESSION_BYTES for part in found)


def test_another_folder_is_an_error(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelLoadError, match=r"no ONNX folder that mimo wrote|not a readable ONNX file"):
        WrittenWeights(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelLoadError, match=r"no ONNX folder that mimo wrote|not a readable ONNX file"):
        WrittenWeights(tmp_path)
