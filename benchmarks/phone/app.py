"""The demo app on the phone: it measures the same rounds by its own engines, started over adb, and leaves a file.

The app keeps models of its own (docs/android.md); nothing is sent to it from here. Its screen must be on, and unlocked.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from typing import Any

from benchmarks.phone.adb import Phone, PhoneError
from mimo_mobile.progress import Progress, ProgressCallback
from mimo_mobile.terminal import size

PACKAGE = "io.github.mimomobile.demo"
ACTIVITY = f"{PACKAGE}/.chat.ChatActivity"
FOLDER = f"/sdcard/Android/data/{PACKAGE}/files/benchmarks"
RESULT = "bench-phone.json"
SO_FAR = ".so-far"
"""What the name of a record ends in that is not finished; the app replaces it after each depth of context."""

MODES = ("npu", "split", "cpu")
"""What computes: the NPU alone, prompts there and tokens on the CPU, or the CPU alone."""

COMPARED = (
    "recipe", "engine", "decode/s", "ratio", "prefill/s", "first token, s", "with drafts/s", "load, s", "RssAnon",
    "peak RSS", "not measured",
)  # fmt: skip

POLL_S = 5.0
LIMIT_S = 3600.0
"""Longer than any phone takes for one kind; a soak takes ten minutes."""

MOST_BYTES = 4 << 20
"""A record has some kilobytes."""

DONE, RUNNING, GONE = "done", "running", "gone"

Record = dict[str, Any]


class AppError(PhoneError):
    """The app does not measure, or ended on the way; the phone is still there."""


def is_installed(phone: Phone) -> bool:
    """Whether the phone has the app."""
    return phone.shell(f"pm path {PACKAGE} 2>/dev/null || true").startswith("package:")


def start_words(kind: str, model: str | None, mode: str | None = None) -> list[str]:
    """The phone's command that starts a ``benchmark``, ``soak``, ``compare`` or ``selftest`` of a model.

    Without a name it is the model that is loaded. A ``mode`` has it loaded anew for what is to compute; without one the
    app's own settings decide.
    """
    chosen = ["--es", "model", model] if model else []
    chosen += ["--es", "mode", mode] if mode else []
    return ["am", "start", "-W", "-n", ACTIVITY, "--ez", kind, "true", "--es", "result", RESULT, *chosen]


def measure(
    phone: Phone,
    kind: str,
    model: str | None,
    progress: ProgressCallback,
    mode: str | None = None,
    keep: Callable[[Record], None] = lambda record: None,
) -> Record:
    """The record that the app writes; ``keep`` is given what is measured so far, each time that there is more of it.

    With a ``mode`` the app begins anew, so that each mode finds the same memory.

    Raises:
        AppError: It does not start, ends on the way, takes too long, or writes no record.
        PhoneError: The phone does not answer.
    """
    file = f"{FOLDER}/{RESULT}"
    phone.shell(f"{f'am force-stop {PACKAGE}; ' if mode else ''}rm -f {file} {file}{SO_FAR}")
    said = phone.shell(shlex.join(start_words(kind, model, mode)))
    if "Error" in said:
        raise AppError(
            f"{PACKAGE} does not start: {' '.join(said.split())[:200]}; install it again with `make android`"
        )
    poll = (
        f"pidof {PACKAGE} >/dev/null && state={RUNNING} || state={GONE};"
        f" if [ -f {file} ]; then echo {DONE}; cat {file}; else echo $state; cat {file}{SO_FAR} 2>/dev/null || true; fi"
    )
    begun, kept = time.monotonic(), ""
    while True:
        state, _, text = phone.shell(poll)[: MOST_BYTES + 10].partition("\n")
        if state.strip() == DONE:
            return parse_record(text)
        if text != kept:
            keep(parse_record(text))
            kept = text
        if state.strip() == GONE:
            raise AppError(
                f"{PACKAGE} ended while it measured, most likely for want of memory: close other apps, or choose"
                " a shorter context or a smaller model in the app"
            )
        if time.monotonic() - begun > LIMIT_S:
            raise AppError(
                f"{PACKAGE} wrote no {file} in {LIMIT_S / 60:.0f} minutes; see what its screen says,"
                " and that it is unlocked"
            )
        told = Progress(f"app {kind}", int(time.monotonic() - begun), int(LIMIT_S), mode or "", "seconds at most")
        progress(told)
        time.sleep(POLL_S)


def parse_record(text: str) -> Record:
    """The app's record, as far as it is shown here.

    Raises:
        AppError: It is none, or the app says why it measured nothing.
    """
    try:
        record = json.loads(text)
        if len(text) > MOST_BYTES or record["record_version"] != 1:
            raise ValueError
        if (failure := record["failure"]) and not record.get("runs"):
            raise AppError(f"the app measured nothing: {failure['reason']}")
        for run in record["runs"]:
            if not isinstance(run["depth"], int):
                raise ValueError
            (speed,) = run["speeds"]
            float(speed["prefill_tps"]), float(speed["decode_tps"])
        for sample in record["soak"]:
            float(sample["at_s"]), float(sample["decode_tps"])
        for each in record.get("compared", []):
            compared_row(each)
        return {**record, "model": {**record["model"], "name": str(record["model"]["name"])}}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise AppError(
            f"{PACKAGE} wrote no record of version 1 but {text[:80]!r}; install the app of this version"
        ) from error


def compared_row(each: Record) -> tuple[str, ...]:
    """A recipe of a comparison in the app: the medians of its turns, as ``COMPARED`` names them."""
    found = each["medians"]
    speeds = (("decode_tps", ".2f"), ("prefill_tps", ".2f"), ("first_token_s", ".2f"), ("drafted_tps", ".2f"))
    decode, *others = (_number(found[key], how) for key, how in (*speeds, ("load_s", ".2f")))
    memory = tuple(_number(found[key], "size") for key in ("peak_anon_bytes", "peak_rss_bytes"))
    names, verdict = (str(each["recipe"]), str(each["engine"])), str(each["failure"] or "")[:200]
    return *names, decode, _number(each["ratio"], ".2f"), *others, *memory, verdict


def _number(value: object, how: str) -> str:
    if value is None:
        return "–"
    number = float(str(value))
    return size(int(number)) if how == "size" else f"{number:{how}}"


def rows(record: Record, app: Record) -> list[tuple[str, ...]]:
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
