"""One model, loaded and run in a process of its own, so that each way of loading is measured apart from all others.

Run ``python -m benchmarks.once MODEL '{"context_length": 4096, "repack": false}'``; it prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import Ours
from benchmarks.process import memory_of, run

PREFILL_TOKENS, DECODE_TOKENS = 128, 8


@dataclass(frozen=True, slots=True)
class Once:
    """What a fresh process measured.

    Attributes:
        load_s: How long loading took.
        loaded_anon_bytes: RssAnon after loading: memory that cannot be dropped and read again.
        anon_bytes: RssAnon after running, with the KV cache and what a run needs.
        file_bytes: RssFile after running: pages of mapped files.
        peak_anon_bytes: The largest RssAnon, while loading too.
        fill_s: How long it took to read ``depth`` tokens into the KV cache.
        prefill_tps: The speed of reading 128 tokens after those.
        decode_tps: The speed of decoding after those.
    """

    load_s: float
    loaded_anon_bytes: int
    anon_bytes: int
    file_bytes: int
    peak_anon_bytes: int
    fill_s: float
    prefill_tps: float
    decode_tps: float


def measured(model: Path, options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Once:
    """The figures of ``model`` loaded with ``options`` of ``runtime.load`` and ``depth``, in a new process."""
    taken = run([sys.executable, "-m", "benchmarks.once", model, json.dumps(dict(options))], environment)
    return Once(**json.loads(taken.output) | {"peak_anon_bytes": taken.peak_anon_bytes})


def main(model: str, text: str) -> None:
    """Load, run and print."""
    options: dict[str, Any] = json.loads(text)
    depth = options.pop("depth", 1)
    options.setdefault("context_length", depth + 2 * PREFILL_TOKENS)
    random = np.random.Generator(np.random.PCG64(0))
    context, new = (random.integers(0, 1000, count).tolist() for count in (depth, PREFILL_TOKENS))
    started = time.perf_counter()
    engine = Ours(Path(model), **options)
    load_s = time.perf_counter() - started
    loaded = memory_of()["RssAnon"]
    started = time.perf_counter()
    engine.fill(context)
    fill_s = time.perf_counter() - started
    engine.prefill(new)  # warms up
    prefill_s = min(engine.prefill(new) for _ in range(3))
    decode_s = min(engine.decode(DECODE_TOKENS) for _ in range(3))
    memory = memory_of()
    found = Once(
        load_s, loaded, memory["RssAnon"], memory["RssFile"], 0, fill_s, PREFILL_TOKENS / prefill_s, 1 / decode_s
    )
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
