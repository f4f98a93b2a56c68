"""The demo app on the phone: it measures the same rounds by ONNX Runtime, started over adb, and leaves a file.

The app keeps models of its own (docs/android.md); nothing is sent to it from here. Its screen must be on, and unlocked.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from benchmarks.phone.adb import Phone, PhoneError
from mimo_mobile.progress import Progress, ProgressCallback

PACKAGE = "io.github.mimomobile.demo"
ACTIVITY = f"{PACKAGE}/.chat.ChatActivity"
FOLDER = f"/sdcard/Android/data/{PACKAGE}/files/benchmarks"
RESULT = "bench-phone.json"
POLL_S = 5.0
LIMIT_S = 3600.0
"""Longer than any phone takes for one kind; a soak takes ten minutes."""

MOST_BYTES = 4 << 20
"""A record has some kilobytes."""

RUNNING, GONE = "running", "gone"


def is_installed(phone: Phone) -> bool:
    """Whether the phone has the app."""
    return phone.shell(f"pm path {PACKAGE} 2>/dev/null || true").startswith("package:")


def start_words(kind: str, model: str | None) -> list[str]:
    """The phone's command that starts a ``benchmark``, a ``soak`` or a ``selftest``, with this model or the loaded."""
    chosen = ["--es", "model", model] if model else []
    return ["am", "start", "-W", "-n", ACTIVITY, "--ez", kind, "true", "--es", "result", RESULT, *chosen]


def measure(phone: Phone, kind: str, model: str | None, progress: ProgressCallback) -> dict[str, Any]:
    """The record that the app writes.

    Raises:
        PhoneError: The app does not start, ends on the way, takes too long, or writes no record.
    """
    file = f"{FOLDER}/{RESULT}"
    phone.shell(f"rm -f {file}")
    said = phone.shell(shlex.join(start_words(kind, model)))
    if "Error" in said:
        raise PhoneError(
            f"{PACKAGE} does not start: {' '.join(said.split())[:200]}; install it again with `make android`"
        )
    poll = f"cat {file} 2>/dev/null || {{ pidof {PACKAGE} >/dev/null && echo {RUNNING} || echo {GONE}; }}"
    begun = time.monotonic()
    while (text := phone.shell(poll)[: MOST_BYTES + 1]).strip() in (RUNNING, GONE):
        if text.strip() == GONE:
            raise PhoneError(
                f"{PACKAGE} ended while it measured, most likely for want of memory: close other apps, or choose"
                " a shorter context or a smaller model in the app"
            )
        if time.monotonic() - begun > LIMIT_S:
            raise PhoneError(
                f"{PACKAGE} wrote no {file} in {LIMIT_S / 60:.0f} minutes; see what its screen says,"
                " and that it is unlocked"
            )
        progress(Progress(f"app {kind}", int(time.monotonic() - begun), int(LIMIT_S), unit="seconds at most"))
        time.sleep(POLL_S)
    return parse_record(text)


def parse_record(text: str) -> dict[str, Any]:
    """The app's record, as far as it is shown here.

    Raises:
        PhoneError: It is none, or the app says why it measured nothing.
    """
    try:
        record = json.loads(text)
        if len(text) > MOST_BYTES or record["record_version"] != 1:
            raise ValueError
        if (failure := record["failure"]) and not record.get("runs"):
            raise PhoneError(f"the app measured nothing: {failure['reason']}")
        for run in record["runs"]:
            if not isinstance(run["depth"], int):
                raise ValueError
            (speed,) = run["speeds"]
            float(speed["prefill_tps"]), float(speed["decode_tps"])
        for sample in record["soak"]:
            float(sample["at_s"]), float(sample["decode_tps"])
        return {**record, "model": {**record["model"], "name": str(record["model"]["name"])}}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PhoneError(
            f"{PACKAGE} wrote no record of version 1 but {text[:80]!r}; install the app of this version"
        ) from error


def rows(record: dict[str, Any], app: dict[str, Any]) -> list[tuple[str, ...]]:
    """Both engines side by side: depth, then prefill and decode of llama.cpp's fastest and of the app, in tokens/s."""
    speeds: dict[int, tuple[float, ...]] = {}
    for run in record["runs"]:
        keys = ("prefill_tps", "decode_tps")
        speeds[run["depth"]] = tuple(max(each[key] for each in run["speeds"]) for key in keys)
    theirs = {run["depth"]: run["speeds"][0] for run in app["runs"]}
    found = []
    for depth in sorted({*speeds, *theirs}):
        ours = tuple(f"{number:.2f}" for number in speeds.get(depth, ())) or ("–", "–")
        speed = theirs.get(depth)
        other = (f"{speed['prefill_tps']:.2f}", f"{speed['decode_tps']:.2f}") if speed else ("–", "–")
        found.append((str(depth), *ours, *other))
    return found
