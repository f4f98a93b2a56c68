"""`mimo quantize` beside the peers' converters: wall time and memory, run alternately on the same checkpoint.

GGUF recipes are compared with llama.cpp's two steps (convert_hf_to_gguf.py to bf16, then its quantizer), ONNX recipes
with onnxruntime-genai's model builder. `make bench-convert` sets up both; CHECKPOINT may be what `mimo synth` wrote.
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
from mimo_mobile.quantize.recipes import recipe_named

ROOT = Path(__file__).parents[1]
LLAMA_RECIPES = ("q4_0", "q4_k_m")


def ours(checkpoint: Path, recipe: str, folder: Path) -> list[Taken]:
    """`mimo quantize` in its one pass, checksums and MTP layer included."""
    command = Path(sys.executable).with_name("mimo"), "quantize", checkpoint, "--recipe", recipe
    return [run([*command, "--out", folder / "ours", "--problems", "0", "--no-answer"])]


def llama_cpp(checkpoint: Path, recipe: str, folder: Path, peers: Path) -> list[Taken]:
    """convert_hf_to_gguf.py to bf16, then llama_model_quantize; without the MTP layer, which it cannot convert."""
    whole, small = folder / "bf16.gguf", folder / "small.gguf"
    environment = {"PYTHONPATH": str(ROOT)}
    source = next(peers.glob("llama_cpp_python-*/vendor/llama.cpp"))
    first = run([peers / "bin/python", "-m", "benchmarks.peers.llama_convert", source, checkpoint, whole], environment)
    second = run([sys.executable, "-m", "benchmarks.peers.llama_quantize", whole, small, recipe.upper()], environment)
    return [first, second]


def genai(checkpoint: Path, folder: Path, peers: Path) -> list[Taken]:
    """onnxruntime-genai's builder, int4 in blocks of 32; without the MTP layer."""
    command = peers / "bin/python", "-m", "benchmarks.peers.genai_builder", checkpoint, folder / "genai"
    return [run(command, {"PYTHONPATH": str(ROOT)})]


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--recipe", type=click.Choice([*LLAMA_RECIPES, "int4_b32"]), default="q4_0", show_default=True)
@click.option(
    "--peers",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=ROOT / ".venv-peers",
    help="Their environment, with llama-cpp-python's sources [default: .venv-peers].",
)
@click.option("--rounds", default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder with room for the bf16 file [default: /tmp].")
def main(checkpoint: Path, recipe: str, peers: Path, rounds: int, work: Path | None) -> None:
    """Print time and peaks of memory of both, and the ratio of their times."""
    gguf = recipe_named(recipe).target == "gguf"
    theirs = "llama.cpp" if gguf else "onnxruntime-genai"
    ratios = []
    for _ in range(rounds):
        seconds = []
        for name in "mimo quantize", theirs:
            with tempfile.TemporaryDirectory(dir=work) as temporary:
                folder = Path(temporary)
                if name != theirs:
                    steps = ours(checkpoint, recipe, folder)
                else:
                    steps = llama_cpp(checkpoint, recipe, folder, peers) if gguf else genai(checkpoint, folder, peers)
            seconds.append(sum(step.seconds for step in steps))
            anon, peak = (max(getattr(step, key) for step in steps) for key in ("peak_anon_bytes", "peak_rss_bytes"))
            each = " + ".join(f"{step.seconds:.1f} s" for step in steps)
            click.echo(f"{name} {recipe}: {each}, RssAnon {terminal.size(anon)}, VmHWM {terminal.size(peak)}")
        ratios.append(seconds[0] / seconds[1])
    click.echo(
        json.dumps({"checkpoint": checkpoint.name, "recipe": recipe, "ratios": ratios, "median": median(ratios)})
    )


if __name__ == "__main__":
    main()
