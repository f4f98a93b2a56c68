"""What hostile model files do to other engines, and to `mimo run`: `python -m benchmarks.hostile_peers gguf` or `onnx`.

Each file or folder is opened in a process of its own, which computes two tokens. The tables are in docs/security.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests import hostile_gguf, hostile_onnx

TIMEOUT_S = 20
MOST_ADDRESSES_BYTES = 8 << 30
ASK = ("hi", "--max-tokens", "2", "--context-length", "64")

LLAMA_CPP_PYTHON = """
import sys, llama_cpp
llama_cpp.Llama(sys.argv[1], n_ctx=64, n_threads=1, verbose=False).eval([0, 1])
"""
GENAI = """
import sys, onnxruntime_genai as og
model = og.Model(sys.argv[1])
tokens = og.Tokenizer(model).encode("hi")
params = og.GeneratorParams(model)
params.set_search_options(max_length=len(tokens) + 2, do_sample=False)
generator = og.Generator(model, params)
generator.append_tokens(tokens)
while not generator.is_done():
    generator.generate_next_token()
"""


@dataclass(frozen=True, slots=True)
class Suite:
    """One format and an engine that runs it.

    Attributes:
        cases: Makes the files or folders, one after the other.
        package: The engine's distribution.
        code: Python code that opens ``sys.argv[1]`` and computes.
        shown: How the names of the ten in the table begin.
    """

    cases: Callable[[Path], Iterator[tuple[str, Path]]]
    package: str
    code: str
    shown: tuple[str, ...]


SUITES = {
    "gguf": Suite(hostile_gguf.cases, "llama-cpp-python", LLAMA_CPP_PYTHON, (
        "alignment 8", "array of 2^33 of type 0", "blk.0.attn_norm.weight in BF16", "blk.0.attn_q.weight in F64",
        ".block_count 600", ".attention.head_count 8", ".rope.dimension_count 63",
        ".attention.layer_norm_rms_epsilon nan", ".rope.scaling.type 'garbage'", "a token twice",
    )),
    "onnx": Suite(hostile_onnx.cases, "onnxruntime-genai", GENAI, (
        "model.onnx is a pipe", "tokenizer.json is a pipe", "model.onnx.data is a device", "genai_config.json [[[",
        "genai_config.json head_size 2147483648", "genai_config.json num_hidden_layers 2147483648",
        "model.onnx: an endless loop", "model.onnx: GroupQueryAttention num_heads 0", "model.onnx: no nodes",
        "model.onnx: data location ../../../etc/passwd",
    )),
}  # fmt: skip


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile_peers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("format", choices=SUITES)
    parser.add_argument("--all", action="store_true", help="try every file instead of the ten")
    options = parser.parse_args()
    suite = SUITES[options.format]
    print(f"| {options.format} | {suite.package} {version(suite.package)} | `mimo run` |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="mimo-hostile-") as name:
        os.environ["MIMO_CACHE"] = f"{name}/cache"
        for case, path in suite.cases(Path(name)):
            if options.all or case.startswith(suite.shown):
                theirs = ended([sys.executable, "-c", suite.code, str(path)])
                ours = ended([sys.executable, "-m", "mimo_mobile", "run", str(path), *ASK])
                print(f"| {case} | {theirs} | {ours} |", flush=True)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def ended(command: list[str]) -> str:
    """How a process ended: in words, with its peak memory where that is much."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=_limit, start_new_session=True)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > TIMEOUT_S:
                os.killpg(process.pid, signal.SIGKILL)
                _, status, usage = os.wait4(process.pid, 0)
                return f"**hangs**{_memory(usage.ru_maxrss)}"
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
    memory = _memory(usage.ru_maxrss)
    if process.returncode < 0:
        return f"**dies by {signal.Signals(-process.returncode).name}**{memory}"
    return f"{'an answer' if process.returncode == 0 else 'an error'}{memory}"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES_BYTES, MOST_ADDRESSES_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _memory(kib: int) -> str:
    return f", {kib / 2**20:.1f} GiB" if kib > 1 << 19 else ""


if __name__ == "__main__":
    main()
