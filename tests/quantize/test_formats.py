"""Block formats against their owners: ggml's quantizer, the gguf package, ONNX Runtime's kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import gguf
import llama_cpp
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import BF16, F16, F32, PlainFormat
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.convert.tensors import map_tensor
from mimo_mobile.errors import QuantizationError
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat
from mimo_mobile.quantize.importance import matrices
from mimo_mobile.quantize.recipe_file import write_model
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.runtime import load
from tests.calibrations import calibration
from tests.tiny import write_tiny_checkpoint


def rows(count: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """Heavy-tailed weights, with a row of zeros, a block of one value and a tie."""
    values = np.random.Generator(np.random.PCG64(seed)).standard_t(4, (count, columns)).astype(np.float32)
    values[1] = 0
    values[2, :32] = -0.5
    values[3, :32:2], values[3, 1:32:2] = 1.0, -1.0
    return values


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0"])
def test_blocks_equal_the_gguf_packages(name: str) -> None:
    values = rows(8, 512)
    out = np.empty((8, GgmlFormat(name).row_bytes(512)), np.uint8)
    GgmlFormat(name).encode(values, out)
    np.testing.assert_array_equal(out, gguf.quants.quantize(values, gguf.GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_k_blocks_decode_to_the_weights(name: str) -> None:
    values = rows(8, 512)
    out = np.empty((8, GgmlFormat(name).row_bytes(512)), np.uint8)
    GgmlFormat(name).encode(values, out)
    decoded = gguf.quants.dequantize(out, gguf.GGMLQuantizationType[name])
    error = np.sqrt(((decoded - values) ** 2).mean() / (values**2).mean())
    assert error < {"Q4_K": 0.1, "Q5_K": 0.05, "Q6_K": 0.03}[name]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """As many layers as MiMo-7B, so that every layer's own type is seen."""
    folder = tmp_path_factory.mktemp("deep") / "checkpoint"
    return Source(write_tiny_checkpoint(folder, layers=36, ffn=256, shards=1), "deep")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Rows that fill no block of 256, as SmolLM2's."""
    folder = tmp_path_factory.mktemp("narrow") / "checkpoint"
    return Source(write_tiny_checkpoint(folder, layers=8, hidden=192, ffn=288, shards=1), "narrow")


WEIGHED = ("q4_k_m", "q5_k_m", "q6_k", "q8_0")
"""The recipes whose blocks ggml itself weighs by an importance; those of Q4_0 are our own."""


@pytest.mark.parametrize(
    ("name", "which", "weighed"),
    [(name, which, False) for name in ("q4_0", *WEIGHED) for which in ("nano", "deep", "narrow")]
    + [(name, which, True) for name in WEIGHED for which in ("nano", "narrow")],
)
def test_files_equal_llama_quantizes(
    name: str, which: str, weighed: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Source = request.getfixturevalue(which)
    checkpoint = Checkpoint.open(source.path)
    importance = random_importance(checkpoint.config) if weighed else {}
    ours = write_model(
        checkpoint, tmp_path / "ours.gguf", RECIPES[name], {"name": "x"}, calibrated=calibration(importance)
    )[0][0]  # fmt: skip
    plain = convert_checkpoint(source, tmp_path / "bf16.gguf", to="gguf", dtype="bf16")[0]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")
    params.pure = name == "q4_0"
    params.nthread = 2
    if weighed:
        trunk = {map_tensor(each, checkpoint.config.num_hidden_layers).name: importance[each] for each in importance}
        params.imatrix = llama_importance(trunk)
    theirs = tmp_path / "theirs.gguf"
    assert llama_cpp.llama_model_quantize(str(plain).encode(), str(theirs).encode(), ctypes.byref(params)) == 0
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(theirs).tensors}
    made = {tensor.name: tensor for tensor in gguf.GGUFReader(ours).tensors}
    assert made.keys() == expected.keys()
    for tensor_name, tensor in made.items():
        assert tensor.tensor_type == expected[tensor_name].tensor_type, tensor_name
        np.testing.assert_array_equal(tensor.data, expected[tensor_name].data, err_msg=tensor_name)
    fields = [gguf.GGUFReader(path).fields["general.file_type"].contents() for path in (ours, theirs)]
    assert fields[0] == fields[1]


