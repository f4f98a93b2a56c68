"""An int4 ONNX folder → binaries for one NPU beside it, compiled here by QNN: ``qnn-SM8750/`` and ``embedding.onnx``.

Each piece of the model (``graph``) is compiled (``compiler``) once for each window of tokens. Nothing of a piece is
left to the CPU: a piece that QNN does not take whole is an error. The weights are the folder's own; beside quantized
activations (``qdq-SM8750/``) they are rounded once more.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mimo_mobile import __version__, files, onnxruntime_library, providers
from mimo_mobile.convert.npu import graph as npu_graph
from mimo_mobile.convert.npu import ranges_file
from mimo_mobile.convert.npu.centered_keys import NOTHING, Centers
from mimo_mobile.convert.npu.compiler import Compiled, Compiler, shares_weights
from mimo_mobile.convert.npu.graph import Window
from mimo_mobile.convert.npu.kept_pieces import KeptPieces
from mimo_mobile.convert.npu.pieces import ADDED, HEAD_WINDOWS, WINDOWS, Cut, checked
from mimo_mobile.convert.npu.qdq_graph import QdqTape, Range
from mimo_mobile.convert.npu.ranges_file import Form, Ranges
from mimo_mobile.convert.onnx_graph import Compute
from mimo_mobile.convert.onnx_weights import DRAFT_HEAD
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import ModelLoadError, QuantizationError
from mimo_mobile.layout import (
    DATA,
    DRAFT_IDS,
    EMBEDDING,
    MODEL,
    MTP,
    NPU_FOLDER,
    NPU_FORMAT,
    NPU_SETTINGS,
    npu_folder_name,
    read_npu_settings,
)
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.socs import Soc


def compile_for_npu(
    folder: Path,
    soc: Soc,
    *,
    context_length: int | None = None,
    windows: Sequence[int] = WINDOWS,
    ranges: Ranges | None = None,
    centers: Centers = NOTHING,
    shared: bool = False,
    memory_bytes: int | None = None,
    force: bool = False,
    progress: ProgressCallback = ignore,
) -> tuple[Path, list[Compiled]]:
    """Compile the model of an ONNX folder for a chip; returns the folder of binaries, and what each took.

    A run that is killed, or fails, leaves the binaries that are finished, and the next one of the same work takes them.

    Args:
        folder: What ``write_onnx`` made.
        soc: The chip.
        context_length: Tokens of prompt and answer, fixed; None is the model's, at most 4096.
        windows: Tokens of one run: a prompt's, and 2 and 1 unless the CPU computes tokens.
        ranges: Those of the activations, to quantize them to uint16 for NPUs that compute with integers only.
        centers: What is taken from the keys of layers that attend in float32 elsewhere.
        shared: Whether the windows of a piece go into one binary with one copy of the weights, which phones load and
            the simulator on a PC does not.
        memory_bytes: What compiling may take, which decides how many layers a piece has; None is three quarters of
            this machine's memory.
        force: Replace an earlier folder of binaries.
        progress: Called at first and after each graph, with the weights that are compiled.

    Raises:
        ModelLoadError: ``folder`` is no ONNX folder of ours.
        QuantizationError: ``context_length`` or ``windows`` do not fit the model, or a layer that attends in float32
            has no center.
        BackendUnavailableError: QNN does not take a graph, or made another binary than it was asked for.
        MissingDependencyError: onnxruntime-qnn is not installed.
        OutputExistsError: There is such a folder and ``force`` is false.
        DiskFullError: There is no room for the binaries.
    """
    weights = WrittenWeights(folder)
    ort = onnxruntime_library.load()
    providers.register(ort, providers.PROVIDERS["qnn"])
    most = weights.config.max_position_embeddings
    cut = checked(context_length, windows, most, shared=shared, memory_bytes=memory_bytes)
    parts = parts_of(weights, cut)
    graphs = graphs_of(weights, cut, parts, ranges, centers)
    out = folder / npu_folder_name(soc, ranges is not None)
    files.replaceable(out, force=force, kind=NPU_FOLDER)
    made_with, activations = providers.versions(ort, providers.PROVIDERS["qnn"]), "uint16" if ranges else "float"
    what = (soc, cut.context_length, cut.windows, shared, parts, ranges, made_with, __version__)
    decides = [*what, *((name, _hashed(each)) for name, each in centers.items()), *_state(folder)]
    made: list[Compiled] = []
    with KeptPieces.beside(out, *decides) as kept:
        groups = Compiler.groups(graphs, shared)
        sizes = _sizes(weights, parts)
        work = {name: sizes[name.partition(".")[0]] for name in graphs}
        todo = [each for each in groups if not kept.of(each)]
        files.check_room(out, round(ADDED * sum(work[next(iter(each))] for each in todo)))
        with files.whole(folder / EMBEDDING, force=True) as temporary:
            ir.save(npu_graph.embedding(weights.config, weights, weights.compute), temporary)
        compiler = Compiler(ort, folder, kept.folder, soc, quantized=ranges is not None)
        stage, total = f"compile for {soc.name}", sum(work.values())
        done = total - sum(work[name] for each in todo for name in each)
        progress(Progress(stage, done, total))
        for group in groups:
            finished = kept.of(group)
            for compiled in finished or compiler.compiled(group):
                made.append(compiled)
                if not finished:
                    done += work[compiled.name]
                    progress(Progress(stage, done, total, compiled.name))
            if not finished:
                kept.keep(made[-len(group) :])
        with files.whole(out, force=force, kind=NPU_FOLDER) as temporary:
            temporary.mkdir()
            kept.move_to(temporary)
            if ranges is not None:
                Form(ranges, cut.context_length, centers).write(temporary)
            if (ids := drafted(weights, cut)) is not None:
                np.save(temporary / DRAFT_IDS, ids.numpy())
            settings = described(
                weights,
                soc,
                cut,
                parts,
                activations=activations,
                made_with=made_with,
                graphs=[dataclasses.asdict(each) for each in made],
            )
            (temporary / NPU_SETTINGS).write_text(NPU_FORMAT.to_text(settings, indent=1), encoding="utf-8")
    return out, made


def float16_compute(weights: WrittenWeights, centers: Centers) -> Compute:
    """The types of a folder's graphs, but with attention in float16 throughout, which is the finest that NPUs have.

    Raises:
        QuantizationError: A layer attends in float32, and has no center.
    """
    if missing := sorted(weights.compute.float32 - centers.keys()):
        raise QuantizationError(
            f"{missing[0].strip('.')}: attention in float32 found, since its q·k is too large for float16, and no"
            " center of its keys; NPUs compute in float16: compile with mimo quantize --target qnn, which measures what"
            " keys have in common"
        )
    return dataclasses.replace(weights.compute, float32=frozenset())


def described(
    weights: WrittenWeights,
    soc: Soc,
    cut: Cut,
    parts: Sequence[range],
    *,
    activations: str,
    made_with: Any,
    graphs: list[dict[str, Any]],
) -> dict[str, Any]:
    """What npu.json says beside the list of graphs, so that the runtime knows how to run them."""
    return {
        "ep": "qnn",
        "activations": activations,
        "soc": soc.name,
        "context_length": cut.context_length,
        "windows": list(cut.windows),
        "layers": [[each.start, each.stop] for each in parts],
        "mtp": drafted(weights, cut) is not None,
        "embedding_bytes": weights.nbytes("model.embed_tokens."),
        "made_with": made_with,
        "graphs": graphs,
    }


def is_compiled(
    folder: Path, soc: Soc, context_length: int, windows: Sequence[int], quantized: bool = False, shared: bool = False
) -> bool:
    """Whether an ONNX folder has binaries for a chip, with this context, windows, and copies of the weights."""
    made = folder / npu_folder_name(soc, quantized)
    try:
        found = read_npu_settings(made)
        # One window has one copy in either way.
        same = len(windows) == 1 or shares_weights(made / f"layers-0.{found.windows[-1]}.onnx") == shared
    except (ModelLoadError, OSError, ValueError):
        return False
    if quantized and not (made / ranges_file.NAME).is_file():
        return False
    return same and found.context_length == context_length and found.windows == tuple(windows)


def parts_of(weights: WrittenWeights, cut: Cut) -> list[range]:
    """The layers of each part of a folder's trunk."""
    return cut.parts(weights.config, weights.nbytes("model.layers.0."))


