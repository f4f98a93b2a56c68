"""Prefill and decode by context depth: our sessions beside llama.cpp's and onnxruntime-genai's own loops.

Run ``make bench`` (MiMo-nano and two layers in MiMo-7B's shapes) or ``make bench-7b`` (all 36 layers, some hours).
Both sides of a pair run alternately in one process on the same files; ratios are medians of the rounds' ratios.
Weights in MiMo-7B's shapes are random: they say nothing about answers.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import get_args

import click
import numpy as np
import onnx

from benchmarks.engines import Engine, Genai, LlamaLoop, Ours
from mimo_mobile import terminal
from mimo_mobile.convert.synthetic import write_synthetic
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import Source, resolve
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime.backend import KvDtype

PREFILL_TOKENS, DECODE_TOKENS = 128, 12
PROBE_BYTES = 1 << 30
NANO_DEPTH = 1024
"""MiMo-nano was trained for 2048 tokens."""


@dataclass(frozen=True, slots=True)
class Row:
    """One engine on one model at one depth; see the columns of the table."""

    model: str
    kv_dtype: str
    kv_bytes_per_token: int
    engine: str
    depth: int
    prefill_tps: float
    decode_tps: float
    prefill_over_peer: float
    decode_over_peer: float
    of_bandwidth: float
    bandwidth: float


class Probe:
    """Reads memory as a decode step would, to know what this machine gives at the moment: it varies by the minute."""

    def __init__(self) -> None:
        """Take 1 GiB."""
        self._workers = os.cpu_count() or 1
        self._parts = np.array_split(np.ones(PROBE_BYTES // 8, np.int64), self._workers)

    def bandwidth(self) -> float:
        """Bytes per second that all cores together read: the better of two passes."""
        times = []
        with ThreadPoolExecutor(self._workers) as pool:
            for _ in range(2):
                started = time.perf_counter()
                list(pool.map(np.sum, self._parts))
                times.append(time.perf_counter() - started)
        return PROBE_BYTES / min(times)


def compare(model: Path, kv_dtype: KvDtype, depths: Sequence[int], rounds: int, probe: Probe) -> list[Row]:
    """Rows of our session and its peer on one model, ours first at every depth."""
    peer: Callable[[Path, int, KvDtype], Engine] = LlamaLoop if model.suffix == ".gguf" else Genai
    random = np.random.Generator(np.random.PCG64(0))
    context, new = (random.integers(0, 1000, count).tolist() for count in (max(1, *depths), PREFILL_TOKENS))
    ours = Ours(model, max(depths) + 2 * PREFILL_TOKENS, kv_dtype)
    engines: list[Engine] = [ours, peer(model, max(depths) + 2 * PREFILL_TOKENS, kv_dtype)]
    rows = []
    for depth in depths:
        for engine in engines:
            engine.fill(context[: max(1, depth)])
        # [(bandwidth, ((prefill, decode) of ours, of the peer)), …]; the first warms up.
        measured = [
            (probe.bandwidth(), [(engine.prefill(new), engine.decode(DECODE_TOKENS)) for engine in engines])
            for _ in range(rounds + 1)
        ][1:]
        step_bytes = weight_bytes(model) + ours.kv_bytes_per_token * depth
        for index, engine in enumerate(engines):
            rows.append(
                Row(
                    model=model.name,
                    kv_dtype=kv_dtype,
                    kv_bytes_per_token=ours.kv_bytes_per_token,
                    engine=engine.name,
                    depth=depth,
                    prefill_tps=median(PREFILL_TOKENS / times[index][0] for _, times in measured),
                    decode_tps=median(1 / times[index][1] for _, times in measured),
                    prefill_over_peer=median(times[1][0] / times[index][0] for _, times in measured),
                    decode_over_peer=median(times[1][1] / times[index][1] for _, times in measured),
                    of_bandwidth=median(step_bytes / times[index][1] / bandwidth for bandwidth, times in measured),
                    bandwidth=median(bandwidth for bandwidth, _ in measured),
                )
            )
    for engine in engines:
        engine.close()
    return rows


def weight_bytes(model: Path) -> int:
    """What a decode step reads of a model: all of the trunk but the embedding, of which it reads one row."""
    if model.suffix == ".gguf":
        header = GgufHeader(model)
        return model.stat().st_size - header.tensor_bytes("token_embd.weight")
    tensors = onnx.load(str(model / "model.onnx"), load_external_data=False).graph.initializer
    read = (each for each in tensors if not each.name.startswith(("model.embed_tokens", "rope.")))
    return sum(int(place.value) for each in read for place in each.external_data if place.key == "length")


def measure(
    source: Source, work: Path, recipes: Sequence[str], kv_dtypes: Sequence[KvDtype], depths: Sequence[int], rounds: int
) -> list[Row]:
    """Rows of a checkpoint in every recipe, against each recipe's peer."""
    out = work / "models" / source.name
    made = quantize_checkpoint(source, out, recipes, problems=0)
    probe, rows = Probe(), []
    for entry in (each for each in made.entries if each.recipe in recipes):
        for kv_dtype in kv_dtypes:
            with tempfile.TemporaryDirectory(dir=work) as cache:
                os.environ["MIMO_CACHE"] = cache
                found = compare(out / entry.path, kv_dtype, depths, rounds, probe)
            show(found)
            rows += found
    return rows


