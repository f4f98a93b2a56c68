"""Loads, generates and closes again and again: ``python -m tests.runtime.cycles MODEL CYCLES``.

Exits with 0 when the second half of the cycles took no more memory than the first, but for ``NOISE_BYTES``.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys

from mimo_mobile.runtime import GenerationConfig, load
from tests.runtime.soak import resident_bytes

NOISE_BYTES = 6_000_000
"""What leaves less than 24 kB in each of 500 cycles, or 120 kB in each of 100, is not found."""

GREEDY = GenerationConfig(temperature=0, max_tokens=8)


def main(model: str, cycles: str) -> None:
    """Cycle, and print the medians of resident memory over the second and the last quarter of all cycles."""
    sizes, texts, trim = list[int](), set[str](), ctypes.CDLL(None).malloc_trim
    for _ in range(int(cycles)):
        with load(model, threads=1, context_length=256) as loaded:
            texts.add("".join(token.text for token in loaded.generate("What is 12 + 30?", GREEDY)))
        trim(0)  # what glibc's allocator keeps for later is no leak
        sizes.append(resident_bytes())
    quarter = len(sizes) // 4
    early, late = (int(statistics.median(part)) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    print(json.dumps({"cycles": len(sizes), "early_bytes": early, "late_bytes": late, "texts": sorted(texts)}))
    sys.exit(0 if late - early < NOISE_BYTES and len(texts) == 1 else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
