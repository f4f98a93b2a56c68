"""What ``mimo plan`` says against what a process then takes, for settings of both backends at MiMo-7B's shapes.

Run ``python -m benchmarks.fit --layers 2,8``. Each setting is loaded in a process of its own, which fills the context.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.process import memory_of, run
from mimo_mobile import terminal
from mimo_mobile.convert.synthetic import write_synthetic
from mimo_mobile.hub import Source
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import plan

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "q4_0": [
        {"context_length": 1024}, {"context_length": 1024, "repack": False},
        {"context_length": 4096, "speculate": "off"},
        {"context_length": 256, "repack": False, "speculate": "off"}, {"context_length": 1024, "kv_dtype": "int8"},
        {"context_length": 1024, "kv_dtype": "f32", "speculate": "off"},
    ],
    "int4_b32": [
        {"context_length": 1024, "cache": False}, {"context_length": 1024},
        {"context_length": 4096, "speculate": "off"},
        {"context_length": 256, "speculate": "off"}, {"context_length": 1024, "kv_dtype": "int8", "speculate": "off"},
        {"context_length": 4096},
    ],
}  # fmt: skip

COLUMNS = ("layers", "settings", "private", "planned", "off", "pages", "planned", "off")


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: what was planned, and how RssAnon and RssFile grew."""

    layers: int
    settings: str
    private_planned: int
    private: int
    file_planned: int
    file: int

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        pairs = (self.private, self.private_planned), (self.file, self.file_planned)
        cells = [
            cell
            for found, planned in pairs
            for cell in (terminal.size(found), terminal.size(planned), f"{planned / found - 1:+.1%}")
        ]
        return str(self.layers), self.settings, *cells


def once(model: str, text: str) -> None:
    """Load, fill the context and generate; print by how much memory grew."""
    from mimo_mobile import GenerationConfig, load
    from mimo_mobile.runtime.llama import loading as llama
    from mimo_mobile.runtime.onnx import loading as onnx

    assert llama and onnx  # Python's own modules are imported before memory is counted
    settings = json.loads(text)
    before, dice = memory_of(), random.Random(0)
    with load(model, **settings) as loaded:
        ids = [dice.randrange(1000) for _ in range(loaded.context_length - 20)]
        list(loaded.generate(ids, GenerationConfig(temperature=0, max_tokens=16)))
        after = memory_of()
    print(json.dumps({name: after[key] - before[key] for name, key in (("private", "RssAnon"), ("file", "RssFile"))}))


def measured(layers: int, work: Path, most: int | None) -> list[Row]:
    """All settings, or the first so many of each recipe, with a model of so many layers."""
    checkpoint = write_synthetic(work / f"layers-{layers}", layers=layers, force=True)
    out = work / f"out-{layers}"
    quantize_checkpoint(Source(checkpoint, checkpoint.name, None), out, list(SETTINGS), problems=0, effort="none")
    shutil.rmtree(checkpoint)
    environment, rows = {"MIMO_CACHE": str(work / "cache")}, list[Row]()
    for recipe, each in SETTINGS.items():
        for settings in each[:most]:
            text = json.dumps({"recipe": recipe, **settings})
            command = [sys.executable, "-m", "benchmarks.fit", "--once", out, text]
            run(command, environment)  # the first use tests kernels and fills the cache
            need = plan(out, **json.loads(text)).need  # here, since planning takes memory, too
            found = json.loads(run(command, environment).output)
            found |= {"private_planned": need.private_bytes, "file_planned": need.file_bytes}
            words = " ".join(f"{name}={value}" for name, value in settings.items())
            rows.append(Row(layers, f"{recipe} {words}", **found))
            click.echo(" · ".join(rows[-1].cells()), err=True)
    for folder in (out, work / "cache"):
        shutil.rmtree(folder)
    return rows


@click.command()
@click.option("--layers", default="2,8", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder with room for 20 GB [default: /tmp].")
@click.option("--most", type=int, help="So many settings of each recipe [default: all].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(layers: str, work: Path | None, most: int | None, as_json: bool) -> None:
    """Print what was planned and what was taken."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        rows = [row for each in layers.split(",") for row in measured(int(each), Path(folder), most)]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
    else:
        terminal.table("Memory as planned and as taken", COLUMNS, [row.cells() for row in rows], left=2)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        once(*sys.argv[2:])
    else:
        main()
