"""Prefill and decode by context depth: our sessions beside llama.cpp's and onnxruntime-genai's own loops.

Run ``make bench`` (MiMo-nano and two layers in MiMo-7B's shapes) or ``make bench-7b`` (all 36 layers, some hours).
Both sides of a pair run alternately in one process on the same files; ratios are medians of the rounds' ratios.
Weights in MiMo-7B's shapes are random: they say nothing about answers.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks.engines import Engine, Genai, LlamaLoop, Ours
from benchmarks.process import memory_of
from mimo_mobile import terminal
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.synthetic import write_synthetic
from mimo_mobile.hub import Source, resolve
from mimo_mobile.quantize.pipeline import quantize_checkpoint

PREFILL_TOKENS, DECODE_TOKENS = 128, 12
PROBE_BYTES = 1 << 30

Open = Callable[[int], Engine]


@dataclass(frozen=True, slots=True)
class Row:
    """One engine on one model at one depth; see the columns of the table."""

    model: str
    kv: str
    kv_bytes_per_token: int
    engine: str
    depth: int
    prefill_tps: float
    decode_tps: float
    prefill_over_peer: float
    decode_over_peer: float
    of_bandwidth: float
    load_s: float
    heap_bytes: int


def read_bandwidth() -> float:
    """Bytes per second that all cores together read from memory: the best of several passes over 1 GiB."""
    data = np.ones(PROBE_BYTES // 8, np.int64)
    workers = os.cpu_count() or 1
    parts, best = np.array_split(data, workers), 0.0
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(9):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, data.nbytes / (time.perf_counter() - started))
    return best


def compare(
    model: str, kv: str, per_token: int, weight_bytes: int, opens: Sequence[Open], depths: Sequence[int], rounds: int,
    bandwidth: float,
) -> list[Row]:  # fmt: skip
    """Rows of two engines on one model: ours first, then the peer."""
    engines, loads, heaps = [], [], []
    for each in opens:
        before, started = memory_of()["RssAnon"], time.perf_counter()
        engines.append(each(max(depths) + 2 * PREFILL_TOKENS))
        loads.append(time.perf_counter() - started)
        heaps.append(memory_of()["RssAnon"] - before)
    random = np.random.Generator(np.random.PCG64(0))
    rows = []
    for depth in depths:
        for engine in engines:
            engine.fill(random.integers(0, 1000, max(1, depth)).tolist())
        new = random.integers(0, 1000, PREFILL_TOKENS).tolist()
        times = [[(engine.prefill(new), engine.decode(DECODE_TOKENS)) for engine in engines] for _ in range(rounds + 1)]
        times = times[1:]
        for index, engine in enumerate(engines):
            prefill = median(PREFILL_TOKENS / pair[index][0] for pair in times)
            decode = median(1 / pair[index][1] for pair in times)
            rows.append(
                Row(
                    model, kv, per_token, engine.name, depth, prefill, decode,
                    median(pair[1][0] / pair[index][0] for pair in times),
                    median(pair[1][1] / pair[index][1] for pair in times),
                    (weight_bytes + per_token * depth) * decode / bandwidth, loads[index], heaps[index],
                )
            )  # fmt: skip
    for engine in engines:
        engine.close()
    return rows


def measure(
    source: Source, work: Path, recipes: Sequence[str], depths: Sequence[int], rounds: int, bandwidth: float
) -> list[Row]:
    """Rows of a checkpoint in every recipe, against each recipe's peer."""
    out = work / "models" / source.name
    made = quantize_checkpoint(source, out, recipes, problems=0)
    config = Checkpoint.open(source.path).config
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    embedding = config.vocab_size * config.hidden_size
    rows = []
    for name in recipes:
        entry = made.entry(name)
        assert entry is not None
        path = out / entry.path
        stored = [part.size_bytes for part in entry.parts if part.path.endswith((".gguf", ".data"))]
        # Of the embedding one row is read, and the MTP layer not at all.
        weights = int(max(stored) - embedding * (0.5625 if entry.format == "gguf" else 0.5 + 4 / 32))
        if entry.format == "gguf":
            for kv, per_value in (("f16", 2.0), ("q8_0", 34 / 32)):
                if config.head_dim % 32 and kv != "f16":
                    continue
                opens: list[Open] = [
                    lambda length, path=path, kv=kv: Ours(path, length, kv_dtype=kv),  # type: ignore[misc]
                    lambda length, path=path, kv=kv: LlamaLoop(path, length, kv),  # type: ignore[misc]
                ]
                rows += compare(path.name, kv, int(values * per_value), weights, opens, depths, rounds, bandwidth)
        else:
            opens = [
                lambda length, path=path: Ours(path, length),  # type: ignore[misc]
                lambda length, path=path: Genai(path, length),  # type: ignore[misc]
            ]
            rows += compare(path.name, "f16", 2 * values, weights, opens, depths, rounds, bandwidth)
    return rows


