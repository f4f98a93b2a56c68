"""Models whose numbers are too large for float16 are moved into it by powers of two, and compute the same."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from mimo_mobile import inspection, manifest
from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.folding import HEADROOM, fold
from mimo_mobile.convert.formats import F16, F32
from mimo_mobile.convert.model import write_onnx_model
from mimo_mobile.convert.npu.file import compile_for_npu
from mimo_mobile.errors import QuantizationError
from mimo_mobile.hub import Source
from mimo_mobile.quantize.calibrate import calibrate
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.formats import NBitsFormat
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.ranges import MOST_SCORE, LayerRange, ModelRanges
from mimo_mobile.runtime import GenerationConfig, Message, load
from mimo_mobile.socs import soc_named
from tests import reference
from tests.hot import BIAS, PRODUCT, RESIDUAL, write_hot
from tests.schemas import check
from tests.tiny import write_tiny_checkpoint, write_weights

IDS = [320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90]
INT4 = NBitsFormat(4, 32)


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Source]:
    """Checkpoints like MiMo-nano, each made once."""
    root, made = tmp_path_factory.mktemp("hot"), dict[str, Source]()

    def give(*kinds: str) -> Source:
        name = "-".join(kinds)
        if name not in made:
            made[name] = write_hot(root / name, *kinds)
        return made[name]

    return give


@pytest.fixture(scope="module")
def tiny_hot(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    root = tmp_path_factory.mktemp("tiny-hot")
    return Checkpoint.open(write_hot(root / "hot", "activations", source=write_tiny_checkpoint(root / "tiny")).path)


@pytest.fixture(scope="module")
def questions(nano: Source) -> list[str]:
    return [each.question for each in read_problems(nano.path)[::220]]


@pytest.fixture(scope="module")
def answers(nano_q4: dict[str, Path], questions: list[str]) -> list[list[int | None]]:
    """What MiMo-nano answers."""
    return tokens(nano_q4["onnx"], questions)


def measured(checkpoint: Checkpoint, ids: list[int] = IDS) -> Calibrated:
    """What a checkpoint computes for a text."""
    return calibrate(checkpoint.config, checkpoint.tensors, [ids]).calibrated()


def tokens(model: Path, questions: list[str], **config: Any) -> list[list[int | None]]:
    """The ids of greedy answers."""
    chosen = GenerationConfig(temperature=0, max_tokens=160)
    with load(model, ep="cpu", **config) as loaded:
        return [[each.token_id for each in loaded.generate([Message("user", text)], chosen)] for text in questions]


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The weights of a graph by name."""
    return {each.name: onnx.numpy_helper.to_array(each, str(path.parent)) for each in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    "kinds",
    [
        ("activations", "scores"),
        *(pytest.param((each,), marks=pytest.mark.slow) for each in ("residual", "product", "scores")),
    ],
    ids="-".join,
)
def test_float16_answers_hot_models_as_nano(
    hot: Callable[..., Source],
    questions: list[str],
    answers: list[list[int | None]],
    tmp_path: Path,
    kinds: tuple[str, ...],
) -> None:
    made = quantize_checkpoint(hot(*kinds), tmp_path / "hot", ["int4_b32_f16", "int4_b32", "q8_0"], problems=0)
    assert len(answers) == 3 and all(len(each) > 20 for each in answers)
    for entry in made.entries:
        for drafts in ("off", "mtp"):
            assert tokens(tmp_path / "hot" / entry.path, questions, speculate=drafts) == answers, (entry.recipe, drafts)
    model = tmp_path / "hot" / made.entries[0].path
    assert tokens(model, questions, kv_dtype="int8") == tokens(model, questions, kv_dtype="int8", speculate="mtp")
    check("manifest", tmp_path / "hot" / "manifest.json")
    assert manifest.read(tmp_path / "hot") == made


