"""Shows what hostile and damaged files do to `mimo`: `python -m tools.hostile`.

All that tests/hostile_*.py make is given to the commands that would read it, and so are good files with single bits
flipped. Nothing may die, hang, print a traceback or take much memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Before anything is imported that reads them: engines' idle threads sleep, and the user's own cache stays as it is.
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from tools.hostile import cases, processes
from tools.hostile.processes import Batch, Outcome

COLUMNS = (
    "what",
    "files",
    "calls",
    "refused",
    "accepted",
    "died",
    "hung",
    "tracebacks",
    "other",
    "worst s",
    "worst MiB",
)


def main() -> None:
    """Try all, print a table, and end with status 1 when something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tools.hostile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=500, help="flipped bits for each format [default: 500]")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth file only [default: 1]")
    parser.add_argument("--only", default="", help="only kinds that contain this text")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once [default: 2]")
    parser.add_argument("--json", type=Path, help="write every outcome to this file")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mimo-hostile-") as name:
        folder = Path(name)
        os.environ["MIMO_CACHE"] = str(folder / "cache")
        os.environ["HF_HUB_OFFLINE"] = "1"
        batches = _apart(folder, options.flips, options.every, options.only)
        calls = sum(len(batch.steps) for batch in batches)
        print(f"{calls} calls to make after {time.monotonic() - start:.0f} s", file=sys.stderr)
        outcomes: list[Outcome] = []
        for outcome in processes.run(batches, options.jobs):
            outcomes.append(outcome)
            if outcome.problem:
                print(described(outcome), file=sys.stderr)
            if len(outcomes) % 500 == 0:
                print(f"{len(outcomes)} calls after {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(table(outcomes))
    bad = [outcome for outcome in outcomes if outcome.problem]
    for each in bad[:60]:
        print(described(each))
    print(f"{len(outcomes)} calls, {len(bad)} not as they must be, {time.monotonic() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1), encoding="utf-8")
    raise SystemExit(bool(bad))


def described(outcome: Outcome) -> str:
    """What happened, in a line."""
    call = " ".join(outcome.arguments)
    return f"{outcome.problem}: {outcome.kind}, {outcome.name}: mimo {call}: {outcome.message}"


def table(outcomes: list[Outcome]) -> str:
    """One row for each kind, in Markdown."""
    kinds: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    rows = [COLUMNS, ("---",) + ("--:",) * (len(COLUMNS) - 1)]
    rows += [_row(kind, each) for kind, each in kinds.items()]
    rows.append(_row("all", outcomes))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(kind: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    def count(holds: Callable[[Outcome], bool]) -> str:
        return str(sum(map(holds, outcomes)))

    known = ("died", "hung", "traceback")
    return (
        kind,
        str(len({(each.kind, each.name) for each in outcomes})),
        str(len(outcomes)),
        count(lambda each: each.status in (1, 2)),
        count(lambda each: each.status == 0),
        *(count(lambda each, word=word: each.problem.startswith(word)) for word in known),  # type: ignore[misc]
        count(lambda each: bool(each.problem) and not each.problem.startswith(known)),
        f"{max((each.seconds for each in outcomes), default=0):.1f}",
        f"{max((each.mib for each in outcomes), default=0):.0f}",
    )


def _batches(folder: Path, flips: int, every: int, only: str) -> list[Batch]:
    (folder / "hostile").mkdir()
    made = list(cases.hostile(folder / "hostile"))[::every]
    if flips:
        made += cases.flips(cases.good(folder / "good"), flips)
    return [batch for batch in made if only in batch.kind]


def _apart(*arguments: Any) -> list[Batch]:
    """What ``_batches`` makes in a process of its own, so that no memory or thread of it is left in this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(_batches, *arguments).result()


if __name__ == "__main__":
    main()
