"""Graphs of others: what is not a graph of MiMo is refused before ONNX Runtime sees it, whatever it would do there."""

from __future__ import annotations

import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from mimo_mobile import graph_file, inspection
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import MimoMobileError, ModelLoadError
from mimo_mobile.hub import Source
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import load
from mimo_mobile.runtime.onnx import graph_check

Graph = Any
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@pytest.fixture(scope="module")
def quantized(tiny: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graphs")
    quantize_checkpoint(tiny, out, ["int4_b32"], problems=0)
    return out / "tiny-int4_b32-onnx"


@pytest.fixture
def folder(quantized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized, tmp_path / "x"))


def changed(folder: Path, change: Callable[[Graph], object], name: str = "model.onnx") -> Path:
    model = onnx.load(str(folder / name), load_external_data=False)
    change(model.graph)
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


@pytest.mark.parametrize("kind", ["f32", "f16", "int4_b32", "int4_b32_plus", "int4_b32_f16", "int8"])
def test_every_graph_that_we_write_passes(kind: str, tiny: Source, tmp_path: Path) -> None:
    if kind in ("f32", "f16"):
        made = convert_checkpoint(tiny, tmp_path / "x", to="onnx", dtype=kind)[0]  # type: ignore[arg-type]
    else:
        quantize_checkpoint(tiny, tmp_path, [kind], problems=0)
        made = tmp_path / f"tiny-{kind}-onnx"
        graph_check.check_folder(made / "model.kv-int8.onnx", made / "mtp.onnx", 64)
    graph_check.check_folder(made / "model.onnx", made / "mtp.onnx", 64)


def test_the_reader_says_what_the_onnx_package_says(quantized: Path) -> None:
    for path in sorted(quantized.glob("*.onnx")):
        found, expected = graph_file.read(path), onnx.load(str(path), load_external_data=False)
        assert [(each.op, each.inputs, each.outputs) for each in found.nodes] == [
            (f"{node.domain}.{node.op_type}".lstrip("."), tuple(node.input), tuple(node.output))
            for node in expected.graph.node
        ]
        for node, theirs in zip(found.nodes, expected.graph.node, strict=True):
            values = {each.name: helper.get_attribute_value(each) for each in theirs.attribute}
            assert node.attributes == {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}
        for tensor in expected.graph.initializer:
            mine, places = found.tensors[tensor.name], {each.key: each.value for each in tensor.external_data}
            assert (mine.type, mine.shape) == (onnx.TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims))
            assert (mine.location, str(mine.length)) == (places.get("location", ""), places.get("length", "0"))
            assert mine.data == (None if places else tensor.raw_data)
        assert found.metadata == {each.key: each.value for each in expected.metadata_props}
        assert not found.others
        for values_of, theirs in ((found.inputs, expected.graph.input), (found.outputs, expected.graph.output)):
            assert values_of == {
                each.name: graph_file.Declared(
                    onnx.TensorProto.DataType.Name(each.type.tensor_type.elem_type),
                    tuple(size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim),
                )
                for each in theirs
            }


@pytest.mark.newest  # older versions of onnx widen small types
def test_data_types_are_onnxs_own() -> None:
    numbers = onnx.TensorProto.DataType
    known = {numbers.Value(name): name for name in numbers.keys() if name != "UNDEFINED"}
    assert {number: name for number, (name, _) in graph_file.TYPES.items() if number in known} == known
    for number, (_, bits) in graph_file.TYPES.items():
        if number in known and number not in (8, 23) and bits >= 8:
            assert 8 * helper.tensor_dtype_to_np_dtype(number).itemsize == bits


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Callable[[Graph], None]:
    return lambda graph: graph.node.insert(0, helper.make_node(op, inputs, outputs, **attributes))


def constant(graph: Graph, name: str, values: list[float], kind: int = FLOAT, shape: list[int] | None = None) -> None:
    graph.initializer.append(helper.make_tensor(name, kind, shape or [len(values)], values))


def enormous(graph: Graph) -> None:
    constant(graph, "shape_x", [1 << 20, 1 << 20], INT64)
    node("ConstantOfShape", ["shape_x"], ["big_x"])(graph)


def doubled(graph: Graph) -> None:
    constant(graph, "c0", [1.0] * 1024)
    for step in range(40):
        graph.node.insert(step, helper.make_node("Concat", [f"c{step}"] * 2, [f"c{step + 1}"], axis=-1))


def doubled_rows(graph: Graph) -> None:
    name = next(node for node in graph.node if node.op_type == "SimplifiedLayerNormalization").output[0]
    place = [name in node.output for node in graph.node].index(True) + 1
    for step in range(40):
        before = name if step == 0 else f"c{step}"
        graph.node.insert(place + step, helper.make_node("Concat", [before] * 2, [f"c{step + 1}"], axis=-1))


def outer(graph: Graph) -> None:
    constant(graph, "a", [1.0] * 60000, shape=[60000, 1])
    constant(graph, "b", [1.0] * 60000, shape=[1, 60000])
    node("Add", ["a", "b"], ["c"])(graph)