def plot(rows: Sequence[Row], file: Path) -> None:
    """Decode and prefill speed against depth, a line for each engine and model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for axis, field, title in zip(axes, ("decode_tps", "prefill_tps"), ("decode", "prefill"), strict=True):
        for key in dict.fromkeys((row.model, row.kv_dtype, row.engine) for row in rows):
            points = [row for row in rows if (row.model, row.kv_dtype, row.engine) == key]
            style = "-o" if points[0].engine == "mimo-mobile" else "--x"
            axis.plot(
                [row.depth for row in points], [getattr(row, field) for row in points], style, label=", ".join(key)
            )
        axis.set(title=title, xlabel="tokens in the KV cache", ylabel="tokens/s", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=130)


def machine() -> dict[str, str]:
    """What it ran on."""
    cpu = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    packages = {name: metadata.version(name) for name in ("llama-cpp-python", "onnxruntime", "onnxruntime-genai")}
    return {"cpu": cpu, "threads": str(os.cpu_count()), "system": platform.platform(), **packages}


COLUMNS = (
    "engine", "depth", "prefill/s", "decode/s", "× its prefill", "× its decode", "of bandwidth", "which is",
)  # fmt: skip


def show(rows: Sequence[Row]) -> None:
    """Print the table of one model and KV cache; × is over the peer."""
    cells = [
        (
            row.engine, str(row.depth), f"{row.prefill_tps:.1f}", f"{row.decode_tps:.1f}",
            f"{row.prefill_over_peer:.2f}", f"{row.decode_over_peer:.2f}", f"{row.of_bandwidth:.0%}",
            f"{row.bandwidth / 1e9:.0f} GB/s",
        )
        for row in rows
    ]  # fmt: skip
    first = rows[0]
    title = f"{first.model}, KV {first.kv_dtype}: {terminal.size(first.kv_bytes_per_token)} a token"
    terminal.table(title, COLUMNS, cells)


@click.command()
@click.option("--layers", default=2, show_default=True, help="Of the model in MiMo-7B's shapes; 36 is all.")
@click.option("--nano/--no-nano", default=True, show_default=True, help="MiMo-nano, too.")
@click.option("--depths", default="0,1024,4096,8192", show_default=True, help="Tokens in the KV cache.")
@click.option("--recipes", default="q4_0,int4_b32,int4_b128", show_default=True)
@click.option("--kv", default="f16,int8", show_default=True, help="Types of the KV cache.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench"), show_default=True)
def main(layers: int, nano: bool, depths: str, recipes: str, kv: str, rounds: int, out: Path) -> None:
    """Print tables, and write bench.json and bench.png to OUT, where the models are kept, too."""
    out.mkdir(parents=True, exist_ok=True)
    steps, names = [int(depth) for depth in depths.split(",")], recipes.split(",")
    kv_dtypes = [kv_dtype for kv_dtype in get_args(KvDtype) if kv_dtype in kv.split(",")]
    ran_on = machine()
    click.echo(json.dumps(ran_on))
    sources = [(resolve("nano"), [depth for depth in steps if depth <= NANO_DEPTH])] if nano else []
    random = out / f"mimo-7b-shapes-{layers}-layers"
    if not random.exists():
        write_synthetic(random, layers=layers)
    sources.append((Source(random, random.name), steps))
    rows: list[Row] = []
    for source, at in sources:
        rows += measure(source, out, names, kv_dtypes, at, rounds)
        record = {"machine": ran_on, "rows": [asdict(row) for row in rows]}
        (out / "bench.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot([row for row in rows if row.model.startswith(random.name)], out / "bench.png")
    click.echo(f"{out / 'bench.json'}, {out / 'bench.png'}")


if __name__ == "__main__":
    main()
