"""What an ONNX folder takes of memory on the CPU, by its graphs and settings; ONNX Runtime is not loaded for it.

Sums were fitted to what processes took (docs/performance.md).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile import graph_file
from mimo_mobile.errors import BackendUnavailableError
from mimo_mobile.graph_file import GraphFile, Node
from mimo_mobile.layout import KV_INT8, MODEL, MTP
from mimo_mobile.runtime.devices.memory import MemoryNeed
from mimo_mobile.runtime.load_config import LoadConfig
from mimo_mobile.runtime.onnx.backend import MOST_ROWS
from mimo_mobile.runtime.onnx.cached_graph import BATCH_TOKENS
from mimo_mobile.runtime.onnx.prepacked import LEAST_BYTES

ENGINE_BYTES, LIBRARY_BYTES = 39_000_000, 25_000_000
"""What ONNX Runtime and the tokenizer take of their own, and of their files."""

MTP_BYTES = 5_000_000
"""What the MTP layer's session takes beside its weights, its KV cache and what it computes in."""

BLOCK_BYTES = 8
"""So much more has a block of prepacked weights than its levels: its scale and its sum, in float32."""

_BYTES = {"FLOAT": 4, "FLOAT16": 2, "INT8": 1}


@dataclass(frozen=True, slots=True)
class _Session:
    """What one graph needs.

    Attributes:
        packed_bytes: Weights in the order that kernels want.
        idle_bytes: What is read of the file while it loads, and not afterwards.
        kv_bytes: The KV cache, for each token.
        scratch_bytes: What attention computes in, for each token of the context.
        activation_bytes: What runs compute in.
        logits_bytes: A row of logits.
        kept: Whether its prepacked weights are worth being kept on disk.
    """

    packed_bytes: int
    idle_bytes: int
    kv_bytes: int
    scratch_bytes: int
    activation_bytes: int
    logits_bytes: int
    kept: bool

    @classmethod
    def of(cls, path: Path) -> _Session:
        graph = graph_file.read(path)
        packed = idle = widest = heads = 0
        for node in graph.nodes:
            sizes = [graph.tensors[name].nbytes for name in node.inputs if name in graph.tensors]
            if node.op_type == "MatMulNBits":
                packed += sizes[0] + BLOCK_BYTES * _blocks(node)
                idle += sum(sizes[1:])
                widest = max(widest, _number(node, "K"))
            elif node.op_type in ("MatMul", "Gemm"):
                packed += sum(sizes)
            elif node.op_type == "GroupQueryAttention":
                heads = _number(node, "num_heads")
        once = {name: graph.tensors[name].nbytes for name in _rotary(graph)}
        past = [each for name, each in graph.inputs.items() if name.startswith("past_key_values.")]
        kv = sum(_BYTES.get(each.type, 4) * _width(each.shape) for each in past)
        # Attention takes keys and values of a layer to float32, and keeps all products with the queries of a run.
        layer = max((4 * 2 * _width(each.shape) for each in past), default=0)
        scores = 0 if any(each.type == "INT8" for each in past) else 4 * BATCH_TOKENS * heads
        hidden = max((_last(each.shape) for name, each in graph.outputs.items() if "hidden" in name), default=0)
        activations = 4 * BATCH_TOKENS * (3 * widest + 4 * hidden)
        logits = _last(graph.outputs["logits"].shape) * _BYTES.get(graph.outputs["logits"].type, 4)
        kept = graph.external_bytes >= LEAST_BYTES
        return cls(packed, idle + sum(once.values()), kv, layer + scores, activations, logits, kept)


@dataclass(frozen=True, slots=True)
class OnnxNeeds:
    """An ONNX folder as it is to be loaded on the CPU.

    Attributes:
        trunk: What the trunk's graph needs.
        mtp: What the MTP layer's graph needs; None when nothing drafts.
        config: What was asked for.
    """

    trunk: _Session
    mtp: _Session | None
    config: LoadConfig

    @classmethod
    def of(cls, folder: Path, config: LoadConfig) -> OnnxNeeds:
        """What a folder and its settings come to.

        Raises:
            ModelLoadError: A graph cannot be read.
            BackendUnavailableError: There is no graph with the KV cache that is asked for, or no MTP layer.
        """
        drafts = config.speculate in ("auto", "mtp") and os.path.lexists(folder / MTP)
        return cls(_Session.of(trunk_of(folder, config)), _Session.of(folder / MTP) if drafts else None, config)

    def ways(self, context_length: int) -> list[MemoryNeed]:
        """The ways to load it, the preferred one first."""
        must = self.mtp is None or self.config.speculate == "mtp"
        return [self._need(context_length, each) for each in ([self.mtp] if must else [self.mtp, None])]

    def _need(self, context_length: int, mtp: _Session | None) -> MemoryNeed:
        sessions = [each for each in (self.trunk, mtp) if each is not None]
        mapped = sum(each.packed_bytes for each in sessions if self.config.cache and each.kept)
        activations = sum(each.activation_bytes + context_length * each.scratch_bytes for each in sessions)
        way = "prepacked, from the cache" if mapped else "prepacked"
        return MemoryNeed(
            way=way + (", with its MTP layer" if mtp is not None else ""),
            copied_bytes=sum(each.packed_bytes for each in sessions) - mapped,
            kv_bytes=context_length * sum(each.kv_bytes for each in sessions),
            activation_bytes=activations + MOST_ROWS * self.trunk.logits_bytes + ENGINE_BYTES + MTP_BYTES * bool(mtp),
            mapped_bytes=mapped,
            idle_bytes=sum(each.idle_bytes for each in sessions) + LIBRARY_BYTES,
            drafts=mtp is not None,
        )


def trunk_of(folder: Path, config: LoadConfig) -> Path:
    """The graph of the trunk with the KV cache that is asked for.

    Raises:
        BackendUnavailableError: There is none, or there is no MTP layer, and one is asked for.
    """
    model = folder / (KV_INT8 if config.kv_dtype == "int8" else MODEL)
    if not model.is_file():
        raise BackendUnavailableError(f"{folder}: no {KV_INT8}; quantize again for an int8 KV cache, or leave it out")
    if config.speculate == "mtp" and not (folder / MTP).is_file():
        raise BackendUnavailableError(f"{folder}: no {MTP}; the checkpoint had no MTP layer, take auto or ngram")
    return model


def _blocks(node: Node) -> int:
    return _number(node, "N") * math.ceil(_number(node, "K") / max(1, _number(node, "block_size")))


def _number(node: Node, name: str) -> int:
    value = node.attributes.get(name)
    return value if isinstance(value, int) else 0


def _rotary(graph: GraphFile) -> set[str]:
    """The tensors of angles, which attention reads rows of."""
    nodes = (node for node in graph.nodes if node.op_type == "GroupQueryAttention")
    return {name for node in nodes for name in node.inputs if name in graph.tensors}


def _width(shape: tuple[int | str, ...]) -> int:
    """Numbers of a token in a cache [1, K, past, D]."""
    return math.prod(size for size in shape if isinstance(size, int))


def _last(shape: tuple[int | str, ...]) -> int:
    return shape[-1] if shape and isinstance(shape[-1], int) else 0
