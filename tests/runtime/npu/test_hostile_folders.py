"""Folders of binaries for NPUs as strangers may make them: what is not ours is refused before QNN sees it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from mimo_mobile.errors import ModelLoadError
from mimo_mobile.providers import QnnOptions
from mimo_mobile.runtime.npu import folder as npu_folder
from mimo_mobile.runtime.onnx import graph_check
from tests.runtime.onnx.test_hostile_graphs import FLOAT, Graph, attribute, constant, node


def compiled(folder: Path, change: Callable[[Graph], object] = lambda graph: None) -> Path:
    """A head for an NPU, as QNN's compiler describes it."""
    attributes = {"main_context": 1, "ep_cache_context": "head.1_qnn.bin", "embed_mode": 0, "source": "QNN"}
    graph = helper.make_graph(
        [helper.make_node("EPContext", ["x"], ["logits"], domain="com.microsoft", **attributes)], "head",
        [helper.make_tensor_value_info("x", FLOAT, [1, 1, 64])],
        [helper.make_tensor_value_info("logits", FLOAT, [1, 1, 99])],
    )  # fmt: skip
    change(graph)
    (folder / "head.1_qnn.bin").write_bytes(b"x")
    onnx.save(helper.make_model(graph), str(folder / "head.1.onnx"))
    return folder / "head.1.onnx"


@pytest.mark.parametrize(
    "change",
    [
        *(
            attribute("EPContext", "ep_cache_context", each)
            for each in ("../x", "/etc/passwd", "pipe", "link", "no", ".")
        ),
        attribute("EPContext", "embed_mode", 1),
        attribute("EPContext", "ep_cache_context", 3),
        node("Identity", ["x"], ["y"]),
        lambda graph: graph.node.pop(),
        lambda graph: constant(graph, "w", [1.0]),
        lambda graph: setattr(graph.input[0], "name", "y"),
        lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 40),
        lambda graph: setattr(graph.output[0].type.tensor_type.shape.dim[2], "dim_value", -1),
        lambda graph: setattr(graph.output[0].type.tensor_type.shape.dim[2], "dim_param", "n"),
        lambda graph: setattr(graph.output[0].type.tensor_type, "elem_type", 8),
    ],
)
def test_a_binary_for_an_npu_lies_beside_its_graph(change: Callable[[Graph], object], tmp_path: Path) -> None:
    folder = tmp_path / "qnn"
    folder.mkdir()
    graph_check.check_compiled(compiled(folder), "head")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/etc/passwd")
    path = compiled(folder, change)
    with pytest.raises(ModelLoadError, match=r"head\.1\.onnx: not what mimo compiles: .*; compile again"):
        graph_check.check_compiled(path, "head")


def test_binaries_for_an_npu_lie_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/npu.json").write_text("{}")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/qnn-SM8750").symlink_to("../other")
    with pytest.raises(ModelLoadError, match="qnn-SM8750: leads out of"):
        npu_folder.find(tmp_path / "x", QnnOptions())


def test_drafts_for_an_npu_are_read_from_their_one_format(tmp_path: Path) -> None:
    def saved(array: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    file, good = tmp_path / "draft_ids.npy", saved(np.arange(9, dtype=np.int64))
    file.write_bytes(good)
    assert npu_folder.draft_ids(tmp_path).tolist() == list(range(9))
    for data in (
        b"", good[:-1], good + b"x", good.replace(b"(9,)", b"(8,)"), good.replace(b"(9,)", b"(10**12,)"), b"PK" + good,
        good.replace(b"<i8", b"|O8"), saved(np.arange(9, dtype=np.int32)), saved(np.arange(9).reshape(3, 3)),
        saved(np.array([-1])), saved(np.array([1 << 40])), saved(np.array([], np.int64)), b"\x80\x04." * 99,
    ):  # fmt: skip
        file.write_bytes(data)
        with pytest.raises(ModelLoadError, match=r"draft_ids\.npy: .*; compile again"):
            npu_folder.draft_ids(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ModelLoadError, match=r"draft_ids\.npy: cannot be read: a pipe found"):
        npu_folder.draft_ids(tmp_path)
