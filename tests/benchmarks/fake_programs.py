"""Acts llama-bench and llama-completion for the quick tests, with what the real ones printed.

llama_bench.jsonl and ANSWER are from the programs of ``make phone-tools`` (llama-cpp-python 0.3.36) with MiMo-nano in
q4_0 under ``qemu-aarch64-static -cpu cortex-a76``, with ``-m model.gguf -o jsonl -p 128 -n 32 -d 0 -r 3 -t 1``; the
speeds are QEMU's. ``FAKE_BENCH`` is one of: good, broken (no model), killed (by the system, at any depth above 0),
chatter (no JSON).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

BENCH = Path(__file__).with_name("llama_bench.jsonl")
ANSWER = "<think>\n17+25:7+5+0=12,1+2+1=04=42\n</think>\n\n42"


def main(words: list[str]) -> int:
    """Print what the program ``words[0]`` would."""
    scenario, options = os.environ.get("FAKE_BENCH", "good"), dict(zip(words[1::2], words[2::2], strict=False))
    if words[0].endswith("completion"):
        print(f"{ANSWER} [end of text]\n\n")
        return 0
    if scenario == "broken":
        print("llama_bench: error: failed to load model 'model.gguf'", file=sys.stderr)
        return 1
    if scenario == "killed" and options["-d"] != "0":
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "chatter":
        print("Segmentation fault")
        return 0
    time.sleep(0.4)  # so that its memory is seen
    rows = BENCH.read_text(encoding="utf-8").replace('"n_depth": 0', f'"n_depth": {options["-d"]}')
    for threads in options["-t"].split(","):
        print(rows.replace('"n_threads": 1', f'"n_threads": {threads}'), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