def test_folding_changes_no_bit_of_the_float32_model(tiny_hot: Checkpoint, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("plain", "folded")}
    assert write_onnx_model(tiny_hot, folders["plain"], lambda _: F32, F32, F32, {}) is None
    ranges = write_onnx_model(tiny_hot, folders["folded"], lambda _: F32, F32, F32, {}, calibrated=measured(tiny_hot))
    assert ranges is not None and ranges.residual_scale < 1 and ranges.layers[0].product_scale < 1
    made = {name: run(folder, 1.0 if name == "plain" else ranges.residual_scale) for name, folder in folders.items()}
    for plain, folded in zip(made["plain"], made["folded"], strict=True):
        np.testing.assert_array_equal(plain, folded)
    weights = reference.load_weights(tiny_hot)
    expected = reference.trunk(weights, tiny_hot.config, IDS).logits
    assert np.abs(made["folded"][0] - expected).max() < 1e-2


def run(folder: Path, scale: float) -> list[NDArray[np.float32]]:
    """Logits and unscaled hidden states of the trunk, and the MTP layer's logits of what it makes of them."""
    import onnxruntime as ort

    trunk, layer = (ort.InferenceSession(folder / name) for name in ("model.onnx", "mtp.onnx"))
    feeds: dict[str, Any] = {"input_ids": np.array([IDS]), "attention_mask": np.ones((1, len(IDS)), np.int64)}
    empty = {name: np.zeros((1, 2, 0, 64), np.float32) for name in [each.name for each in trunk.get_inputs()][2:]}
    logits, hidden = trunk.run(["logits", "hidden_states"], feeds | empty)
    past = {name: each for name, each in empty.items() if ".0." in name}
    (drafts,) = layer.run(["logits"], feeds | past | {"hidden_states": hidden})
    return [logits[0], hidden[0] / np.float32(scale), drafts[0]]


def test_only_scales_of_int4_blocks_change_and_by_powers_of_two(tiny_hot: Checkpoint, tmp_path: Path) -> None:
    write_onnx_model(tiny_hot, tmp_path / "plain", lambda _: INT4, F32, F16, {})
    write_onnx_model(tiny_hot, tmp_path / "folded", lambda _: INT4, F32, F16, {}, calibrated=measured(tiny_hot))
    changed = set()
    for graph in ("model.onnx", "mtp.onnx"):
        plain, folded = arrays(tmp_path / "plain" / graph), arrays(tmp_path / "folded" / graph)
        assert plain.keys() == folded.keys()
        for name, values in plain.items():
            if not name.endswith(".scales"):
                np.testing.assert_array_equal(values, folded[name])
            elif not np.array_equal(values, folded[name]):
                ratios = np.unique(folded[name][values != 0] / values[values != 0])
                assert np.all(np.frexp(ratios)[0] == 0.5) and len(ratios) <= 2
                changed.add(name.split(".")[-3])
    assert changed == {"embed_tokens", "input_proj", "o_proj", "gate_proj+up_proj", "down_proj"}


def test_layers_whose_scores_are_too_coarse_attend_in_float32(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "tiny")
    checkpoint = Checkpoint.open(write_hot(tmp_path / "hot", "scores", source=source).path)
    weights = {name: view.float32() for name, view in checkpoint.tensors.items()}
    for name in weights:
        if "model.layers.0.self_attn.q_proj.bias" in name:
            weights[name][:] = 0  # only in this layer is q·k small
    write_weights(tmp_path / "hot", weights)
    for activations, recipe in ((F32, "int4_b32"), (F16, "int4_b32_f16")):
        folder = tmp_path / recipe
        warm = Checkpoint.open(tmp_path / "hot")
        ranges = write_onnx_model(warm, folder, lambda _: INT4, activations, F16, {}, calibrated=measured(warm))
        assert ranges is not None
        assert {each.layer: each.float32_attention for each in ranges.layers} == {
            "layers.0": False, "layers.1": True, "mtp_layers.0": True,
        }  # fmt: skip
        assert ranges.layers[1].query_key == pytest.approx(BIAS**2, rel=0.01)
        kinds = {each.name: each.type.tensor_type.elem_type for each in onnx.load(folder / "model.onnx").graph.input}
        float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
        assert (kinds["past_key_values.0.key"], kinds["past_key_values.1.key"]) == (float16, float32)
        with load(folder, ep="cpu") as model, model.exclusive() as backend:
            assert backend.kv_bytes_per_token == 2 * 2 * 64 * (2 + 4)
            logits = backend.decode(IDS, 0, threading.Event())
            assert np.isfinite(logits).all()


