"""What other quantizers make of single matrices, as the float32 weights that their results stand for.

ONNX Runtime's quantizers get a graph with one MatMul, and its runtime multiplies the identity by what they made of it.
HQQ needs PyTorch.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from mimo_mobile import onnxruntime_library
from mimo_mobile.quantize import ggml, kernels

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Peer:
    """A quantizer of others.

    Attributes:
        name: What a table calls it.
        head_has_8_bits: Whether the head has 8 bits, as in int4_b32; else it has 4 like all others, as in q4_0.
        quantized: Makes of weights [N, K], and of what their columns read [K], other weights and their size in bytes.
    """

    name: str
    head_has_8_bits: bool
    quantized: Callable[[Array, Array], tuple[Array, int]]


def onnxruntime_weights(values: Array, **settings: object) -> tuple[Array, int]:
    """Weights [N, K] after MatMulNBitsQuantizer in 4 bits and blocks of 32, and their bytes."""
    ort = onnxruntime_library.load()
    from onnxruntime.quantization import matmul_nbits_quantizer as peer

    logging.getLogger(peer.__name__).setLevel(logging.WARNING)
    rows, columns = values.shape
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weight"], ["y"], "matmul")],
        "one",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [columns, columns])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [columns, rows])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(values.T), "weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    kind = settings.pop("config", None)
    if kind == "k_quant":
        settings = {"algo_config": peer.KQuantWeightOnlyQuantConfig(ratios={})}
    elif kind == "hqq":
        settings = {"algo_config": peer.HQQWeightOnlyQuantConfig(block_size=32, bits=4)}
    quantizer = peer.MatMulNBitsQuantizer(model, block_size=32, **settings)
    with contextlib.redirect_stdout(io.StringIO()):  # one of them draws a bar
        quantizer.process()
    made = quantizer.model.model
    if all(node.op_type != "MatMulNBits" for node in made.graph.node):
        raise ValueError("MatMulNBitsQuantizer left the matrix as it was")
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": np.eye(columns, dtype=np.float32)})
    return np.ascontiguousarray(out.T), sum(len(each.raw_data) for each in made.graph.initializer)


def rounded(values: Array, bits: int) -> Array:
    """Weights [N, K] in our own blocks of 32, by rounding alone: for what no peer quantizes."""
    levels, scales = kernels.round_blocks(values, kernels.Blocks(bits, 32))
    made: Array = levels * np.repeat(scales, 32, axis=1)
    return made


def ggml_weights(kind: str, values: Array, squares: Array | None) -> tuple[Array, int]:
    """Weights [N, K] in one of ggml's types, as llama-quantize makes them, and their bytes."""
    import gguf

    ggml_type = gguf.GGMLQuantizationType[kind]
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
    out = np.empty((len(values), values.shape[1] // block_size * block_bytes), np.uint8)
    ggml.quantize_rows(ggml_type, np.ascontiguousarray(values), out, squares)
    return gguf.dequantize(out, ggml_type).astype(np.float32), out.nbytes


PEERS: Mapping[str, Peer] = {
    "ort-rtn": Peer("ORT RTN, symmetric", True, lambda w, _: onnxruntime_weights(w, is_symmetric=True)),
    "ort-asymmetric": Peer("ORT RTN, asymmetric", True, lambda w, _: onnxruntime_weights(w, is_symmetric=False)),
    "ort-k-quant": Peer("ORT k_quant", True, lambda w, _: onnxruntime_weights(w, config="k_quant")),
    "ort-hqq": Peer("ORT HQQ", True, lambda w, _: onnxruntime_weights(w, config="hqq")),
    "ggml": Peer("ggml Q4_0", False, lambda w, _: ggml_weights("Q4_0", w, None)),
    "ggml-imatrix": Peer("ggml Q4_0 with importance", False, lambda w, squares: ggml_weights("Q4_0", w, squares)),
}
"""All of them by the names that are typed."""