def endless(graph: Graph) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])], "body",
        [helper.make_tensor_value_info("i", INT64, []), helper.make_tensor_value_info("go", 9, [])],
        [helper.make_tensor_value_info("on", 9, [])],
    )  # fmt: skip
    node("Loop", ["", ""], ["out"], body=body)(graph)


def attribute(op: str, name: str, value: Any) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        for node in graph.node:
            if node.op_type == op:
                kept = [each for each in node.attribute if each.name != name]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def place(**changes: str) -> Callable[[Graph], None]:
    """Says other things of where the last weight lies."""

    def change(graph: Graph) -> None:
        tensor = next(each for each in graph.initializer if each.name == "lm_head.weight")
        for each in tensor.external_data:
            each.value = changes.get(each.key, each.value)

    return change


def shaped(name: str, *shape: int) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        tensor = next(each for each in graph.initializer if each.name == name)
        del tensor.dims[:]
        tensor.dims.extend(shape)

    return change


def reversed_nodes(graph: Graph) -> None:
    nodes = list(graph.node)[::-1]
    del graph.node[:]
    graph.node.extend(nodes)


EVIL: dict[str, Callable[[Graph], object]] = {
    "enormous": enormous, "doubled": doubled, "doubled rows": doubled_rows, "outer": outer, "endless": endless,
    "reversed": reversed_nodes,
    "twice": lambda graph: graph.node.extend(graph.node[-1:]),
    "function": node("Mine", [], ["y"], domain="mine"),
    "python": node("PythonOp", [], ["y"], domain="com.microsoft"),
    "unused input": lambda graph: graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1 << 40])),
    "unused output": lambda graph: graph.output.append(helper.make_tensor_value_info("more", FLOAT, [1 << 40])),
    "wide cache": lambda graph: setattr(graph.input[2].type.tensor_type.shape.dim[1], "dim_value", 1 << 40),
    "nameless cache": lambda graph: setattr(graph.input[2].type.tensor_type.shape.dim[3], "dim_param", "d"),
    "text cache": lambda graph: setattr(graph.input[2].type.tensor_type, "elem_type", 8),
    "wide logits": lambda graph: setattr(graph.output[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 40),
    "no logits": lambda graph: graph.output.pop(0),
    "no present": lambda graph: graph.output.pop(-1),
    "no inputs": lambda graph: graph.ClearField("input"),
    "false value": lambda graph: setattr(graph.value_info[3].type.tensor_type.shape.dim[0], "dim_value", 1 << 40),
    "sparse": lambda graph: graph.sparse_initializer.add(),
    **{f"heads {n}": attribute("GroupQueryAttention", "num_heads", n) for n in (0, -4, 3, 8, 1 << 40)},
    **{f"kv heads {n}": attribute("GroupQueryAttention", "kv_num_heads", n) for n in (0, -1, 1, 3, 1 << 40)},
    **{f"scale {n}": attribute("GroupQueryAttention", "scale", n) for n in (float("nan"), float("inf"), "x")},
    "sinks": attribute("GroupQueryAttention", "smooth_softmax", 1),
    "window": attribute("GroupQueryAttention", "local_window_size", 1),
    "no rotary": attribute("GroupQueryAttention", "do_rotary", 0),
    **{f"K {n}": attribute("MatMulNBits", "K", n) for n in (0, -1, 32, 1 << 40)},
    **{f"N {n}": attribute("MatMulNBits", "N", n) for n in (0, -1, 32, 1 << 40)},
    **{f"bits {n}": attribute("MatMulNBits", "bits", n) for n in (0, 1, 2, 3, 8, 64)},
    **{f"block {n}": attribute("MatMulNBits", "block_size", n) for n in (0, 7, 16, 64, 1 << 40)},
    "accuracy": attribute("MatMulNBits", "accuracy_level", 0),
    "split": attribute("Split", "num_outputs", 1 << 30),
    "axis": attribute("Split", "axis", 0),
    **{f"epsilon {n}": attribute("SimplifiedLayerNormalization", "epsilon", n) for n in (float("nan"), -1.0, 1)},
    "gather block": attribute("GatherBlockQuantized", "block_size", 0),
    "cast": attribute("Cast", "to", 8),
    "graph attribute": attribute("Sigmoid", "body", helper.make_graph([], "g", [], [])),
    **{
        f"place {value}": place(location=value)
        for value in ("../model.onnx.data", "/etc/passwd", "/dev/zero", "link", "pipe", "nothing", "", ".", "a\\b")
    },
    "offset": place(offset=str(1 << 55)), "negative offset": place(offset="-1"), "no number": place(offset="x" * 99),
    "length": place(length="1"), "long": place(length=str(1 << 55)),
    "more rows": shaped("lm_head.weight", 1 << 40, 2, 16), "no rows": shaped("lm_head.weight", 0, 2, 16),
    "dimensions": shaped("lm_head.weight", *[1] * 9), "negative": shaped("lm_head.weight", -1, 2, 16),
    "few angles": shaped("rope.cos", 1, 16), "one constant": shaped("axis_1", 1 << 40),
}  # fmt: skip