def test_rows_that_fill_no_blocks_of_the_recipe_are_told_of(
    narrow: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(Checkpoint.open(narrow.path), tmp_path / "x.gguf", RECIPES["q4_k_m"], {"name": "x"})
    assert "q4_k_m: rows of 192 weights fill no blocks of Q4_K; 58 tensors are stored" in caplog.text


def test_llama_cpp_runs_our_own_mixture(tiny: Source, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.path)
    made = write_model(checkpoint, tmp_path / "x.gguf", RECIPES["q4_0_plus"], {"name": "x"})[0][0]
    reader = gguf.GGUFReader(made)
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_0
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", "Q4_0", "Q6_K", "Q8_0"}
    with load(made) as session:
        assert np.isfinite(session.logits([1, 2, 3])).all()


def random_importance(config: MimoConfig) -> dict[str, NDArray[np.float32]]:
    """Mean squares over eight orders of magnitude; the head has none, as it has none from llama-imatrix."""
    draw = np.random.Generator(np.random.PCG64(5))
    return {
        name: np.exp(draw.uniform(-9, 9, columns)).astype(np.float32)
        for name, (_, columns) in matrices(config).items()
        if name != "lm_head.weight"
    }


def llama_importance(means: Mapping[str, NDArray[np.float32]]) -> ctypes.Array[llama_cpp.llama_model_imatrix_data]:
    """What llama_model_quantize takes: an array of names and numbers that ends with an empty one."""
    pointer = ctypes.POINTER(ctypes.c_float)
    entries = [(name.encode(), each.ctypes.data_as(pointer), each.size) for name, each in means.items()]
    return (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries)


def nbits_reference(values: NDArray[np.float32], bits: int, block_size: int) -> NDArray[np.float64]:
    """What the blocks must decode to, block by block, written without numpy's tricks."""
    decoded = np.zeros(values.shape)
    middle = 2 ** (bits - 1)
    for row in range(values.shape[0]):
        for start in range(0, values.shape[1], block_size):
            block = [float(each) for each in values[row, start : start + block_size]]
            extreme = max(block, key=lambda each: (abs(each), -each))
            # bfloat16: the nearest, ties to even, of float32's upper half.
            bits32 = int(np.float32(-extreme / middle).view(np.uint32))
            bits32 = (bits32 + 0x7FFF + (bits32 >> 16 & 1)) & 0xFFFF0000
            scale = float(np.uint32(bits32).view(np.float32))
            for index, weight in enumerate(block):
                level = round(float(np.float32(weight) * np.float32(1 / scale))) if scale else 0
                decoded[row, start + index] = max(-middle, min(middle - 1, level)) * scale
    return decoded


@pytest.mark.parametrize(("bits", "block_size"), [(4, 32), (4, 64), (4, 128), (8, 32)])
def test_nbits_blocks_decode_to_the_numpy_reference(bits: Literal[4, 8], block_size: int) -> None:
    values = rows(6, 256)
    integers, scales = NBitsFormat(bits, block_size).quantize(values)
    assert not (scales.view(np.uint32) & 0xFFFF).any(), "a scale is no bfloat16"
    if bits == 4:
        integers = np.stack([integers & 15, integers >> 4], axis=-1).reshape(*integers.shape[:2], -1)
    decoded = (integers.astype(np.float64) - 2 ** (bits - 1)) * scales[..., None]
    np.testing.assert_allclose(decoded.reshape(values.shape), nbits_reference(values, bits, block_size), atol=1e-7)


@pytest.mark.parametrize(("bits", "block_size"), [(4, 32), (4, 64), (4, 128), (8, 32)])
def test_onnx_runtime_multiplies_by_what_the_blocks_decode_to(bits: Literal[4, 8], block_size: int) -> None:
    weights, x = rows(16, 256), rows(4, 256, seed=1)
    integers, scales = NBitsFormat(bits, block_size).quantize(weights)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "b", "s"],
        ["y"],
        domain="com.microsoft",
        K=256,
        N=16,
        bits=bits,
        block_size=block_size,
        accuracy_level=0,
    )
    made = run_node(node, {"x": x}, {"b": integers, "s": scales})
    expected = x.astype(np.float64) @ nbits_reference(weights, bits, block_size).T
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_the_int4_embedding_gathers_what_the_blocks_decode_to(tiny: Source, tmp_path: Path) -> None:
    folder = write_model(Checkpoint.open(tiny.path), tmp_path / "onnx", RECIPES["int4_b32"], {"name": "x"})[0][0]
    model = onnx.load(str(folder / "model.onnx"))
    node = next(node for node in model.graph.node if node.op_type == "GatherBlockQuantized")
    weights = {each.name: each for each in model.graph.initializer if each.name in node.input}
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(node.input[1], onnx.TensorProto.INT64, [None])],
        [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)], list(weights.values()),
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    session = ort.InferenceSession(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())
    ids = np.array([3, 0, 351, 17])
    made = session.run(None, {node.input[1]: ids})[0]
    table = Checkpoint.open(tiny.path).tensors["model.embed_tokens.weight"].float32()
    np.testing.assert_allclose(made, nbits_reference(table[ids], 4, 32), atol=1e-6)