def plot(rows: Sequence[Row], file: Path) -> None:
    """Decode and prefill speed against depth, a line for each engine and model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for axis, field, title in zip(axes, ("decode_tps", "prefill_tps"), ("decode", "prefill"), strict=True):
        for key in dict.fromkeys((row.model, row.kv, row.engine) for row in rows):
            points = [row for row in rows if (row.model, row.kv, row.engine) == key]
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
    "engine", "depth", "prefill/s", "decode/s", "× its prefill", "× its decode", "of bandwidth", "load", "heap",
)  # fmt: skip


def show(rows: Sequence[Row]) -> None:
    """Print a table for each model and kind of KV cache; × is over the peer, the second engine of the table."""
    for model, kv in dict.fromkeys((row.model, row.kv) for row in rows):
        chosen = [row for row in rows if (row.model, row.kv) == (model, kv)]
        cells = [
            (
                row.engine, str(row.depth), f"{row.prefill_tps:.1f}", f"{row.decode_tps:.1f}",
                f"{row.prefill_over_peer:.2f}", f"{row.decode_over_peer:.2f}", f"{row.of_bandwidth:.0%}",
                f"{row.load_s:.1f} s", terminal.size(row.heap_bytes),
            )
            for row in chosen
        ]  # fmt: skip
        terminal.table(f"{model}, KV {kv}: {terminal.size(chosen[0].kv_bytes_per_token)} a token", COLUMNS, cells)


@click.command()
@click.option("--layers", default=2, show_default=True, help="Of the model in MiMo-7B's shapes; 36 is all.")
@click.option("--nano/--no-nano", default=True, show_default=True, help="MiMo-nano, too.")
@click.option("--depths", default="0,1024,4096,8192", show_default=True, help="Tokens in the KV cache.")
@click.option("--recipes", default="q4_0,int4_b32,int4_b128", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench"), show_default=True)
def main(layers: int, nano: bool, depths: str, recipes: str, rounds: int, out: Path) -> None:
    """Print tables, and write bench.json and bench.png to OUT, where the models are kept, too."""
    out.mkdir(parents=True, exist_ok=True)
    steps, names = [int(depth) for depth in depths.split(",")], recipes.split(",")
    bandwidth, ran_on = read_bandwidth(), machine()
    click.echo(json.dumps(ran_on) + f"\nread bandwidth {bandwidth / 1e9:.1f} GB/s")
    sources = [(resolve("nano"), [depth for depth in steps if depth <= 1024])] if nano else []
    random = out / f"mimo-7b-shapes-{layers}-layers"
    if not random.exists():
        write_synthetic(random, layers=layers)
    sources.append((Source(random, random.name), steps))
    rows: list[Row] = []
    for source, at in sources:
        found = measure(source, out, names, at, rounds, bandwidth)
        show(found)
        rows += found
    record = {"machine": ran_on, "read_bandwidth": bandwidth, "rows": [asdict(row) for row in rows]}
    (out / "bench.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot([row for row in rows if row.model.startswith(random.name)], out / "bench.png")
    click.echo(f"{out / 'bench.json'}, {out / 'bench.png'}")


if __name__ == "__main__":
    main()