@pytest.mark.parametrize("case", EVIL)
def test_what_is_no_graph_of_mimo_is_refused(case: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder.parent / "model.onnx.data").write_bytes((folder / "model.onnx.data").read_bytes())
    (folder / "link").symlink_to("../model.onnx.data")
    path = changed(folder, EVIL[case])
    with pytest.raises(ModelLoadError) as caught:
        load(folder, cache=False)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1 and len(message) < 900, message
    assert "ONNX Runtime" not in message


def test_an_mtp_layer_of_another_model_is_refused(quantized: Path, nano: Source, tmp_path: Path) -> None:
    other = convert_checkpoint(nano, tmp_path / "nano", to="onnx")[0]
    with pytest.raises(ModelLoadError, match=r"mtp\.onnx: not the MTP layer of model\.onnx: their sizes differ"):
        graph_check.check_folder(quantized / "model.onnx", other / "mtp.onnx", 64)


def test_tokens_that_are_none_are_not_drafted(folder: Path) -> None:
    def beyond(graph: Graph) -> None:
        tokens = next(each for each in graph.initializer if each.name == "draft_tokens")
        tokens.raw_data = (1 << 40).to_bytes(8, "little") + tokens.raw_data[8:]

    changed(folder, beyond, "mtp.onnx")
    with pytest.raises(ModelLoadError, match=r"mtp\.onnx: it scores tokens that the vocabulary does not have"):
        load(folder)


def test_the_context_has_angles_for_all_its_positions(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": ', '"max_position_embeddings": 9'))
    with pytest.raises(ModelLoadError, match=r"model\.onnx: angles for \d+ positions found, config\.json promises 9"):
        load(folder)


def test_bytes_that_are_no_protobuf_are_a_named_error_in_little_memory(quantized: Path, tmp_path: Path) -> None:
    good, draw = (quantized / "model.onnx").read_bytes(), random.Random(5)
    path, before = tmp_path / "model.onnx", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def hostile() -> Iterator[bytes]:
        yield from (
            b"\xff" * 50,
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x3b" * 9,
            b"\x38\x01",
            b"\x3a\x02\x0a\x05",
        )
        yield b"\x3a\x80\x80\x80\x02" + b"\x0a\x00" * (1 << 21)  # two million empty nodes
        yield b"\x3a\x02\x0a\x00" * 2  # two graphs
        yield b"\x00" * (65 << 20)
        for _ in range(60):
            data = bytearray(good)
            for _ in range(draw.randrange(1, 6)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            yield bytes(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)

    refused = 0
    for data in hostile():
        path.write_bytes(data)
        try:
            graph_file.read(path)
        except ModelLoadError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error)) < 900
            refused += 1
        try:
            graph_check.check(path, "trunk")
        except ModelLoadError:
            continue
    assert refused > 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_links_lead_to_where_the_graph_really_lies_and_nowhere_else(quantized: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in quantized.iterdir():
        shutil.copyfile(file, blobs / f"sha-of-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/sha-of-{file.name}")
    load(snapshot, cache=False, threads=1).close()
    (tmp_path / "elsewhere").mkdir()
    shutil.move(blobs / "sha-of-model.onnx.data", tmp_path / "elsewhere/data")
    (snapshot / "model.onnx.data").unlink()
    (snapshot / "model.onnx.data").symlink_to("../../elsewhere/data")
    with pytest.raises(ModelLoadError, match=r"model\.onnx: weight .*: model\.onnx\.data: leads out of"):
        load(snapshot, cache=False)


def test_flipped_bits_are_refused_or_load(folder: Path) -> None:
    good, draw = (folder / "model.onnx").read_bytes(), random.Random(7)
    for _ in range(40):
        data = bytearray(good)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / "model.onnx").write_bytes(bytes(data))
        try:
            load(folder, cache=False, threads=1, speculate="off").close()
        except MimoMobileError as error:
            assert len(str(error).splitlines()) == 1


def test_what_is_no_file_is_refused_and_inspected_without_waiting(folder: Path) -> None:
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        (folder / "mtp.onnx").rename(folder / "kept")
        make(folder / "mtp.onnx")
        with pytest.raises(ModelLoadError, match=r"mtp\.onnx: cannot be read: a \w+ found, a file expected"):
            inspection.inspect(folder)
        with pytest.raises(ModelLoadError, match=r"mtp\.onnx: cannot be read"):
            load(folder)
        (folder / "mtp.onnx").rmdir() if (folder / "mtp.onnx").is_dir() else (folder / "mtp.onnx").unlink()
        (folder / "kept").rename(folder / "mtp.onnx")


def test_graphs_of_others_are_inspected(tmp_path: Path) -> None:
    values = helper.make_tensor("w", FLOAT, [2, 3], [1.0] * 6)
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=values), helper.make_node("If", ["c"], ["y"])], "g",
        [helper.make_tensor_value_info("[bold]x", FLOAT, ["n", 2])], [], [values],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    found = inspection.inspect(tmp_path, tensors=True)
    assert found.facts["model.onnx nodes"] == "Constant 1, If 1"
    assert [(each.name, each.type, each.shape, each.bytes) for each in found.tensors] == [
        ("model:w", "FLOAT", "2×3", 24)
    ]
