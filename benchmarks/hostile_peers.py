"""What engines do with ten kinds of damaged or lying model files: `python -m benchmarks.hostile_peers`.

Each file is loaded in a process of its own, and one step is computed. The table says how the process ended.
"""

from __future__ import annotations

import argparse
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.hostile_gguf import Maker

LIMIT_S, LIMIT_BYTES = 20, 4 << 30
"""A process that takes more time hangs, and it gets no more address space."""

GGUF_KINDS = (
    "alignment 1", "array of 2^33 of type 0", "blk.0.attn_norm.weight in BF16", "blk.0.attn_q.weight in F64",
    ".block_count 600", ".attention.head_count 8", ".rope.dimension_count 63", ".attention.layer_norm_rms_epsilon nan",
    ".rope.scaling.type 'garbage'", "a token twice",
)  # fmt: skip

_OURS = """
from mimo_mobile.runtime import load
with load(sys.argv[1]) as model:
    model.logits([0, 1])
"""
_LLAMA_CPP_PYTHON = """
from llama_cpp import Llama
Llama(sys.argv[1], n_ctx=64, n_threads=1, verbose=False).eval([0, 1])
"""


@dataclass(frozen=True, slots=True)
class Suite:
    """Files of one format, and the engines that read it.

    Attributes:
        kinds: The names of the files.
        engines: Name → Python code that loads ``sys.argv[1]`` and computes a step.
    """

    kinds: tuple[str, ...]
    engines: Mapping[str, str]

    def files(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """The files by their kinds, made in a folder one after the other."""
        for name, path in Maker(folder).bad():
            if name in self.kinds:
                yield name, path
            path.unlink()


SUITES = {"gguf": Suite(GGUF_KINDS, {"MiMo Mobile": _OURS, "llama-cpp-python": _LLAMA_CPP_PYTHON})}


def outcome(code: str, path: Path) -> str:
    """How a process ends that loads a file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    command = [sys.executable, "-c", f"import sys\n{code}", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False, preexec_fn=limit
        )
    except subprocess.TimeoutExpired:
        return f"hangs (ended after {LIMIT_S} s)"
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode < 0:
        return f"the process dies: {signal.Signals(-done.returncode).name}"
    if done.returncode:
        shown = re.sub(r"^[\w.]*\.(?=\w+: )", "", last.replace(f"{path}", "the file"))
        return f"error: {shown[:110]}"
    return "computes"


def main() -> None:
    """Print a table for each suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=SUITES, action="append", help="by default all")
    for name in parser.parse_args().suite or SUITES:
        suite = SUITES[name]
        print(f"| {name} | {' | '.join(suite.engines)} |\n|---|{'---|' * len(suite.engines)}")
        with tempfile.TemporaryDirectory() as folder:
            for kind, path in suite.files(Path(folder)):
                print(f"| {kind} | {' | '.join(outcome(code, path) for code in suite.engines.values())} |", flush=True)


if __name__ == "__main__":
    main()