def run_node(
    node: onnx.NodeProto, inputs: dict[str, NDArray[np.float32]], weights: dict[str, NDArray[np.generic]]
) -> NDArray[np.float32]:
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    session = ort.InferenceSession(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())
    result: NDArray[np.float32] = session.run(None, inputs)[0]
    return result


@pytest.mark.parametrize("made", [GgmlFormat("Q4_K"), NBitsFormat(4, 128)])
def test_rows_that_do_not_fill_blocks_are_an_error(made: GgmlFormat | NBitsFormat) -> None:
    values = np.ones((2, 96), np.float32)
    with pytest.raises(QuantizationError, match=r"a multiple of .* 96 found"):
        if isinstance(made, GgmlFormat):
            made.row_bytes(96)
        else:
            made.quantize(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_an_error(bad: float) -> None:
    values = np.ones((2, 256), np.float32)
    values[1, 7] = bad
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        NBitsFormat(4, 32).quantize(values)
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        GgmlFormat("Q4_0").encode(values, np.empty((2, 144), np.uint8))


EXTREMES = {
    "largest": (65504.0, -65504.0),
    "one large": (65504.0, 0.0),
    "subnormal": (1e-40, -3e-41),
    "smallest": (1.4e-45, 0.0),
    "tiny": (1e-9, -2e-9),
    "large and tiny": (65504.0, 1e-40),
}
"""What a checked checkpoint may hold at the most, two values in turns."""


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("name", ["F16", "BF16", "F32", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_every_weight_that_is_let_in_can_be_held_in_gguf(name: str, case: str) -> None:
    values = np.tile(np.array(EXTREMES[case], np.float32), (4, 256))
    made = {"F16": F16, "BF16": BF16, "F32": F32}.get(name) or GgmlFormat(name)
    out = np.empty((4, made.row_bytes(512)), np.uint8)
    made.encode(values, out)
    decoded = gguf.quants.dequantize(out, gguf.GGMLQuantizationType[name]).reshape(4, 512)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded - values).max() <= max(0.13 * np.abs(values).max(), 1e-7)


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("bits", [4, 8])
def test_every_weight_that_is_let_in_can_be_held_in_blocks_of_onnx(bits: Literal[4, 8], case: str) -> None:
    values = np.tile(np.array(EXTREMES[case], np.float32), (4, 32))
    levels, scales = NBitsFormat(bits, 32).quantize(values)
    if bits == 4:
        levels = np.stack([levels & 15, levels >> 4], axis=-1).reshape(4, 2, 32)
    for stored in (scales, scales.astype(np.float16).astype(np.float32)):
        decoded = ((levels.astype(np.float32) - (1 << (bits - 1))) * stored[..., None]).reshape(4, 64)
        assert np.isfinite(decoded).all()
        assert np.abs(decoded - values).max() <= max(0.15 * np.abs(values).max(), 1e-7)


@pytest.mark.parametrize("bad", [65536.0, -1e38])
@pytest.mark.parametrize("made", [F32, BF16, F16])
def test_a_larger_weight_is_refused_by_every_format(made: PlainFormat, bad: float) -> None:
    values = np.full((1, 256), bad, np.float32)
    with pytest.raises(QuantizationError, match="beyond 65504"):
        made.encode(values, np.empty((1, made.row_bytes(256)), np.uint8))
    with pytest.raises(QuantizationError, match="beyond 65504"):
        NBitsFormat(4, 32).quantize(values)
