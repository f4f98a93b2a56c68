"""What the ONNX graph's choices cost at MiMo-7B's shapes: fused products, block size, KV cache type.

Run ``python -m benchmarks.onnx_choices``. Both sides of a pair run alternately in this process on random weights of
one layer; the figure is the median of their ratios.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import click
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mimo_mobile import onnxruntime_library
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.quantize.formats import NBitsFormat

HIDDEN, FFN, HEAD_DIM = MIMO_7B.hidden_size, MIMO_7B.intermediate_size, MIMO_7B.head_dim
HEADS, KV_HEADS = MIMO_7B.num_attention_heads, MIMO_7B.num_key_value_heads
QUERY, KEY = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM

Run = Callable[[], object]

SWEPT = np.ones(1 << 26, np.float32)
"""256 MB, more than any cache."""


@dataclass
class _Graph:
    """Nodes and weights of a small graph with inputs ``x`` [rows, HIDDEN] or others."""

    nodes: list[object] = field(default_factory=list)
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def matmul(self, x: str, out: str, rows: int, block_size: int) -> str:
        random = np.random.Generator(np.random.PCG64(rows))
        values, scales = NBitsFormat(4, block_size).quantize(random.standard_normal((rows, HIDDEN), np.float32))
        self.weights |= {f"{out}.b": values, f"{out}.s": scales}
        self.node(
            "MatMulNBits", [x, f"{out}.b", f"{out}.s"], [out],
            K=HIDDEN, N=rows, bits=4, block_size=block_size, accuracy_level=4,
        )  # fmt: skip
        return out

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "com.microsoft", **attributes: object
    ) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))

    def session(self, inputs: Mapping[str, NDArray[np.generic]], outputs: Mapping[str, int]) -> Run:
        """A call that runs the graph on ``inputs``; ``outputs`` are names with their types."""
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info(name, _kind(value.dtype), value.shape) for name, value in inputs.items()],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )  # fmt: skip
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        ort = onnxruntime_library.load()
        options = ort.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        for name in outputs:
            past = inputs.get(name.replace("present", "past"))
            if past is None:
                binding.bind_output(name, "cpu")
            else:  # extended in place
                binding.bind_output(name, "cpu", 0, past.dtype, past.shape, past.ctypes.data)
        return lambda: session.run_with_iobinding(binding)


def qkv(tokens: int, fused: bool) -> Run:
    """Query, key and value as one product or as three."""
    graph = _Graph()
    sizes = {"qkv": QUERY + 2 * KEY} if fused else {"q": QUERY, "k": KEY, "v": KEY}
    outputs = {graph.matmul("x", name, rows, 32): TensorProto.FLOAT for name, rows in sizes.items()}
    return graph.session({"x": _activations(tokens)}, outputs)


def gate_up(tokens: int, fused: bool) -> Run:
    """The SwiGLU product up to its Mul, with gate and up as one product and a Split, or as two."""
    graph = _Graph()
    if fused:
        graph.matmul("x", "both", 2 * FFN, 32)
        graph.node("Split", ["both"], ["gate", "up"], "", axis=-1, num_outputs=2)
    else:
        graph.matmul("x", "gate", FFN, 32)
        graph.matmul("x", "up", FFN, 32)
    graph.node("Sigmoid", ["gate"], ["sigmoid"], "")
    graph.node("Mul", ["gate", "sigmoid"], ["silu"], "")
    graph.node("Mul", ["silu", "up"], ["y"], "")
    return graph.session({"x": _activations(tokens)}, {"y": TensorProto.FLOAT})


def block(tokens: int, block_size: int) -> Run:
    """The gate product in blocks of a size."""
    graph = _Graph()
    return graph.session({"x": _activations(tokens)}, {graph.matmul("x", "y", FFN, block_size): TensorProto.FLOAT})


def attention(tokens: int, depth: int, dtype: type[np.generic]) -> Run:
    """Attention of ``tokens`` over ``depth`` earlier ones, float32 outside, the cache in ``dtype``."""
    graph, kind = _Graph(), _kind(np.dtype(dtype))
    computed = np.float32 if dtype is np.int8 else dtype
    past = np.zeros((1, KV_HEADS, depth + tokens, HEAD_DIM), dtype)
    graph.weights = {name: np.zeros((depth + tokens, HEAD_DIM // 2), computed) for name in ("cos", "sin")}
    last = depth + tokens - 1
    graph.weights |= {"seqlens": np.array([last], np.int32), "total": np.array(last + 1, np.int32)}
    inputs, attributes = ["qkv", "", "", "past.k", "past.v", "seqlens", "total", "cos", "sin"], {}
    if dtype is np.int8:
        graph.weights |= {name: np.full(KEY, 0.01, np.float32) for name in ("scale.k", "scale.v")}
        inputs += ["", "", "", "scale.k", "scale.v"]
        attributes = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    graph.node("Cast", ["x"], ["qkv"], "", to=_kind(np.dtype(computed)))
    graph.node(
        "GroupQueryAttention", inputs, ["mixed", "present.k", "present.v"],
        num_heads=HEADS, kv_num_heads=KV_HEADS, do_rotary=1, **attributes,
    )  # fmt: skip
    graph.node("Cast", ["mixed"], ["y"], "", to=TensorProto.FLOAT)
    x = np.random.Generator(np.random.PCG64(1)).standard_normal((1, tokens, QUERY + 2 * KEY), np.float32)
    feeds: dict[str, NDArray[np.generic]] = {"x": x, "past.k": past, "past.v": past.copy()}
    return graph.session(feeds, {"y": TensorProto.FLOAT, "present.k": kind, "present.v": kind})


def compare(first: Run, second: Run, repeats: int) -> tuple[float, float]:
    """(milliseconds of the first, median of second's time over first's), run alternately with cold caches."""
    times: list[tuple[float, float]] = []
    for _ in range(repeats + 2):
        pair = []
        for run in (first, second):
            SWEPT.sum()  # as the other layers' weights would, this drives ours out of the caches
            started = time.perf_counter()
            run()
            pair.append(time.perf_counter() - started)
        times.append((pair[0], pair[1]))
    times = times[2:]
    return 1e3 * median(first for first, _ in times), median(second / first for first, second in times)


def _kind(dtype: np.dtype[np.generic]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _activations(tokens: int) -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(0)).standard_normal((1, tokens, HIDDEN), np.float32)


@click.command()
@click.option("--repeats", default=31, show_default=True)
def main(repeats: int) -> None:
    """Print what each choice costs against the other."""
    machine, version = platform.processor() or platform.machine(), onnxruntime_library.load().__version__
    click.echo(f"{machine}, {os.cpu_count()} threads, onnxruntime {version}")
    for tokens in (1, 2, 4, 128):
        for name, made in (("QKV", qkv), ("gate and up", gate_up)):
            took, ratio = compare(made(tokens, True), made(tokens, False), repeats)
            click.echo(f"{tokens:4} tokens  {name}: fused {took:.3f} ms, separate {ratio:.2f}×")
        for size in (64, 128):
            took, ratio = compare(block(tokens, 32), block(tokens, size), repeats)
            click.echo(f"{tokens:4} tokens  blocks of 32 {took:.3f} ms, of {size} {ratio:.2f}×")
    for tokens, depth in ((1, 128), (1, 1024), (1, 4096), (128, 1024), (128, 4096)):
        for dtype in (np.float32, np.int8):
            took, ratio = compare(attention(tokens, depth, np.float16), attention(tokens, depth, dtype), repeats)
            name = np.dtype(dtype).name
            click.echo(f"{tokens:4} tokens, {depth} deep  attention: KV float16 {took:.3f} ms, {name} {ratio:.2f}×")


if __name__ == "__main__":
    main()
