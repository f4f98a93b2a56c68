"""ONNX folders that are damaged or lie, each made of a good one: graphs, their data, and the files beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper

from mimo_mobile.hub import Source
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests.tiny import write_tiny_checkpoint

Change = Callable[[Path], object]
"""Makes a good folder a bad one."""

BIG, TOO_BIG, NEVER = 2**31, 2**40, 2**62


def cases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every bad folder; their data file is one and the same unless the case changes it."""
    tiny = Source(write_tiny_checkpoint(folder / "checkpoint", layers=1), "tiny")
    quantize_checkpoint(tiny, folder / "good", ["int4_b32"], problems=0)
    good = folder / "good/tiny-int4_b32-onnx"
    for name, change in {**_files(), **_graphs(), **_settings()}.items():
        made = folder / name.replace("/", "-").replace(" ", "-")
        shutil.copytree(good, made, copy_function=os.link)
        change(made)
        yield name, made


def _files() -> dict[str, Change]:
    """Files that are missing, cut, nonsense, or no files at all; links out of the folder."""
    made: dict[str, Change] = {}
    for name in ("model.onnx", "model.onnx.data", "mtp.onnx", "config.json", "tokenizer.json", "chat_template.jinja"):
        made |= {
            f"{name} is missing": partial(_remove, name),
            f"{name} is empty": partial(_write, name, b""),
            f"{name} is nonsense": partial(_write, name, bytes(range(256)) * 40),
            f"{name} is cut": partial(_cut, name),
            f"{name} is a pipe": partial(_put, name, os.mkfifo),
            f"{name} is a folder": partial(_put, name, Path.mkdir),
            f"{name} is a device": partial(_link, name, "/dev/zero"),
            f"{name} is a link to nowhere": partial(_link, name, "/nowhere"),
            f"{name} is a link to itself": partial(_link, name, name),
        }
    return made


