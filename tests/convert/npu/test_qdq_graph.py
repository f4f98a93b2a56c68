"""Quantized activations and LPBQ weights: what they lose, and that ONNX Runtime and QNN agree on what they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from mimo_mobile import providers
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.npu import graph as npu_graph
from mimo_mobile.convert.npu import qdq_graph
from mimo_mobile.convert.npu.graph import Window
from mimo_mobile.convert.npu.qdq_graph import LEVELS, ActivationTape, QdqTape, Range
from mimo_mobile.convert.npu.ranges_file import Form, read_form
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import QuantizationError
from mimo_mobile.hub import Source, resolve
from mimo_mobile.providers import QnnOptions
from mimo_mobile.quantize.calibrator import Calibrator
from mimo_mobile.quantize.formats import NBitsFormat
from mimo_mobile.quantize.given import Given, texts_for
from mimo_mobile.quantize.npu_form import load_form
from mimo_mobile.quantize.npu_ranges import TEXT_TOKENS, activation_ranges, own_answers
from mimo_mobile.quantize.recipe_file import write_model
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.runtime import load
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.tiny import write_tiny_checkpoint


def random_weights(rows: int, columns: int) -> NDArray[np.float32]:
    random = np.random.Generator(np.random.PCG64(0))
    return (
        random.standard_normal((rows, columns), dtype=np.float32) * np.linspace(0.1, 3, rows, dtype=np.float32)[:, None]
    )


@pytest.mark.parametrize(("bits", "block_size"), [(4, 32), (4, 128), (8, 32)])
def test_integers_of_matmulnbits_stand_for_what_onnx_runtime_multiplies_by(bits: int, block_size: int) -> None:
    rows, columns = 24, 256
    integers, scales = NBitsFormat(bits, block_size).quantize(random_weights(rows, columns))
    found = qdq_graph.weights(integers, scales, bits, block_size).reshape(rows, columns)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([columns, columns]))
    tape = Tape()
    inputs = [tape.initializer(ir.tensor(each, name=name)) for name, each in (("w", integers), ("s", scales))]
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block_size}
    y = tape.op("MatMulNBits", [x, *inputs], attributes, domain="com.microsoft")
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([columns, rows])
    graph = ir.Graph(
        [x], [y], nodes=tape.nodes, initializers=tape.initializers,
        opset_imports={"": 21, "com.microsoft": 1}, name="one",
    )  # fmt: skip
    session = ort.InferenceSession(
        ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    right = session.run(None, {"x": np.eye(columns, dtype=np.float32)})[0].T
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def test_blocks_in_units_are_lpbq_and_lose_little_more_than_free_ones() -> None:
    weights = random_weights(32, 512)
    lost = {}
    for in_units in (False, True):
        integers, scales = NBitsFormat(4, 32, in_units=in_units).quantize(weights, np.ones(512, np.float32))
        found = qdq_graph.weights(integers, scales, 4, 32).reshape(weights.shape)
        lost[in_units] = np.linalg.norm(found - weights)
    assert lost[True] < 1.12 * lost[False]
    levels, unit = qdq_graph.units(scales)
    assert levels.min() >= 1 and levels.max() <= LEVELS
    np.testing.assert_array_equal(levels * unit[:, None], scales)
    with pytest.raises(QuantizationError, match="quantize with --target qdq"):
        qdq_graph.units(NBitsFormat(4, 32).quantize(weights)[1])


def test_ranges_hold_zero_exactly() -> None:
    for found in (Range(), Range().joined(np.array([3.0, 7.0])), Range().joined(np.array([-2.0, 5.0]))):
        assert found.low <= 0 <= found.high and 0 <= found.zero_point <= qdq_graph.STEPS
        assert abs((0 - found.low) / found.scale - found.zero_point) <= 0.5


def test_scales_of_the_int8_cache_can_be_had(nano_folder: Path) -> None:
    weights = WrittenWeights(nano_folder)
    for layer in range(weights.config.num_hidden_layers):
        for scale in weights.kv_scales(layer):
            assert scale.numpy().shape == (weights.config.num_key_value_heads * weights.config.head_dim,)
            assert (scale.numpy() > 0).all()


@pytest.fixture(scope="module")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qdq")
    return write_in_units(resolve("nano"), out / "mimo-nano-int4_b32-onnx")


def write_in_units(source: Source, out: Path) -> Path:
    """What ``mimo quantize --target qdq`` compiles."""
    recipe, checkpoint = replace(RECIPES["int4_b32"], in_units=True), Checkpoint.open(source.path)
    found = Calibrator(checkpoint, Given("normal", texts_for(checkpoint)), [recipe], out / "work").calibrated(recipe)
    write_model(checkpoint, out, recipe, {}, calibrated=found)
    return out


def test_texts_are_the_models_own_answers(nano_folder: Path) -> None:
    texts = own_answers(nano_folder)
    assert len(texts) == 4 and {len(text) for text in texts} == {TEXT_TOKENS}
    tokenizer = TextTokenizer.from_file(resolve("nano").path / "tokenizer.json")
    assert "510" in tokenizer.decode(texts[0])  # 348 + 27 * 6


def test_ranges_belong_to_the_activations_of_any_split(nano_folder: Path) -> None:
    ranges, weights = activation_ranges(nano_folder), WrittenWeights(nano_folder)
    for which in (range(4), range(1, 3), range(3, 4)):
        tape = ActivationTape()
        npu_graph.layers(weights.config, weights, weights.compute, which, Window(4, 32), tape)
        assert len(tape.activations) == len(ranges.of_layers(which))
    assert all(each.high > each.low for layer in ranges.layers for each in layer)


@pytest.mark.needs("onnxruntime_qnn")
def test_onnx_runtime_and_qnn_compute_the_same_and_nearly_what_float_does(nano_folder: Path) -> None:
    ranges, weights = activation_ranges(nano_folder), WrittenWeights(nano_folder)
    config, compute = weights.config, weights.compute
    ids, window = own_answers(nano_folder)[0][:16], Window(16, 32)

    def run(graph: ir.Model, feeds: dict[str, NDArray[np.generic]], npu: bool = False) -> NDArray[np.float32]:
        path, options = nano_folder / "test.onnx", ort.SessionOptions()
        options.log_severity_level = 4
        ir.save(graph, path)
        if npu:
            options.add_session_config_entry(providers.NO_FALLBACK, "1")
            providers.attach(ort, options, "qnn", QnnOptions(), soc_model="69", offload_graph_io_quantization="0")
        session = ort.InferenceSession(str(path), options, **({} if npu else {"providers": ["CPUExecutionProvider"]}))
        path.unlink()
        past = {each.name: np.zeros(each.shape, np.float16) for each in session.get_inputs() if "past" in each.name}
        made: NDArray[np.float32] = session.run(None, {**feeds, **past})[0][0]
        return made

    x = run(npu_graph.embedding(config, weights, compute), {"input_ids": np.array([ids])})[None]
    feeds = {"x": x, "seqlens_k": np.array([15], np.int32)}
    right = run(npu_graph.layers(config, weights, compute, range(1), window), feeds)
    tape = QdqTape(ranges.of_layers(range(1)))
    found = run(npu_graph.layers(config, weights, compute, range(1), window, tape), feeds)
    on_qnn = run(
        npu_graph.layers(config, weights, compute, range(1), window, QdqTape(ranges.of_layers(range(1)))), feeds, True
    )
    scale = np.linalg.norm(right)
    assert np.linalg.norm(found - on_qnn) < 0.005 * scale
    assert np.linalg.norm(found - right) < 0.03 * scale


def test_a_tiny_model_is_run_as_npus_get_it_without_an_mtp_layer(tmp_path: Path) -> None:
    source = Source(write_tiny_checkpoint(tmp_path / "tiny", mtp_layers=0), "tiny")
    folder = write_in_units(source, tmp_path / "onnx")
    ranges = activation_ranges(folder)
    assert len(ranges.layers) == 2 and not ranges.mtp and not ranges.draft_head
    form = Form(ranges, 64)
    ids = list(range(1, 40))
    expected = load(folder, ep="cpu", speculate="off")
    with load_form(folder, form) as model, expected:
        whole, right = model.logits(ids), expected.logits(ids)
        with model.exclusive() as backend:
            rows = [backend.decode([each], place, Event())[0] for place, each in enumerate(ids)]
    np.testing.assert_allclose(np.array(rows), whole, atol=2e-3 * np.abs(whole).max())
    assert 0 < np.linalg.norm(whole - right) < 0.05 * np.linalg.norm(right)
    form.write(tmp_path)
    assert read_form(tmp_path) == form
    with pytest.raises(QuantizationError, match="ranges of 1 layers found, 2 expected"):
        load_form(folder, Form(replace(ranges, layers=ranges.layers[:1]), 64))
