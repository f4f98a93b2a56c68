"""What each effort of ``mimo quantize`` takes at MiMo-7B's shapes: time and memory, by layers, with random weights.

Run ``python -m benchmarks.efforts``; every figure is of a process of its own, the whole command. ``high`` reads
benchmarks/texts/calibration.txt, since a model of random weights has no answers worth reading. Without 36 among the
layers, the line through those that were measured says what 36 would take.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from benchmarks.process import run
from benchmarks.references import ALL_LAYERS
from mimo_mobile import terminal
from mimo_mobile.convert.synthetic import write_synthetic

TEXT = Path(__file__).parent / "texts/calibration.txt"


def cpu_seconds() -> float:
    """What the processes that have ended took of all cores, in the kernel, too."""
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


def efforts(checkpoint: Path, recipe: str, chosen: list[str], work: Path) -> Iterator[tuple[str, float, float, int]]:
    """For each effort its name, seconds by the clock, CPU seconds, and bytes of memory of its own."""
    for effort in chosen:
        command = [sys.executable, "-m", "mimo_mobile", "quantize", checkpoint, "--recipe", recipe, "--effort", effort]
        command += ["--calibration", TEXT] if effort == "high" else []
        before = cpu_seconds()
        taken = run([*command, "--out", work / "out", "--problems", "0", "--no-answer"])
        yield effort, taken.seconds, cpu_seconds() - before, taken.peak_anon_bytes
        shutil.rmtree(work / "out")


@click.command()
@click.option("--layers", default="2,4", show_default=True)
@click.option("--recipes", default="q4_0,int4_b32", show_default=True)
@click.option("--efforts", "chosen", default="none,normal,high", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder with room for a checkpoint [default: /tmp].")
def main(layers: str, recipes: str, chosen: str, work: Path | None) -> None:
    """Print a table, and what follows for all 36 layers."""
    rows: list[tuple[int, str, str, float, float, int]] = []
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for count in map(int, layers.split(",")):
            checkpoint = write_synthetic(Path(folder) / f"layers-{count}", layers=count)
            for recipe in recipes.split(","):
                for found in efforts(checkpoint, recipe, chosen.split(","), Path(folder)):
                    rows.append((count, recipe, *found))
                    click.echo(f"{rows[-1]}", err=True)
            shutil.rmtree(checkpoint)
    head = ("layers", "recipe", "effort", "s", "CPU s", "RssAnon")
    cells = [(f"{row[0]}", *row[1:3], f"{row[3]:.0f}", f"{row[4]:.0f}", terminal.size(row[5])) for row in rows]
    terminal.table("mimo quantize at MiMo-7B's shapes, random weights", head, cells)
    for kind in dict.fromkeys(row[1:3] for row in rows):
        points = [(row[0], row[4]) for row in rows if row[1:3] == kind]
        if len(points) > 1 and points[-1][0] != ALL_LAYERS:
            slope, start = np.polyfit(*zip(*points, strict=True), 1)
            whole = start + ALL_LAYERS * slope
            click.echo(f"{' '.join(kind)}: {whole / 60:.1f} minutes of CPU for 36 layers ({slope:.1f} s a layer)")


if __name__ == "__main__":
    main()
