"""How large the activations of a model get in its own answers: what an NPU that computes with uint16 has to know.

Each layer runs alone on the CPU, over all texts, and gives all that it computes. This module knows the pieces of
``convert.npu.graph``, and no NPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mimo_mobile.convert.npu import graph as npu_graph
from mimo_mobile.convert.npu.centered_keys import NOTHING, Centers
from mimo_mobile.convert.npu.file import float16_compute
from mimo_mobile.convert.npu.graph import Window
from mimo_mobile.convert.npu.qdq_graph import ActivationTape, Range
from mimo_mobile.convert.npu.ranges_file import Ranges
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import QuantizationError
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize.npu_form import session_of
from mimo_mobile.runtime import GenerationConfig, Message, load
from mimo_mobile.runtime.bench import QUESTIONS

TEXT_TOKENS, MOST_TEXTS = 128, 16
"""The length of each text, question and answer together; and how many others are read at most."""


def own_answers(folder: Path) -> list[list[int]]:
    """Texts of ``TEXT_TOKENS`` tokens: questions with the answers of the model in a folder, repeated to fill them."""
    texts = []
    config = GenerationConfig(temperature=0, max_tokens=TEXT_TOKENS)
    with load(folder, ep="cpu", speculate="off") as session:
        for question in QUESTIONS:
            prompt = session.encode_prompt(
                [Message("user", question)] if session.has_chat_template else question, config
            )
            answer = [token.token_id for token in session.generate(prompt, config) if token.token_id is not None]
            text = [*prompt, *answer]
            texts.append((text * (TEXT_TOKENS // len(text) + 1))[:TEXT_TOKENS])
    return texts


def activation_ranges(
    folder: Path,
    texts: Sequence[Sequence[int]] = (),
    centers: Centers = NOTHING,
    progress: ProgressCallback = ignore,
) -> Ranges:
    """The ranges of every activation of every piece, over the model's own answers and a part of other texts.

    Args:
        folder: An ONNX folder.
        texts: What else is read: token ids, of which ``MOST_TEXTS`` pieces of ``TEXT_TOKENS`` are taken.
        centers: What keys lose in the pieces.
        progress: Called after every layer.

    Raises:
        QuantizationError: A layer cannot be run, or makes NaN or infinity.
    """
    weights = WrittenWeights(folder)
    if weights.compute.activations != ir.DataType.FLOAT:
        raise QuantizationError(f"{folder.name}: float32 activations expected to quantize; take int4_b32")
    config, compute, count = weights.config, float16_compute(weights, centers), weights.config.num_hidden_layers
    window = Window(TEXT_TOKENS, TEXT_TOKENS)
    run = _Runner(folder)
    embedded = [
        run.one(npu_graph.embedding(config, weights, compute), input_ids=ids)
        for ids in _rows([*own_answers(folder), *_pieces(texts)])
    ]
    states, layers = embedded, []
    for layer in range(count):
        build = partial(npu_graph.layers, config, weights, compute, range(layer, layer + 1), window, centers=centers)
        found, states = run.measured(build, x=states)
        layers.append(found)
        progress(Progress("ranges of activations", layer + 1, count, f"layer {layer}", "layers"))
    head, _ = run.measured(partial(npu_graph.head, config, weights, compute, TEXT_TOKENS), x=states)
    if weights.draft_ids is None:
        return Ranges(layers, head, [], [])
    # Row p reads the state at p and the token at p + 1; the last one has none and takes its own.
    following = [np.concatenate([x[:, 1:], x[:, -1:]], axis=1) for x in embedded]
    build = partial(npu_graph.mtp, config, weights, compute, window, centers=centers)
    mtp, normed = run.measured(build, x=following, hidden_states=states)
    drafts, _ = run.measured(partial(npu_graph.draft_head, config, weights, compute, TEXT_TOKENS), x=normed)
    return Ranges(layers, head, mtp, drafts)


class _Runner:
    """Runs pieces on the CPU, each with an empty cache."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def one(self, graph: ir.Model, **feeds: NDArray[Any]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = session_of(graph, self._folder).run(None, feeds)[0]
        return made

    def measured(
        self, build: Callable[..., ir.Model], **texts: Sequence[NDArray[np.float32]]
    ) -> tuple[list[Range], list[NDArray[np.float32]]]:
        """The ranges of a piece's activations over all texts, and the piece's first output for each text."""
        tape = ActivationTape()
        graph = build(tape=tape)
        outputs = [value for value in tape.activations if value.name not in texts]
        first = str(graph.graph.outputs[0].name)
        for value in outputs:
            if value not in graph.graph.outputs:
                value.shape = ir.Shape([1, TEXT_TOKENS, None])
                graph.graph.outputs.append(value)
        session = session_of(graph, self._folder)
        empty = {
            each.name: np.zeros(each.shape, np.float16 if "float16" in each.type else np.float32)
            for each in session.get_inputs()
            if each.name.startswith("past_key_values.")
        }
        if empty:
            empty["seqlens_k"] = np.array([TEXT_TOKENS - 1], np.int32)
        ranges, results = [Range() for _ in tape.activations], []
        names = [str(value.name) for value in outputs]
        for number in range(len(next(iter(texts.values())))):
            feeds = {name: arrays[number] for name, arrays in texts.items()}
            found = dict(zip(names, session.run(names, {**feeds, **empty}), strict=True)) | feeds
            values = [found[str(value.name)] for value in tape.activations]
            if not all(np.isfinite(each).all() for each in values):
                raise QuantizationError(f"{graph.graph.name} makes NaN or infinity; a damaged checkpoint")
            ranges = [old.joined(each) for old, each in zip(ranges, values, strict=True)]
            results.append(found[first])
        return ranges, results


def _pieces(texts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Pieces of ``TEXT_TOKENS`` tokens from all over some texts."""
    pieces = [
        each[start : start + TEXT_TOKENS]
        for each in texts
        for start in range(0, len(each) - TEXT_TOKENS + 1, TEXT_TOKENS)
    ]
    return pieces[:: max(1, -(-len(pieces) // MOST_TEXTS))]


def _rows(texts: Sequence[Sequence[int]]) -> list[NDArray[np.int64]]:
    return [np.array([ids], np.int64) for ids in texts]
