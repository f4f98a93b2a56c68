"""Sees that a graph is one of MiMo's before ONNX Runtime computes it: known operators, between which all sizes fit.

A graph is a program: it could ask for any amount of memory or time. What each node gives is therefore derived from what
it reads, by the few rules that the graphs of ``convert`` need (``graph_rules``). A graph that they do not describe is
refused, and so what passes takes no more memory than its weights, its KV cache and rows of bounded width.
"""

from __future__ import annotations

import math
from pathlib import Path

from mimo_mobile import graph_file
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.graph_file import GraphFile
from mimo_mobile.runtime.onnx.graph_rules import KV_TYPES, MS, Facts, Rules, shown
from mimo_mobile.untrusted import beside, printable

_TRUNK = {"input_ids", "attention_mask", "logits_start"}

GRAPHS: dict[str, tuple[set[str], set[str]]] = {
    "trunk": (_TRUNK, {"logits", "hidden_states"}),
    "mtp": (_TRUNK | {"hidden_states"}, {"logits", "hidden_states_out", "draft_ids"}),
    "embedding": ({"input_ids"}, {"x"}),
}
"""What a graph reads and gives beside a KV cache."""

PIECES: dict[str, tuple[set[str], set[str]]] = {
    "layers": ({"x", "seqlens_k"}, {"x_out"}),
    "head": ({"x"}, {"logits"}),
    "mtp": ({"x", "hidden_states", "seqlens_k"}, {"x_out"}),
    "draft_head": ({"x"}, {"logits"}),
}
"""What a piece for an NPU reads and gives beside a KV cache."""

MOST_NUMBERS = 1 << 28
"""Of one input or output of a piece; a KV cache of MiMo-7B has 4 million for 4096 tokens."""


def check_folder(model: Path, mtp: Path | None, trained: int) -> None:
    """See that the trunk in an ONNX folder, and its MTP layer, are graphs of MiMo.

    Args:
        model: The graph of the trunk.
        mtp: The graph of the MTP layer, if there is one.
        trained: The context that config.json promises.

    Raises:
        ModelLoadError: They are not, or do not fit each other.
    """
    trunk = check(model, "trunk")
    if trunk.positions < trained:
        raise ModelLoadError(
            f"{model}: angles for {trunk.positions} positions found, config.json promises {trained}; convert again"
        )
    if mtp is None:
        return
    layer = check(mtp, "mtp")
    if (layer.hidden_size, layer.vocabulary, layer.positions) != (trunk.hidden_size, trunk.vocabulary, trunk.positions):
        raise ModelLoadError(f"{mtp}: not the MTP layer of {model.name}: their sizes differ; convert again")
    if len(layer.drafts) != layer.logits_size or not all(0 <= each < trunk.logits_size for each in layer.drafts):
        raise ModelLoadError(f"{mtp}: it scores tokens that the vocabulary does not have; convert again")


def check(model: Path, kind: str) -> Facts:
    """What a graph holds that ``convert`` wrote; ``kind`` is one of ``GRAPHS``.

    Raises:
        ModelLoadError: It is none of these, or its weights are not where it says.
    """
    graph = graph_file.read(model)
    try:
        _check_names(graph, *GRAPHS[kind])
        facts = Rules(graph).facts()
    except ValueError as error:
        raise ModelLoadError(f"{model}: not a graph that mimo writes: {error}; convert or quantize again") from error
    graph_file.check_data(graph)
    return facts


def check_compiled(model: Path, kind: str) -> str:
    """The name of the binary for an NPU that a graph refers to, which lies beside it, with the inputs of ``PIECES``.

    Raises:
        ModelLoadError: It is not.
    """
    graph, binary = graph_file.read(model), None
    try:
        for node in graph.nodes:
            binary = node.attributes.get("ep_cache_context")
            if node.op != f"{MS}EPContext" or node.attributes.get("embed_mode") != 0 or not isinstance(binary, str):
                raise ValueError(f"{shown(node)} found, a reference to a binary expected")
            if "/" in binary or "\\" in binary or "\0" in binary or not beside(model, binary).is_file():
                raise ValueError(f"{printable(binary):.200}: a file in the same folder expected")
        if len(graph.nodes) != 1 or not isinstance(binary, str) or graph.tensors or graph.others:
            raise ValueError("one reference to a binary expected, and nothing else")
        _check_names(graph, *PIECES[kind])
        for name, value in [*graph.inputs.items(), *graph.outputs.items()]:
            sizes = [size for size in value.shape if isinstance(size, int) and size > 0]
            fits = value.type == "INT32" if name == "seqlens_k" else value.type in KV_TYPES
            if not fits or len(sizes) != len(value.shape) or math.prod(sizes) > MOST_NUMBERS:
                raise ValueError(f"{name!r:.60} of type {value.type} and shape {value.shape} found")
    except ValueError as error:
        raise ModelLoadError(f"{model}: not what mimo compiles: {error}; compile again") from error
    return binary


def _check_names(graph: GraphFile, inputs: set[str], outputs: set[str]) -> None:
    for what, values, names, cache in (
        ("inputs", graph.inputs, inputs, "past_key_values."),
        ("outputs", graph.outputs, outputs, "present."),
    ):
        found = {name for name in values if not name.startswith(cache)}
        if found != names:
            listed = printable(", ".join(sorted(found)) or "none")
            raise ValueError(f"{what} {listed:.200} found; {', '.join(sorted(names))} and a KV cache expected")
