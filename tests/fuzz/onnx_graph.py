"""The graph of a trunk or an MTP layer in ONNX: a byte that says which, then the file; its weights are zeros."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from google.protobuf.message import DecodeError
from onnx import ModelProto

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime.onnx import graph_check
from tests.fuzz.mutations import NUMBERS
from tests.fuzz.scratch import scratch
from tests.tiny import write_tiny_checkpoint

KINDS = ("trunk", "mtp")
WEIGHTS_BYTES = 1 << 24


def check(data: bytes) -> None:
    """See whether it is a graph of MiMo."""
    graph, weights = scratch() / "model.onnx", scratch() / "model.onnx.data"
    if not weights.exists():
        weights.touch()
        os.truncate(weights, WEIGHTS_BYTES)
    graph.write_bytes(data[1:])
    graph_check.check(graph, KINDS[data[0] % len(KINDS)] if data else KINDS[0])


def mutate(data: bytes, random: Random) -> bytes | None:
    """Another number, name, size or operator in one place of the graph."""
    model = ModelProto()
    try:
        model.ParseFromString(data[1:])
    except DecodeError:
        return None
    graph = model.graph
    if not graph.node or not graph.initializer:
        return None
    node, other = random.choice(graph.node), random.choice(graph.node)
    weight, declared = random.choice(graph.initializer), random.choice([*graph.input, *graph.output, *graph.value_info])
    number = max(-(2**63), min(2**63 - 1, int(random.choice(NUMBERS))))
    choice = random.randrange(8)
    if choice == 0 and node.attribute:
        random.choice(node.attribute).i = number
    elif choice == 1 and node.input and other.output:
        node.input[random.randrange(len(node.input))] = random.choice([*other.input, *other.output, "", "input_ids"])
    elif choice == 2:
        node.op_type = random.choice((other.op_type, "Loop", "Expand", "Identity"))
    elif choice == 3 and weight.dims:
        weight.dims[random.randrange(len(weight.dims))] = number
    elif choice == 4:
        weight.data_type = random.randrange(-1, 25)
    elif choice == 5 and weight.external_data:
        random.choice(weight.external_data).value = random.choice((str(number), "../x", "/dev/zero", "", "1" * 400))
    elif choice == 6 and declared.type.tensor_type.shape.dim:
        random.choice(declared.type.tensor_type.shape.dim).dim_value = number
    else:
        del graph.node[random.randrange(len(graph.node))]
    return data[:1] + model.SerializeToString()


def seeds() -> Iterator[bytes]:
    """The graphs of a tiny model, with weights of int4 and of f32."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = Source(write_tiny_checkpoint(folder / "tiny", layers=1), "tiny")
        quantize_checkpoint(tiny, folder / "int4", ["int4_b32"], problems=0)
        plain = convert_checkpoint(tiny, folder / "f32", to="onnx")[0]
        for made in (folder / "int4/tiny-int4_b32-onnx", plain):
            for number, file in enumerate(("model.onnx", "mtp.onnx")):
                yield bytes([number]) + (made / file).read_bytes()