def _cut(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    _write(name, content[: len(content) // 2], folder)


def _put(name: str, make: Callable[[Path], object], folder: Path) -> None:
    make(_remove(name, folder))


def _link(name: str, target: str, folder: Path) -> None:
    _remove(name, folder).symlink_to(target)


def _graphs() -> dict[str, Change]:
    """Graphs that are no MiMo's, or whose numbers lie."""
    made: dict[str, Change] = {}

    def graph(name: str, change: Callable[[ModelProto], object], file: str = "model.onnx") -> None:
        made[f"{file}: {name}"] = lambda folder: _change_graph(folder / file, change)

    def attribute(kind: str, name: str, *values: int) -> None:
        for value in values:
            graph(f"{kind} {name} {value}", lambda model, value=value: _set(_node(model, kind), name, value))  # type: ignore[misc]

    attribute("MatMulNBits", "bits", 0, 1, 3, 16, BIG, -4)
    attribute("MatMulNBits", "block_size", 0, 1, 7, 2**20, BIG, TOO_BIG, -32)
    attribute("MatMulNBits", "K", 0, -1, 64, 8192, TOO_BIG, NEVER)
    attribute("MatMulNBits", "N", 0, -1, 64, 8192, TOO_BIG, NEVER)
    attribute("MatMulNBits", "accuracy_level", -1, 99)
    attribute("GatherBlockQuantized", "block_size", 0, 3, 4096, NEVER)
    attribute("GatherBlockQuantized", "gather_axis", -9, 7)
    attribute("GroupQueryAttention", "num_heads", 0, 1, 3, 4096, BIG, TOO_BIG, -1)
    attribute("GroupQueryAttention", "kv_num_heads", 0, 1, 3, 4096, BIG, TOO_BIG, -1)
    attribute("GroupQueryAttention", "local_window_size", 0, -7, NEVER)
    attribute("SimplifiedLayerNormalization", "axis", 9, -9)
    attribute("Cast", "to", 0, 77, 8)
    graph("no graph", lambda model: model.ClearField("graph"))
    graph("no nodes", lambda model: model.graph.ClearField("node"))
    graph("no inputs", lambda model: model.graph.ClearField("input"))
    graph("no outputs", lambda model: model.graph.ClearField("output"))
    graph("opset 999", lambda model: setattr(model.opset_import[0], "version", 999))
    graph("ir_version 999", lambda model: setattr(model, "ir_version", 999))
    graph("an unknown operator", lambda model: setattr(model.graph.node[0], "op_type", "Evil"))
    graph("an unknown domain", lambda model: setattr(model.graph.node[0], "domain", "evil"))
    graph("a cycle", lambda model: model.graph.node[0].input.__setitem__(0, model.graph.node[-1].output[0]))
    graph("a node twice", lambda model: model.graph.node.append(model.graph.node[0]))
    graph("another input name", lambda model: setattr(model.graph.input[0], "name", "evil"))
    graph("another output name", lambda model: setattr(model.graph.output[0], "name", "evil"))
    graph("names that steer terminals", lambda model: setattr(model.graph.input[0], "name", "\x1b[31m[/red]"))
    graph("metadata that steers terminals", lambda model: helper.set_model_props(model, {"\x1b[2J": "[/]\x1b[31m"}))
    graph("an endless loop", _endless)
    graph("4 TB of zeros", _zeros)
    graph("25 nested branches", _nested)
    graph("heads of a cache that differ", lambda model: _dimension(model.graph.input[2], 1, 7))
    graph("a cache of huge heads", lambda model: _dimension(model.graph.input[2], 3, BIG))
    graph("a cache of no width", lambda model: _dimension(model.graph.input[2], 3, 0))
    for key, value in (
        ("location", "../../../etc/passwd"), ("location", "/etc/passwd"), ("location", "/dev/zero"), ("location", ""),
        ("location", "tokenizer.json"), ("offset", "-1"), ("offset", str(NEVER)), ("offset", "x"), ("length", "-1"),
        ("length", "0"), ("length", str(NEVER)), ("length", "9" * 99), ("checksum", "x" * 1000),
    ):  # fmt: skip
        graph(f"data {key} {value:.20}", lambda model, key=key, value=value: _data(model, key, value))  # type: ignore[misc]
    for dimensions in ([], [0], [-1], [TOO_BIG], [NEVER, NEVER], [1] * 1000):
        graph(f"dims {dimensions!s:.24}", lambda model, dims=dimensions: _dims(model, dims))  # type: ignore[misc]
    for kind in (0, 2, 8, 99, -1):
        graph(f"type {kind} of a weight", lambda model, kind=kind: setattr(_weight(model), "data_type", kind))  # type: ignore[misc]
    graph("no inputs", lambda model: model.graph.ClearField("input"), "mtp.onnx")
    graph("an endless loop", _endless, "mtp.onnx")
    graph("data elsewhere", lambda model: _data(model, "location", "../../../etc/passwd"), "mtp.onnx")
    return made


def _settings() -> dict[str, Change]:
    """config.json and genai_config.json with values that lie."""
    made: dict[str, Change] = {}
    for value in (0, -1, 1, 1.5, 1e300, 10**400, BIG, TOO_BIG, NEVER, True, None, "4096", [], {}):
        text = json.dumps(value)
        made[f"max_position_embeddings {text:.12}"] = partial(
            _set_json, "config.json", "max_position_embeddings", value
        )
    for text in (
        "[" * 100_000,
        "{}",
        "[]",
        "3",
        '"x"',
        '{"max_position_embeddings": 1e999}',
        "NaN",
        '{"a": "\\ud800"}',
    ):
        made[f"config.json {text:.12}"] = partial(_write, "config.json", text.encode())
    made["mtp_hidden_state is a list"] = partial(_set_json, "config.json", "mtp_hidden_state", [1])
    for text in ("[" * 100_000, "{}", "", '{"model": {}}', '{"model": {"decoder": {"filename": "/etc/passwd"}}}'):
        made[f"genai_config.json {text:.60}"] = partial(_write, "genai_config.json", text.encode())
    for key in ("head_size", "num_hidden_layers", "num_key_value_heads"):
        for number in (-1, 0, BIG):
            made[f"genai_config.json {key} {number}"] = partial(_set_decoder, key, number)
    return made


def _remove(name: str, folder: Path) -> Path:
    (folder / name).unlink()
    return folder / name


def _write(name: str, content: bytes, folder: Path) -> None:
    _remove(name, folder).write_bytes(content)  # links to the good folder's file are not written through


def _set_json(name: str, key: str, value: object, folder: Path) -> None:
    found = json.loads((folder / name).read_bytes())
    _write(name, json.dumps({**found, key: value}).encode(), folder)


def _set_decoder(key: str, value: object, folder: Path) -> None:
    """Another value for onnxruntime-genai, which reads its own file."""
    found = json.loads((folder / "genai_config.json").read_bytes())
    found["model"]["decoder"][key] = value
    _write("genai_config.json", json.dumps(found).encode(), folder)


def _change_graph(file: Path, change: Callable[[ModelProto], object]) -> None:
    model = onnx.load(str(file), load_external_data=False)
    change(model)
    _write(file.name, model.SerializeToString(), file.parent)


def _node(model: ModelProto, kind: str) -> NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def _set(node: NodeProto, name: str, value: int) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _weight(model: ModelProto) -> Any:
    return next(each for each in model.graph.initializer if each.external_data)


def _data(model: ModelProto, key: str, value: str) -> None:
    weight = _weight(model)
    for entry in weight.external_data:
        if entry.key == key:
            entry.value = value
            return
    entry = weight.external_data.add()
    entry.key, entry.value = key, value


def _dims(model: ModelProto, dims: list[int]) -> None:
    weight = _weight(model)
    del weight.dims[:]
    weight.dims.extend(dims)


def _dimension(value: Any, index: int, size: int) -> None:
    value.type.tensor_type.shape.dim[index].dim_value = size


def _through(model: ModelProto, nodes: list[NodeProto], name: str) -> None:
    """Put nodes before the first one that reads the ids, which then reads ``name``."""
    reader = next(node for node in model.graph.node if "input_ids" in node.input)
    index = list(reader.input).index("input_ids")
    reader.input[index] = name
    kept = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _constant(name: str, values: list[int], kind: int = onnx.TensorProto.INT64) -> NodeProto:
    shape = [len(values)] if values and kind == onnx.TensorProto.INT64 else []
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, values))


def _scalar(name: str, value: int, kind: int) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, [], [value]))


