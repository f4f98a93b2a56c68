"""What ``--target qnn`` writes, but for the compiling: for tests of the folder's readers where no NPU is.

`python -m tools.npu_fixture out/mimo-nano FOLDER` copies the int4 ONNX model of the first folder to the second, and
puts the pieces beside it that would be compiled, as graphs for ONNX Runtime's CPU kernels: in two parts. The same goes
to FOLDER-prompts with the pieces of ``--windows 64``, for prompts alone.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from mimo_mobile import manifest
from mimo_mobile.convert.npu import file as npu_file
from mimo_mobile.convert.npu import graph as npu_graph
from mimo_mobile.convert.npu.pieces import WINDOWS, Cut
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.layout import DRAFT_IDS, EMBEDDING, NPU_FORMAT, NPU_SETTINGS
from mimo_mobile.socs import SOCS

RECIPE, SOC = "int4_b32", "SM8750"

SESSION_BYTES = 6_000_000
"""Half of MiMo-nano's layers: the NPU's would take them all at once."""


def write(model: Path, out: Path, context_length: int, windows: tuple[int, ...] = WINDOWS) -> Path:
    """The ONNX folder in ``out``, with pieces for ``context_length`` tokens in these windows."""
    made = manifest.read(model)
    entry = made.entry(RECIPE) if made else None
    if made is None or entry is None:
        raise SystemExit(f"{model}: no manifest with {RECIPE}; run `make quantize` first")
    folder = out / entry.path
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(model / entry.path, folder, ignore=shutil.ignore_patterns("qnn-*", "qdq-*"))
    weights = WrittenWeights(folder)
    pieces = folder / f"qnn-{SOC}"
    pieces.mkdir()
    ir.save(npu_graph.embedding(weights.config, weights, weights.compute), folder / EMBEDDING)
    cut = Cut(context_length, windows, session_bytes=SESSION_BYTES)
    parts = npu_file.parts_of(weights, cut)
    graphs = npu_file.graphs_of(weights, cut, parts)
    for name, build in graphs.items():
        ir.save(build(), pieces / f"{name}.onnx", external_data=f"{name}.data")
    if (ids := npu_file.drafted(weights, cut)) is not None:
        np.save(pieces / DRAFT_IDS, ids.numpy())
    settings = npu_file.described(
        weights,
        SOCS[SOC],
        cut,
        parts,
        activations="float",
        made_with="not compiled",
        graphs=[{"name": name, "size_bytes": (pieces / f"{name}.data").stat().st_size} for name in graphs],
    )
    (pieces / NPU_SETTINGS).write_text(NPU_FORMAT.to_text(settings, indent=1), encoding="utf-8")
    parts = tuple(manifest.part(out, path) for path in sorted(folder.rglob("*")) if path.is_file())
    entry = dataclasses.replace(entry, parts=parts, size_bytes=sum(part.size_bytes for part in parts))
    dataclasses.replace(made, entries=(entry,)).write(out)
    return folder


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--context", default=2048, show_default=True, help="Tokens that the caches hold.")
def main(model: Path, out: Path, context: int) -> None:
    """Write pieces for an NPU, not compiled, of the model in MODEL to OUT, and for prompts alone to OUT-prompts."""
    click.echo(write(model, out, context))
    click.echo(write(model, out.with_name(f"{out.name}-prompts"), context, WINDOWS[:1]))


if __name__ == "__main__":
    main()
