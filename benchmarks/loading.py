"""The ways of loading a model: seconds, memory and the speed that each gives, every one in a process of its own.

Run ``python -m benchmarks.loading MODEL…`` on .gguf files and ONNX folders.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.once import Once, measured
from mimo_mobile import terminal

COLUMNS = ("way", "load", "RssAnon", "peak RssAnon", "after runs", "RssFile", "prefill/s", "decode/s")


def ways(model: Path, cache: str) -> Iterator[tuple[str, Once]]:
    """Each way with its figures."""
    if model.suffix == ".gguf":
        options: list[tuple[str, dict[str, Any]]] = [
            ("repacked", {"repack": True}),
            ("mapped (--no-repack)", {"repack": False}),
        ]
    else:
        options = [
            ("prepacked anew (--no-cache)", {"cache": False}),
            ("first load, fills the cache", {}),
            ("mapped from the cache", {}),
        ]
    for name, each in options:
        yield name, measured(model, {"context_length": 1024, **each}, {"MIMO_CACHE": cache})


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), help="Folder with room for the cache [default: /tmp].")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def main(models: Sequence[Path], work: Path | None, record: Path | None) -> None:
    """Print a table for each of MODELS, with a KV cache of 1024 tokens."""
    found: dict[str, dict[str, Any]] = {}
    for model in models:
        with tempfile.TemporaryDirectory(dir=work) as cache:
            rows = dict(ways(model, cache))
        found[model.name] = {way: asdict(row) for way, row in rows.items()}
        stored = sum(path.stat().st_size for path in ([model] if model.is_file() else model.iterdir()))
        cells = [
            (
                way, f"{row.load_s:.1f} s", terminal.size(row.loaded_anon_bytes),
                terminal.size(row.peak_anon_bytes), terminal.size(row.anon_bytes), terminal.size(row.file_bytes),
                f"{row.prefill_tps:.1f}", f"{row.decode_tps:.1f}",
            )
            for way, row in rows.items()
        ]  # fmt: skip
        terminal.table(f"{model.name}, {terminal.size(stored)} on disk", COLUMNS, cells)
    if record:
        record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