def drafted(weights: WrittenWeights, cut: Cut) -> ir.TensorProtocol | None:
    """The tokens that the MTP layer scores; None where there is none, or the CPU computes tokens."""
    return weights.draft_ids if cut.computes_tokens else None


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """The weights and graphs in an ONNX folder, by their files' sizes and times."""
    found = [(name, (folder / name).stat()) for name in (MODEL, MTP, DATA) if (folder / name).is_file()]
    return [(name, each.st_size, each.st_mtime_ns) for name, each in found]


def _hashed(array: NDArray[np.float32]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _sizes(weights: WrittenWeights, parts: Sequence[range]) -> dict[str, int]:
    """The weights of each piece in bytes: about what its binary takes, and what compiling takes its time for."""
    sizes = {"head": weights.nbytes("lm_head.weight"), "draft_head": weights.nbytes(DRAFT_HEAD)}
    sizes["mtp"] = weights.nbytes("model.mtp_layers.")
    for index, which in enumerate(parts):
        sizes[f"layers-{index}"] = sum(weights.nbytes(f"model.layers.{layer}.") for layer in which)
    return sizes


def graphs_of(
    weights: WrittenWeights,
    cut: Cut,
    parts: Sequence[range],
    ranges: Ranges | None = None,
    centers: Centers = NOTHING,
) -> Mapping[str, Callable[[], ir.Model]]:
    """Every graph by its file's name; each is made when its turn comes."""
    config, compute = weights.config, float16_compute(weights, centers)
    graphs: dict[str, Callable[[], ir.Model]] = {}

    def add(
        name: str, build: Callable[..., ir.Model], *arguments: Any, found: Sequence[Range] | None, **options: Any
    ) -> None:
        def made() -> ir.Model:
            return build(config, weights, compute, *arguments, None if found is None else QdqTape(found), **options)

        graphs[name] = made

    windows = [Window(tokens, cut.context_length) for tokens in cut.windows]
    for index, which in enumerate(parts):
        for window in windows:
            found = ranges.of_layers(which) if ranges else None
            add(f"layers-{index}.{window.tokens}", npu_graph.layers, which, window, found=found, centers=centers)
    for tokens in HEAD_WINDOWS if cut.computes_tokens else ():
        add(f"head.{tokens}", npu_graph.head, tokens, found=ranges.head if ranges else None)
    if drafted(weights, cut) is not None:
        for window in windows:
            add(f"mtp.{window.tokens}", npu_graph.mtp, window, found=ranges.mtp if ranges else None, centers=centers)
        add("draft_head.1", npu_graph.draft_head, 1, found=ranges.draft_head if ranges else None)
    return graphs
