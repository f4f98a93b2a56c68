"""`mimo quantize` beside llama.cpp's two steps: wall time and memory, run alternately on the same checkpoint.

Run ``python -m benchmarks.conversion CHECKPOINT --llama-cpp SOURCE --python PYTHON``. SOURCE is llama.cpp's source
tree (the folder vendor/llama.cpp of llama-cpp-python's sdist), PYTHON one that has llama-cpp-python, torch,
transformers and sentencepiece. CHECKPOINT may be what ``mimo synth`` wrote.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import click

from benchmarks.process import Taken, run
from mimo_mobile import terminal

ROOT = Path(__file__).parents[1]


def ours(checkpoint: Path, recipe: str, folder: Path) -> list[Taken]:
    """One pass, checksums and MTP layer included."""
    command = Path(sys.executable).with_name("mimo"), "quantize", checkpoint, "--recipe", recipe
    return [run([*command, "--out", folder / "ours", "--problems", "0", "--no-answer"])]


def theirs(checkpoint: Path, recipe: str, folder: Path, llama_cpp: Path, python: str) -> list[Taken]:
    """convert_hf_to_gguf.py to bf16, then llama_model_quantize; without the MTP layer, which it cannot convert."""
    whole, small = folder / "bf16.gguf", folder / "small.gguf"
    environment = {"PYTHONPATH": str(ROOT)}
    first = run([python, "-m", "benchmarks.peers.llama_convert", llama_cpp, checkpoint, whole], environment)
    second = run([sys.executable, "-m", "benchmarks.peers.llama_quantize", whole, small, recipe.upper()], environment)
    return [first, second]


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--recipe", type=click.Choice(["q4_0", "q4_k_m"]), default="q4_0", show_default=True)
@click.option("--llama-cpp", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--python", default=sys.executable, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder with room for the bf16 file [default: /tmp].")
def main(checkpoint: Path, recipe: str, llama_cpp: Path, python: str, rounds: int, work: Path | None) -> None:
    """Print time and peaks of memory of both, and the ratio of their times."""
    ratios = []
    for _ in range(rounds):
        seconds = []
        for name in "mimo quantize", "llama.cpp":
            with tempfile.TemporaryDirectory(dir=work) as folder:
                if name == "llama.cpp":
                    steps = theirs(checkpoint, recipe, Path(folder), llama_cpp, python)
                else:
                    steps = ours(checkpoint, recipe, Path(folder))
            seconds.append(sum(step.seconds for step in steps))
            anon, peak = (max(getattr(step, key) for step in steps) for key in ("peak_anon_bytes", "peak_rss_bytes"))
            each = " + ".join(f"{step.seconds:.1f} s" for step in steps)
            click.echo(f"{name}: {each}, RssAnon {terminal.size(anon)}, VmHWM {terminal.size(peak)}")
        ratios.append(seconds[0] / seconds[1])
    click.echo(json.dumps({"recipe": recipe, "ratios": ratios, "median": median(ratios)}))


if __name__ == "__main__":
    main()