def _endless(model: ModelProto) -> None:
    """2**62 turns of a loop that hands the ids on."""
    ids = helper.make_tensor_value_info("evil_in", onnx.TensorProto.INT64, None)
    out = helper.make_tensor_value_info("evil_next", onnx.TensorProto.INT64, None)
    turn = helper.make_tensor_value_info("evil_turn", onnx.TensorProto.INT64, [])
    go = helper.make_tensor_value_info("evil_go", onnx.TensorProto.BOOL, [])
    on = helper.make_tensor_value_info("evil_on", onnx.TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [to]) for name, to in (("evil_go", "evil_on"), ("evil_in", "evil_next"))],
        "evil", [turn, go, ids], [on, out],
    )  # fmt: skip
    nodes = [_scalar("evil_most", NEVER, onnx.TensorProto.INT64), _scalar("evil_true", 1, onnx.TensorProto.BOOL)]
    nodes.append(helper.make_node("Loop", ["evil_most", "evil_true", "input_ids"], ["evil_ids"], body=body))
    _through(model, nodes, "evil_ids")


def _zeros(model: ModelProto) -> None:
    """The ids plus the sum of 2**42 zeros."""
    nodes = [
        _constant("evil_shape", [2**39]),
        helper.make_node("ConstantOfShape", ["evil_shape"], ["evil_zeros"]),
        helper.make_node("ReduceSum", ["evil_zeros"], ["evil_sum"], keepdims=0),
        helper.make_node("Cast", ["evil_sum"], ["evil_cast"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["input_ids", "evil_cast"], ["evil_ids"]),
    ]
    _through(model, nodes, "evil_ids")


def _nested(model: ModelProto) -> None:
    """An If in an If in an If …"""
    inner = helper.make_node("Identity", ["input_ids"], ["evil_0"])
    for level in range(1, 26):
        out = helper.make_tensor_value_info(f"evil_{level - 1}", onnx.TensorProto.INT64, None)
        branch = helper.make_graph([inner], f"branch_{level}", [], [out])
        inner = helper.make_node(
            "If",
            ["evil_true"],
            [f"evil_{level}"],
            then_branch=branch,
            else_branch=helper.make_graph([], "none", [], []),
        )
    _through(model, [_scalar("evil_true", 1, onnx.TensorProto.BOOL), inner], "evil_25")