@pytest.mark.needs("onnxruntime_qnn")
def test_npus_get_no_layer_with_such_scores_unless_it_was_looked_at(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "tiny")
    warm = Checkpoint.open(write_hot(tmp_path / "hot", "scores", source=source).path)
    write_onnx_model(warm, tmp_path / "onnx", lambda _: INT4, F32, F16, {}, calibrated=measured(warm))
    with pytest.raises(
        QuantizationError, match=r"model\.layers\.0: attention in float32 found, .* no center of its keys"
    ):
        compile_for_npu(tmp_path / "onnx", soc_named("SM8750"))


def test_ranges_are_measured_as_they_are(hot: Callable[..., Source], nano: Source, tmp_path: Path) -> None:
    found = {}
    for name, source in (("nano", nano), ("hot", hot("activations"))):
        ids = list(range(40))
        checkpoint = Checkpoint.open(source.path)
        ranges = write_onnx_model(
            checkpoint, tmp_path / name, lambda _: F32, F32, F32, {}, calibrated=measured(checkpoint, ids)
        )
        assert ranges is not None
        found[name] = ranges
    last = reference.trunk(reference.load_weights(Checkpoint.open(nano.path)), Checkpoint.open(nano.path).config, ids)
    assert found["nano"].layers[-2].residual >= 0.999 * np.abs(last.hidden).max()  # float32 beside float64
    assert [each.product_scale for each in found["nano"].layers] == [1.0] * 5 and found["nano"].residual_scale == 1
    for cool, warm in zip(found["nano"].layers, found["hot"].layers, strict=True):
        assert warm.residual == RESIDUAL * cool.residual and warm.product == PRODUCT * cool.product
        assert (warm.gate, warm.query_key, warm.normed) == (cool.gate, cool.query_key, cool.normed)
        assert warm.residual * found["hot"].residual_scale * HEADROOM <= 65504
        assert warm.product * warm.product_scale * HEADROOM <= 65504


COOL = LayerRange("layers.0", *[1.0] * 9)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"gate": 5000.0}, "layers.0: the MLP's gate of 5000 found, at most 4094 expected for float16"),
        ({"value": 5000.0}, "layers.0: a value of 5000 found"),
        ({"key": 70000.0}, r"layers.0: a key of 7e\+04 found"),
        ({"normed": 9000.0}, "layers.0: what a norm gives of 9000 found"),
        ({"residual": 1e9, "quietest": 0.5}, "layers.0: the residual stream is 0.5 at one token"),
    ],
)
def test_what_no_scale_brings_into_float16_is_refused(change: dict[str, float], text: str) -> None:
    ranges = ModelRanges((dataclasses.replace(COOL, **change),))
    with pytest.raises(QuantizationError, match=text + r".* take a recipe with float32 activations, e\.g\. int4_b32"):
        fold(ranges, 64, float16=True, float16_attention=True)
    assert fold(ranges, 64, float16=False, float16_attention=False).layers[0].float32_attention is False


def test_float32_attention_begins_where_float16_rounds_scores_too_much() -> None:
    for query_key, exact in ((8 * MOST_SCORE, False), (8.01 * MOST_SCORE, True)):
        ranges = ModelRanges((dataclasses.replace(COOL, query_key=query_key),))
        assert fold(ranges, 64, float16=True, float16_attention=True).layers[0].float32_attention is exact
    assert np.abs(np.float16(MOST_SCORE - 0.0624) - (MOST_SCORE - 0.0624)) <= 1 / 16


def test_inspect_shows_the_ranges(hot: Callable[..., Source], tmp_path: Path) -> None:
    quantize_checkpoint(hot("activations", "scores"), tmp_path, ["int4_b32_f16"], problems=0)
    facts = inspection.inspect(tmp_path).facts
    assert facts["int4_b32_f16 residual"].endswith("(layers.3), written 256 times smaller")
    assert facts["int4_b32_f16 product"].endswith("written smaller in 5 layers, layers.0 to mtp_layers.0")
    assert facts["int4_b32_f16 q·k before scaling"].endswith(
        "attention in float32 in 5 layers, layers.0 to mtp_layers.0"
    )
    document = json.loads((tmp_path / "manifest.json").read_text())
    del document["entries"][0]["ranges"]["layers"][0]["key"]
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(manifest.MimoMobileError, match=r"entries\[0\].ranges.layers\[0\]"):
        manifest.read(tmp_path)
