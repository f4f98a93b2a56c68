"""The float16 form for phone GPUs: nothing but what WebGPU's list of kernels has; it answers on the CPU, too.

tests/gpu runs it on a Vulkan driver in software; on a GPU it was never run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from mimo_mobile.hub import resolve
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, Message, load

KERNELS = {
    # First opset of a kernel without a last one.
    # https://github.com/microsoft/onnxruntime/blob/003f772b2/onnxruntime/core/providers/webgpu/webgpu_execution_provider.cc
    "Add": 14, "Cast": 19, "Concat": 13, "Gather": 13, "Mul": 14, "ReduceSum": 13, "Sigmoid": 13, "Slice": 13,
    "Split": 18, "Sub": 14,
    # https://github.com/microsoft/onnxruntime/blob/01671d9c4/onnxruntime/contrib_ops/webgpu/webgpu_contrib_kernels.cc
    "GatherBlockQuantized": 1, "GroupQueryAttention": 1, "MatMulNBits": 1, "SimplifiedLayerNormalization": 1,
    "SkipSimplifiedLayerNormalization": 1,
}  # fmt: skip

INDICES = {"Shape", "Identity"}
"""Of int64 sizes and ids, which ONNX Runtime computes on the CPU beside every GPU."""

GREEDY = GenerationConfig(temperature=0, max_tokens=48)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("webgpu")
    quantize_checkpoint(resolve("nano"), folder, ["int4_b32", "int4_b32_f16"], problems=0)
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "mtp.onnx"])
def test_every_operator_is_on_the_list(out: Path, name: str) -> None:
    model = onnx.load(str(out / "mimo-nano-int4_b32_f16-onnx" / name), load_external_data=False)
    opsets = {each.domain: each.version for each in model.opset_import}
    found = {(node.op_type, node.domain) for node in model.graph.node}
    for operator, domain in found:
        assert operator in INDICES or KERNELS[operator] <= opsets[domain], operator


@pytest.mark.parametrize("name", ["model.onnx", "mtp.onnx"])
def test_no_float32_is_left(out: Path, name: str) -> None:
    graph = onnx.load(str(out / "mimo-nano-int4_b32_f16-onnx" / name), load_external_data=False).graph
    float32 = onnx.TensorProto.FLOAT
    values = [*graph.input, *graph.output]
    assert not [each.name for each in values if each.type.tensor_type.elem_type == float32]
    assert not [each.name for each in graph.initializer if each.data_type == float32]
    assert not [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == float32]


@pytest.mark.parametrize("name", ["model.onnx", "model.kv-int8.onnx", "mtp.onnx"])
def test_softmax_has_sinks_that_take_nothing_and_keep_webgpu_from_its_flash_attention(out: Path, name: str) -> None:
    graph = onnx.load(str(out / "mimo-nano-int4_b32_f16-onnx" / name), load_external_data=False).graph
    sinks = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer if each.name == "sinks"}
    assert sinks["sinks"].tolist() == [-60000] * 4
    for node in graph.node:
        if node.op_type == "GroupQueryAttention":
            assert node.input[11] == "sinks"
            assert {each.name: each.i for each in node.attribute}["smooth_softmax"] == 1


def test_without_sinks_the_logits_are_the_same_to_the_last_bit(out: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(out / "mimo-nano-int4_b32_f16-onnx", tmp_path / "x"))
    ids = list(range(40, 100))
    with load(folder, speculate="off") as model:
        expected = model.logits(ids)
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for node in graph.graph.node:
        if node.op_type == "GroupQueryAttention":
            del node.input[9:]
            node.attribute.remove(next(each for each in node.attribute if each.name == "smooth_softmax"))
    onnx.save(graph, str(folder / "model.onnx"))
    with load(folder, speculate="off") as model:
        np.testing.assert_array_equal(model.logits(ids), expected)


def test_it_answers_what_the_float32_form_answers(out: Path) -> None:
    questions = [each.question for each in read_problems(resolve("nano").path)][::60]
    with load(out, recipe="int4_b32") as right, load(out, recipe="int4_b32_f16", speculate="mtp") as session:
        for question in questions:
            messages = [Message("user", question)]
            expected = [token.token_id for token in right.generate(messages, GREEDY)]
            assert [token.token_id for token in session.generate(messages, GREEDY)] == expected, question
