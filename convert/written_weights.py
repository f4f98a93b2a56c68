"""Finds the weights of an ONNX folder, for more graphs that share its data file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from mimo_mobile import graph_file
from mimo_mobile.convert.json_files import read_json
from mimo_mobile.convert.onnx_graph import Compute, Matrix
from mimo_mobile.convert.onnx_weights import DRAFT_HEAD, apart, joint
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.layout import KV_INT8, MODEL, MTP
from mimo_mobile.mimo7b import MimoConfig


class WrittenWeights:
    """The tensors that ``write_onnx`` wrote, as references into the data file; no weight is read.

    Attributes:
        config: The checkpoint's configuration, with the eps that belongs to the weights' scale.
        compute: The types in which the folder's trunk computes.
        draft_ids: The tokens that the MTP layer scores; None when there is no MTP layer.
    """

    def __init__(self, folder: Path) -> None:
        """Open ``folder``.

        Raises:
            ModelLoadError: It is not an ONNX folder that we wrote.
        """
        config = MimoConfig.from_json(read_json(folder / "config.json"))
        self._tensors: dict[str, ir.TensorProtocol] = {}
        self._uses: dict[str, ir.Node] = {}
        try:
            found = [folder / name for name in (MODEL, MTP, KV_INT8) if (folder / name).is_file()]
            for path in found:
                graph_file.check_data(graph_file.read(path))
            graphs = [ir.load(path).graph for path in found]
            for graph in graphs:
                for name, value in graph.initializers.items():
                    if value.const_value is not None:
                        self._tensors[name] = value.const_value
                for node in graph:
                    if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
                        weight = node.inputs[1 if node.op_type == "MatMulNBits" else 0]
                        self._uses[str(weight.name if weight else "")] = node
            eps = next(node.attributes["epsilon"].as_float() for node in graphs[0] if "epsilon" in node.attributes)
            self.config = dataclasses.replace(config, rms_norm_eps=eps)
            self.compute = _compute(dict(zip((path.name for path in found), graphs, strict=True)))
        except ModelLoadError:
            raise
        except Exception as error:  # of protobuf and onnx-ir, which share no base
            raise ModelLoadError(f"{folder}: no ONNX folder that mimo wrote ({error}); quantize again") from error
        self.draft_ids = self._tensors.get("draft_tokens")

    def stacked(self) -> list[tuple[str, ...]]:
        """The checkpoint's tensors that the folder holds; those that were written as one are together."""
        known = self.config.tensor_shapes()
        return [names for names in map(apart, self._tensors) if all(name in known for name in names)]

    def vector(self, *names: str) -> ir.TensorProtocol:
        """The weights of a norm, or the biases of the layers ``names`` together."""
        return self._tensor(joint(names))

    def matrix(self, name: str) -> Matrix:
        """The weights of a linear layer, or of layers that were written as one under their joint ``name``."""
        values, node = self._tensor(name), self._uses.get(name)
        if node is None:
            rows, columns = (int(size) for size in values.shape)
            return Matrix(values, rows, columns)
        sizes = {key: node.attributes[key].as_int() for key in ("K", "N", "bits", "block_size")}
        scales = self._tensor(name + ".scales")
        return Matrix(values, sizes["K"], sizes["N"], scales, sizes["bits"], sizes["block_size"])

    def matrices(self, *names: str) -> list[Matrix]:
        """The weights of linear layers that read the same, as they were written: each as many in one as there are.

        Raises:
            ModelLoadError: Some are not there.
        """
        made: list[Matrix] = []
        while names:
            several = range(len(names), 1, -1)
            count = next((each for each in several if joint(names[:each]) in self._tensors), 1)
            made.append(self.matrix(joint(names[:count])))
            names = names[count:]
        return made

    def embedding(self, name: str) -> Matrix:
        """The embedding, plain or in blocks."""
        values, node = self._tensor(name), self._uses.get(name)
        rows, columns = (int(size) for size in values.shape)
        if node is None:
            return Matrix(values, columns, rows)
        return Matrix(values, columns, rows, self._tensor(name + ".scales"), 4, node.attributes["block_size"].as_int())

    def draft_head(self) -> tuple[Matrix, ir.TensorProtocol]:
        """The rows of lm_head that drafts are chosen from, and their token ids `[R]`."""
        assert self.draft_ids is not None
        return self.matrix(DRAFT_HEAD), self.draft_ids

    def rope(self) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
        """The cosines and the sines of the rotary position embedding."""
        return self._tensor("rope.cos"), self._tensor("rope.sin")

    def kv_scales(self, layer: int) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
        """The scales of an INT8 KV cache in a layer: what one step stands for in keys, and in values."""
        prefix = f"model.layers.{layer}.self_attn"
        return self._tensor(f"{prefix}.k_scale"), self._tensor(f"{prefix}.v_scale")

    def nbytes(self, prefix: str) -> int:
        """How many bytes all tensors have whose names begin with ``prefix``."""
        return sum(tensor.nbytes for name, tensor in self._tensors.items() if name.startswith(prefix))

    def _tensor(self, name: str) -> ir.TensorProtocol:
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelLoadError(f"no weight {name} in the ONNX folder; quantize the checkpoint again") from None


def _compute(graphs: Mapping[str, ir.Graph]) -> Compute:
    """The types in which a folder's trunk and MTP layer compute, as their caches tell."""
    kept: dict[str, ir.DataType] = {}
    for name, prefix in ((MODEL, "model.layers."), (MTP, "model.mtp_layers.")):
        for value in graphs[name].inputs if name in graphs else ():
            if match := re.fullmatch(r"past_key_values\.(\d+)\.key", str(value.name)):
                assert value.dtype is not None
                kept[f"{prefix}{match[1]}."] = value.dtype
    activations = graphs[MODEL].outputs[0].dtype
    assert activations is not None
    exact = frozenset(prefix for prefix, dtype in kept.items() if dtype == ir.DataType.FLOAT)
    return Compute(activations, ir.DataType.FLOAT16, float32=exact)
