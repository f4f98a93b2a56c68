"""What the reference of ``mimo eval`` takes at MiMo-7B's shapes: time, memory and disk, by layers and tokens.

Run ``python -m benchmarks.references``; every figure is of a process of its own. Without 36 among the layers, the line
through those that were measured says what 36 would take. Random weights predict nothing, so that as many tokens are
kept of each row as there may be: the disk's figure is the largest that there can be.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.process import run
from mimo_mobile import terminal
from mimo_mobile.convert.synthetic import write_synthetic

ALL_LAYERS = 36

FIGURES = ("layers s", "layers CPU s", "head s", "head CPU s", "kept")
"""What one process measures: seconds of the layers, of the head, and bytes of the file."""


def inside(checkpoint: Path, tokens: int) -> None:
    """Compute and keep a reference of random tokens; prints wall and CPU seconds of layers and head, and bytes."""
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.progress import Progress
    from mimo_mobile.quantize import references
    from mimo_mobile.quantize.texts import WINDOW, cut

    opened = Checkpoint.open(checkpoint)
    ids = np.random.Generator(np.random.PCG64(0)).integers(0, opened.config.vocab_size, tokens).tolist()
    times = [(time.perf_counter(), time.process_time())]

    def watch(step: Progress) -> None:
        if step.done == step.total:
            times.append((time.perf_counter(), time.process_time()))

    # As answers are measured: all rows but the first few, not the second half only.
    windows = [type(each)(each.ids, 15) for each in cut(ids, WINDOW)]
    rows = references.of_checkpoint(opened, windows, watch)
    place = references.place("benchmark", opened.fingerprint(), tokens)
    assert place is not None
    references.keep(place, windows, rows)
    layers, head = np.diff([*times[:2], (time.perf_counter(), time.process_time())], axis=0)
    click.echo(f"{layers[0]} {layers[1]} {head[0]} {head[1]} {place.stat().st_size}")


@click.command()
@click.option("--layers", default="2,4", show_default=True)
@click.option("--tokens", default="2048,8192", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder with room for a checkpoint [default: /tmp].")
@click.option("--only", nargs=2, type=str, hidden=True)
def main(layers: str, tokens: str, work: Path | None, only: tuple[str, str] | None) -> None:
    """Print a table, and what follows for all 36 layers."""
    if only:
        inside(Path(only[0]), int(only[1]))
        return
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for count in map(int, layers.split(",")):
            checkpoint = write_synthetic(Path(folder) / f"layers-{count}", layers=count)
            for number in map(int, tokens.split(",")):
                command = [sys.executable, "-m", "benchmarks.references", "--only", checkpoint, str(number)]
                taken = run(command, {"MIMO_CACHE": folder})
                figures = zip(FIGURES, map(float, taken.output.split()), strict=True)
                rows.append({"layers": count, "tokens": number, **dict(figures), "memory": taken.peak_anon_bytes})
                click.echo(f"{rows[-1]}", err=True)
            shutil.rmtree(checkpoint)
    cells = [
        (
            *(f"{row[name]:.0f}" for name in ("layers", "tokens", *FIGURES[:-1])),
            terminal.size(int(row["kept"])),
            terminal.size(int(row["memory"])),
        )
        for row in rows
    ]
    terminal.table("References at MiMo-7B's shapes, in seconds", ("layers", "tokens", *FIGURES, "RssAnon"), cells)
    for number in sorted({row["tokens"] for row in rows}):
        chosen = [row for row in rows if row["tokens"] == number]
        if len(chosen) > 1 and chosen[-1]["layers"] != ALL_LAYERS:
            for kind in ("", " CPU"):
                slope, start = np.polyfit(
                    [row["layers"] for row in chosen], [row[f"layers{kind} s"] for row in chosen], 1
                )
                whole = start + ALL_LAYERS * slope + np.mean([row[f"head{kind} s"] for row in chosen])
                click.echo(f"{number:.0f} tokens, 36 layers: {whole / 60:.1f} minutes{kind} ({slope:.1f} s a layer)")


if __name__ == "__main__":
    main()
