"""What q4_k_m and q4_0 lose beside llama.cpp's own llama-imatrix and llama-quantize, on SmolLM2-135M.

Run ``python -m benchmarks.llama_tools_quality FOLDER``, where FOLDER has both programs. Both sides see the same text,
and the files of both are measured by ``quantization_quality``'s yardstick. SmolLM2's rows of 576 weights fill no blocks
of 256: both sides then store such matrices in the same other formats, and only down_proj, whose rows have 1,536, is in
Q4_K or Q6_K.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.quantization_quality import MODELS, TEXTS, Row, Yardstick, measure_recipes
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.entries import EFFORTS
from mimo_mobile.hub import Source
from mimo_mobile.quantize.written import read_written
from tests import smollm

CALIBRATION = TEXTS / "calibration.txt"

RECIPES = {"q4_k_m": "Q4_K_M", "q4_0": "Q4_0"}
"""Our recipes, and what llama-quantize calls the same."""

LONGEST_S = 1800


def measure_theirs(checkpoint: Checkpoint, yardstick: Yardstick, tools: Path, folder: Path) -> Iterator[Row]:
    """Let llama.cpp's programs quantize a checkpoint, without a matrix and with theirs, and measure the files."""
    plain = convert_checkpoint(Source(checkpoint.path, "smollm"), folder / "f32.gguf", to="gguf", dtype="f32")[0]
    matrix = folder / "theirs.imatrix"
    seen = ["-f", CALIBRATION, "--parse-special", "-c", "512", "-o", matrix]
    _run(tools / "llama-imatrix", "-m", plain, *seen)
    for effort, options in (("none", []), ("llama-imatrix", ["--imatrix", matrix])):
        for recipe, name in RECIPES.items():
            made = folder / f"{recipe}-{effort}.gguf"
            _run(tools / "llama-quantize", *options, plain, made, name, "2")
            bits = 8 * made.stat().st_size / checkpoint.num_parameters
            found = yardstick.measure(*read_written(made, checkpoint.config))
            yield Row(f"llama-quantize {name}", effort, bits, found)


def _run(*words: object) -> None:
    command = [str(each) for each in words]
    subprocess.run(command, check=True, timeout=LONGEST_S, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@click.command()
@click.argument("tools", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", type=click.Choice(list(MODELS)), default="scaled", show_default=True)
def main(tools: Path, model: str) -> None:
    """Print a table of losses; TOOLS is the folder of llama-imatrix and llama-quantize."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        checkpoint = Checkpoint.open(smollm.write_smollm(folder / "checkpoint", scaled=model == "scaled"))
        yardstick = Yardstick(checkpoint)
        click.echo(f"{MODELS[model]}\n\n| | effort | bits | mean KLD | same top |\n|---|---|---|---|---|")
        for row in measure_theirs(checkpoint, yardstick, tools, folder):
            click.echo(row)
        for effort in EFFORTS:
            for row in measure_recipes(checkpoint, yardstick, list(RECIPES), effort, CALIBRATION, folder / effort):
                click.echo(row)


if __name__ == "__main__":
    main()
