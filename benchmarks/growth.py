"""Time and memory against the number of layers and the depth of the context, at MiMo-7B's shapes, random weights.

Run ``python -m benchmarks.growth``; ``--layers 2,36 --contexts 1024`` takes less time. Every figure is of a process of
its own. The line is fitted over the layers; its constant is what does not grow with them (embedding and head).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.once import Once, measured
from benchmarks.process import Taken, run
from mimo_mobile import terminal
from mimo_mobile.convert.synthetic import write_synthetic


@dataclass(frozen=True, slots=True)
class Grown:
    """One model of one size; ``layers`` and ``depth`` are what grew."""

    recipe: str
    layers: int
    depth: int
    convert: Taken | None
    once: Once


def quantized(checkpoint: Path, recipe: str, out: Path) -> tuple[Path, Taken]:
    """The model that ``mimo quantize`` wrote, and what that took, checksums included."""
    command = Path(sys.executable).with_name("mimo"), "quantize", checkpoint, "--recipe", recipe, "--out", out
    taken = run([*command, "--problems", "0", "--no-answer"])
    end = ".gguf" if recipe.startswith("q") else "-onnx"
    return out / checkpoint.name / f"{checkpoint.name}-{recipe}{end}", taken


def grow_layers(layers: Sequence[int], recipes: Sequence[str], work: Path) -> list[Grown]:
    """Convert, load and run models of so many layers."""
    rows = []
    for count in layers:
        checkpoint = write_synthetic(work / f"layers-{count}", layers=count, force=True)
        for recipe in recipes:
            model, taken = quantized(checkpoint, recipe, work / "out")
            row = Grown(recipe, count, 1, taken, _settled(model, {"depth": 1}, work))
            rows.append(row)
            show([row])
            shutil.rmtree(work / "out")
        shutil.rmtree(checkpoint)
    return rows


def grow_context(contexts: Sequence[int], recipes: Sequence[str], layers: int, work: Path) -> list[Grown]:
    """Fill the KV cache of a model of ``layers`` layers up to each depth."""
    checkpoint, rows = write_synthetic(work / f"layers-{layers}", layers=layers, force=True), []
    for recipe in recipes:
        model, _ = quantized(checkpoint, recipe, work / "out")
        for depth in contexts:
            rows.append(Grown(recipe, layers, depth, None, _settled(model, {"depth": depth}, work)))
            show(rows[-1:])
    return rows


def _settled(model: Path, options: dict[str, int], work: Path) -> Once:
    """The second of two loads, which finds ONNX Runtime's cache full."""
    environment = {"MIMO_CACHE": str(work / "cache")}
    if model.is_dir():
        measured(model, {"depth": 1}, environment)
    found = measured(model, options, environment)
    shutil.rmtree(work / "cache", ignore_errors=True)
    return found


COLUMNS = (
    "recipe", "layers", "depth", "convert", "RssAnon", "VmHWM", "load", "RssAnon", "RssFile", "fill", "prefill/s",
    "decode/s",
)  # fmt: skip


def cells(row: Grown) -> tuple[str, ...]:
    """One row of the table."""
    made, once = row.convert, row.once
    convert = ("", "", "")
    if made:
        convert = f"{made.seconds:.1f} s", terminal.size(made.peak_anon_bytes), terminal.size(made.peak_rss_bytes)
    return (
        row.recipe, str(row.layers), str(row.depth), *convert, f"{once.load_s:.1f} s",
        terminal.size(once.loaded_anon_bytes), terminal.size(once.file_bytes), f"{once.fill_s:.1f} s",
        f"{once.prefill_tps:.1f}", f"{once.decode_tps:.1f}",
    )  # fmt: skip


def show(rows: Sequence[Grown], title: str = "") -> None:
    """Print rows, one at a time while the benchmark runs."""
    if title:
        terminal.table(title, COLUMNS, [cells(row) for row in rows])
    else:
        click.echo(" · ".join(cells(rows[0])), err=True)


def slopes(rows: Sequence[Grown]) -> list[str]:
    """Straight lines through seconds and bytes over the layers, and how far the worst point is from them."""
    found = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        chosen = [row for row in rows if row.recipe == recipe]
        layers = [row.layers for row in chosen]
        figures = {
            "convert s": [row.convert.seconds for row in chosen if row.convert],
            "load s": [row.once.load_s for row in chosen],
            "step ms": [1e3 / row.once.decode_tps for row in chosen],
            "128-token prefill ms": [128e3 / row.once.prefill_tps for row in chosen],
            "RssAnon after load MB": [row.once.loaded_anon_bytes / 1e6 for row in chosen],
        }
        for name, values in figures.items():
            slope, start = np.polyfit(layers, values, 1)
            off = max(abs(value - start - slope * x) / value for x, value in zip(layers, values, strict=True))
            found.append(f"{recipe}: {name} = {start:.1f} + {slope:.2f} · layers, at most {off:.0%} off")
    return found


@click.command()
@click.option("--layers", default="2,4,8,16,36", show_default=True)
@click.option("--contexts", default="1024,2048,4096,8192,16384", show_default=True)
@click.option("--context-layers", default=4, show_default=True, help="Layers of the model whose context grows.")
@click.option("--recipes", default="q4_0,int4_b32", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder with room for 40 GB [default: /tmp].")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def main(layers: str, contexts: str, context_layers: int, recipes: str, work: Path | None, record: Path | None) -> None:
    """Print tables and the lines fitted to them."""
    names = recipes.split(",")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        over_layers = grow_layers([int(each) for each in layers.split(",")], names, Path(folder))
        over_context = grow_context([int(each) for each in contexts.split(",")], names, context_layers, Path(folder))
    show(over_layers, "Layers")
    for line in slopes(over_layers) if len(over_layers) > len(names) else []:
        click.echo(line)
    show(over_context, f"Context, {context_layers} layers")
    if record:
        rows = [asdict(row) for row in [*over_layers, *over_context]]
        record.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
