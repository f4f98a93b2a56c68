"""How generation slows down beside other work: numbers of threads and OpenMP's ways of waiting, one process a trial.

Run ``python -m benchmarks.busy MODEL…`` on .gguf files; ``--help`` has the rest. Every round runs all ways, one after
another, alone and beside busy processes, so that other work on the machine touches all alike; ratios are within rounds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np

from benchmarks.engines import Ours
from mimo_mobile import terminal
from mimo_mobile.runtime.devices.threads import physical_cores

PROMPT_TOKENS, DECODE_TOKENS = 64, 8
WAITS: dict[str, dict[str, str]] = {
    "OpenMP's default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
}
COLUMNS = ("threads", "waiting", "busy beside", "prefill/s", "decode/s", "× first", "processor time a token", "× first")


def trial(model: Path, threads: int, seconds: float) -> None:
    """Print tokens a second of prefill and of decoding for so many seconds, and processor seconds a decoded token."""
    ids = np.random.Generator(np.random.PCG64(0)).integers(0, 1000, PROMPT_TOKENS).tolist()
    engine = Ours(model, context_length=256, threads=threads, cache=False)
    engine.fill(ids[:1])
    engine.decode(2)
    prefill = engine.prefill(ids)
    started, used, decoded, tokens = time.perf_counter(), time.process_time(), 0.0, 0
    while time.perf_counter() - started < seconds:
        decoded += engine.decode(DECODE_TOKENS) * DECODE_TOKENS
        tokens += DECODE_TOKENS
    print(json.dumps([PROMPT_TOKENS / prefill, tokens / decoded, (time.process_time() - used) / tokens]))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measured(model: Path, threads: int, wait: str, seconds: float) -> tuple[float, float, float]:
    """What ``trial`` prints, from a process of its own: OpenMP reads its settings when it is loaded."""
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-m", "benchmarks.busy", str(model), "--trial", str(threads), "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment | WAITS[wait], capture_output=True, text=True, check=True)
    prefill, decode, used = json.loads(done.stdout)
    return prefill, decode, used


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Of decoding in each trial.")
@click.option("--busy", "beside", default="0,2", show_default=True, help="Numbers of busy processes beside it.")
@click.option("--threads", default=f"1,{physical_cores()}", show_default=True)
@click.option("--waits", default=",".join(WAITS), show_default=True)
@click.option("--trial", "one", type=int, hidden=True)
def main(
    models: Sequence[Path], rounds: int, seconds: float, beside: str, threads: str, waits: str, one: int | None
) -> None:
    """Print a table for each of MODELS: medians over the rounds, beside the first way of the same round."""
    if one is not None:
        trial(models[0], one, seconds)
        return
    print(
        f"{physical_cores()} cores ({platform.machine()}), load average {os.getloadavg()[0]:.1f} before the first"
        f" trial, llama-cpp-python {version('llama-cpp-python')}, {time.strftime('%Y-%m-%d')}"
    )
    ways = [(int(count), wait) for count in threads.split(",") for wait in waits.split(",")]
    for model in models:
        found: dict[tuple[int, str, int], list[tuple[float, float, float]]] = {}
        for _ in range(rounds):
            for others in map(int, beside.split(",")):
                with busy(others):
                    for count, wait in ways:
                        if count == 1 and wait != ways[0][1]:
                            continue  # One thread waits for no other.
                        figures = measured(model, count, wait, seconds)
                        found.setdefault((count, wait, others), []).append(figures)
        rows = []
        for (count, wait, others), figures in found.items():
            first = next(value for key, value in found.items() if key[2] == others)
            prefill, decode, used = (statistics.median(each) for each in zip(*figures, strict=True))
            speed, cost = (
                statistics.median(mine[column] / its[column] for mine, its in zip(figures, first, strict=True))
                for column in (1, 2)
            )
            cells = f"{prefill:.1f}", f"{decode:.1f}", f"{speed:.2f}", f"{used * 1e3:.2f} ms", f"{cost:.2f}"
            rows.append((str(count), wait, str(others), *cells))
        terminal.table(f"{model.name}, {rounds} rounds, load average {os.getloadavg()[0]:.1f} after", COLUMNS, rows)


if __name__ == "__main__":
    main()
