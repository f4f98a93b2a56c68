"""What hostile ONNX folders do to onnxruntime-genai, and to `mimo run`: `python -m benchmarks.hostile_genai`.

Each folder is opened in a process of its own, which asks for two tokens. The table is in docs/security.md.
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
from importlib.metadata import version
from pathlib import Path

from tests.hostile_onnx import cases

TIMEOUT_S = 20
MOST_ADDRESSES_BYTES = 8 << 30
SHOWN = (
    "model.onnx is a pipe", "tokenizer.json is a pipe", "model.onnx.data is a device", "genai_config.json [[[",
    "genai_config.json head_size 2147483648", "genai_config.json num_hidden_layers 2147483648",
    "model.onnx: an endless loop", "model.onnx: GroupQueryAttention num_heads 0", "model.onnx: no nodes",
    "model.onnx: data location ../../../etc/passwd",
)  # fmt: skip
"""How the names of the ten folders in the table begin."""

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


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile_genai", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--all", action="store_true", help="try every folder instead of the ten")
    options = parser.parse_args()
    ask = ["hi", "--max-tokens", "2", "--context-length", "64"]
    print(f"| folder | onnxruntime-genai {version('onnxruntime-genai')} | `mimo run` |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="mimo-hostile-") as name:
        os.environ["MIMO_CACHE"] = f"{name}/cache"
        for case, folder in cases(Path(name)):
            if options.all or case.startswith(SHOWN):
                theirs = ended([sys.executable, "-c", GENAI, str(folder)])
                ours = ended([sys.executable, "-m", "mimo_mobile", "run", str(folder), *ask])
                print(f"| {case} | {theirs} | {ours} |", flush=True)
            shutil.rmtree(folder)


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
