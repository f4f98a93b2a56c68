"""Fuzzes every reader of files of others: `make fuzz`, or `python -m tests.fuzz [--seconds 600] [TARGET …]`.

Each target starts from what tests/fuzz/corpus keeps. What makes one fail is kept in OUT/findings, and belongs into its
corpus once it is mended: tests/fuzz/test_corpus.py lets every target read its corpus.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

TARGETS = (
    "gguf", "importance", "checkpoint", "documents", "template", "tokenizer_json", "text", "onnx_graph", "conversation",
)  # fmt: skip
CORPUS = Path(__file__).with_name("corpus")
MEMORY_MB = 512
"""So much memory a target may take in all, Python and its libraries included."""

INPUT_S = 10
"""So long one input may take."""

MOST_BYTES = 1 << 17

NO_ATHERIS = (
    "atheris, which fuzzes, is not installed: it is published for Linux on x86-64 processors only, where `make fuzz`"
    " installs it. Elsewhere, `pytest tests/fuzz` reads the kept corpus and some changes of it."
)


@dataclass(frozen=True)
class Result:
    """How fuzzing a target ended."""

    target: str
    inputs: int
    seconds: float
    memory_mb: int
    found: str

    def __str__(self) -> str:
        speed = self.inputs / max(self.seconds, 0.1)
        return (
            f"{self.target:15} {self.inputs:9,} inputs, {speed:6,.0f}/s, {self.memory_mb:4} MB"
            f"  {self.found or 'nothing found'}"
        )


def fuzz(target: str, seconds: int, out: Path) -> Result:
    """Fuzz one target for so long."""
    grown, findings, log = out / target, out / "findings", out / f"{target}.log"
    for folder in (grown, findings):
        folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={findings}/{target}-", "-print_final_stats=1"]
    status = _run(target, [*options, str(grown), str(CORPUS / target)], log)
    text = log.read_text(encoding="utf-8", errors="replace")
    # libFuzzer prints both as it ends; after a finding only its last line of progress tells them.
    inputs = [int(each) for each in re.findall(r"^#(\d+)\s", text, re.MULTILINE)]
    memory = [int(each) for each in re.findall(r"rss: (\d+)Mb", text)]
    found = "" if status == 0 else f"FOUND {_cause(text)}; the input and {log} say more"
    return Result(target, max(inputs, default=0), time.monotonic() - start, max(memory, default=0), found)


def grow(target: str, out: Path) -> None:
    """Write a target's corpus anew: the least that reaches all that seeds, the kept and the grown corpus reach."""
    import importlib

    seeds, merged = out / f"{target}-seeds", out / f"{target}-merged"
    for folder in (seeds, merged, out / target, CORPUS / target):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(importlib.import_module(f"tests.fuzz.{target}").seeds()):
        (seeds / f"{number:04}").write_bytes(seed)
    for each in merged.iterdir():
        each.unlink()
    sources = [str(merged), str(seeds), str(CORPUS / target), str(out / target)]
    if _run(target, ["-merge=1", *sources], out / f"{target}-merge.log"):
        raise SystemExit(f"{target}: merging failed: {out}/{target}-merge.log")
    for each in (CORPUS / target).iterdir():
        each.unlink()
    left = MOST_KEPT_BYTES
    for each in sorted(merged.iterdir(), key=lambda path: path.stat().st_size):
        left -= each.stat().st_size
        if left > 0:
            each.rename(CORPUS / target / each.name)


MOST_KEPT_BYTES = 150_000
"""So large a kept corpus may be."""


def _run(target: str, options: list[str], log: Path) -> int:
    command = [sys.executable, "-m", "tests.fuzz.one", target, f"-rss_limit_mb={MEMORY_MB}", f"-timeout={INPUT_S}"]
    with log.open("wb") as output:
        return subprocess.run(
            [*command, f"-max_len={MOST_BYTES}", *options], stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode


def _cause(text: str) -> str:
    """The line of a log that says what was found."""
    lines = re.findall(r"^(?:.*ERROR: libFuzzer: .*|\w[\w.]*(?:Error|Exception|Exit)\b.*)$", text, re.MULTILINE)
    return lines[0].strip() if lines else text.strip().splitlines()[-1] if text.strip() else "nothing was printed"


def main() -> None:
    """Fuzz all targets or those that are named, two at once, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)} [default: all]")
    parser.add_argument("--seconds", type=int, default=600, help="so long each is fuzzed [default: 600]")
    parser.add_argument("--jobs", type=int, default=2, help="so many are fuzzed at once [default: 2]")
    parser.add_argument(
        "--out", type=Path, default=Path("out/fuzz"), help="folder for what is found [default: out/fuzz]"
    )
    parser.add_argument("--grow", action="store_true", help="write tests/fuzz/corpus anew instead")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if find_spec("atheris") is None:
        raise SystemExit(NO_ATHERIS)
    targets, out = options.targets or TARGETS, options.out
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        if options.grow:
            list(pool.map(lambda target: grow(target, out), targets))
            return
        results = []
        for result in pool.map(lambda target: fuzz(target, options.seconds, out), targets):
            print(result, flush=True)
            results.append(result)
    if any(result.found for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
