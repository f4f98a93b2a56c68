"""Run ``make bench-npu-phone``, or ``python -m benchmarks.phone.npu MODEL`` with the demo app on the phone.

The demo app measures a model that was compiled for the phone's chip in three modes: all on the NPU, prompts there and
tokens on the CPU, all on the CPU. The record is written anew whenever the app has measured more, so that whatever ends
the benchmark leaves what was measured.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.phone import app as demo
from benchmarks.phone import job as steps
from benchmarks.phone import npu_job, npu_picture
from benchmarks.phone.adb import Phone, PhoneError, connect
from benchmarks.phone.app import AppError, Record
from benchmarks.phone.device import Device, read_device
from benchmarks.phone.job import QUESTION
from benchmarks.phone.npu_job import MODELS, Ready
from mimo_mobile import files, terminal
from mimo_mobile.cli_options import ParamType
from mimo_mobile.errors import MimoMobileError
from mimo_mobile.npu_memory import Plan
from mimo_mobile.progress import ProgressCallback

VERSION = 1
PLAN_COLUMNS = ("mode", "binaries", "NPU", "NPU caches", "CPU", "app caches", "memory", "of what is available")
COLUMNS = ("mode", "depth", "prefill/s", "±", "decode/s", "±", "peak RSS", "nodes on the NPU", "verdict")
NOTHING: Record = {"self_test": None, "provider": None, "placement": {}, "answer": None, "runs": []}


class Modes(ParamType[tuple[str, ...]]):
    """Modes with commas between them."""

    name = "modes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The modes, in the order given."""
        try:
            return npu_job.modes_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@dataclasses.dataclass(slots=True)
class Kept:
    """A record in a file, which is replaced whenever there is more of it."""

    record: Record
    file: Path

    def add(self, mode: str, found: Record) -> None:
        """Take what is known of a mode, in place of what was known of it before."""
        others = [each for each in self.record["modes"] if each["mode"] != mode]
        self.record["modes"] = [*others, {"mode": mode, **found}]
        self.write()

    def of(self, mode: str) -> Record:
        """What is known of a mode; empty when nothing is."""
        return next((each for each in self.record["modes"] if each["mode"] == mode), {})

    def write(self) -> None:
        """Replace the file."""
        files.write_text(self.file, json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")


def measure(phone: Phone, kept: Kept, ready: Ready, modes: Sequence[str], progress: ProgressCallback) -> None:
    """Have the app measure one mode after the other; what fails does not keep it from the next ones.

    Raises:
        PhoneError: The phone is gone; what it measured is kept.
    """
    for mode in modes:
        try:
            _measure_one(phone, kept, ready.name, mode, progress)
        except AppError as error:
            _fail(kept, mode, error)
        except (PhoneError, KeyboardInterrupt) as error:
            _fail(kept, mode, error)
            raise
    with suppress(PhoneError):
        phone.shell(f"am force-stop {demo.PACKAGE}; true")  # or the model stays in the phone's memory
        after = read_device(phone)
        wanted = ("battery_percent", "battery_temperature_c", "available_bytes")
        kept.record["after"] = {key: getattr(after, key) for key in wanted}
    kept.write()


def _measure_one(phone: Phone, kept: Kept, name: str, mode: str, progress: ProgressCallback) -> None:
    def keep(part: Record) -> None:
        kept.add(mode, _told(mode, part, "in part"))

    kept.add(mode, _told(mode, demo.measure(phone, "benchmark", name, progress, mode, keep)))


def _fail(kept: Kept, mode: str, error: BaseException) -> None:
    kept.add(mode, {**NOTHING, **kept.of(mode), **_without("failed", str(error) or "it was interrupted")})


def _without(verdict: str, reason: str) -> Record:
    return {"verdict": verdict, "failure": {"reason": reason}}


def _told(mode: str, app: Record, verdict: str = "") -> Record:
    """What a mode came to, out of the app's record. The app takes nothing but the CPU without a self-test.

    Raises:
        AppError: The app does not know modes.
    """
    if app.get("mode") != mode:
        raise AppError(f"the app knows no mode {mode}; install the app of this version (make android)")
    model = app["model"]
    provider, fallback = str(model.get("provider")), model.get("fallback")
    found = {
        "verdict": verdict or ("measured" if mode == "cpu" else "passed"),
        "self_test": model.get("self_test"),
        "provider": provider,
        "placement": model.get("placement") or {},
        "answer": app.get("answer"),
        "runs": app["runs"],
        "failure": app["failure"],
        "app": app,
    }
    if (provider == "QNN") != (mode != "cpu") or fallback:  # its speeds are not this mode's
        found |= {
            "runs": [],
            **_without("on another", f"{provider} computed: {fallback or 'the app does not say why'}"),
        }
    elif app["failure"]:
        found |= {"verdict": "in part"}
    return found


def start(ready: Ready, device: Device, plans: Mapping[str, Plan]) -> Record:
    """A record of which nothing is measured."""
    settings = ready.settings
    return {
        "record_version": VERSION,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"name": device.name, **asdict(device)},
        "model": {
            "name": ready.model.found.model,
            "recipe": ready.model.entry.recipe,
            "chip": ready.chip,
            "binaries": ready.binaries.name,
            "context_length": settings.context_length,
            "windows": list(settings.windows),
            "made_with": settings.made_with,
            "size_bytes": ready.manifest.entries[0].size_bytes,
        },
        "plan": {mode: _summed(plan) for mode, plan in plans.items()},
        "modes": [],
        "after": None,
    }


def _summed(plan: Plan) -> Record:
    sums = ("sessions", "npu_bytes", "npu_cache_bytes", "cpu_bytes", "cache_bytes", "runtime_bytes", "memory_bytes")
    pieces = [asdict(each) | {"address_bytes": each.address_bytes} for each in plan.pieces]
    return {name: getattr(plan, name) for name in sums} | {"pieces": pieces}


def show_plan(ready: Ready, device: Device, plans: Mapping[str, Plan]) -> None:
    """Print what each mode takes of the phone's memory, on stderr."""
    rows = []
    for mode, plan in plans.items():
        parts = (plan.npu_bytes, plan.npu_cache_bytes, plan.cpu_bytes, plan.cache_bytes, plan.memory_bytes)
        room = device.available_bytes
        share = "unknown" if room is None else f"{100 * plan.memory_bytes / room:.0f} % of {terminal.size(room)}"
        rows.append((mode, str(plan.sessions), *map(terminal.size, parts), share))
    context = f"{ready.settings.context_length} tokens of context"
    title = f"memory of {ready.model.found.model} on {device.name}, {context} (assumed)"
    terminal.table(title, PLAN_COLUMNS, rows, err=True)
    for piece in plans["npu"].pieces:
        click.echo(f"{piece}", err=True)


def show(record: Record) -> None:
    """Print a row for each mode and depth."""
    rows = []
    for each in record["modes"]:
        nodes = ", ".join(f"{count} of {name}" for name, count in each["placement"].items()) or "–"
        verdict = each["verdict"]
        for run in each["runs"]:
            (speed,) = run["speeds"]
            keys = ("prefill_tps", "prefill_stddev_tps", "decode_tps", "decode_stddev_tps")
            numbers = (f"{speed[key]:.2f}" for key in keys)
            peak = run.get("peak_rss_bytes")
            rows.append(
                (each["mode"], str(run["depth"]), *numbers, terminal.size(peak) if peak else "–", nodes, verdict)
            )
        if not each["runs"]:
            rows.append((each["mode"], *["–"] * 6, nodes, verdict))
    terminal.table(f"{record['model']['name']} on {record['device']['name']}", COLUMNS, rows)
    for each in record["modes"]:
        if each["self_test"]:
            click.echo(f"{each['mode']}: self-test: {each['self_test']}")
        if each["answer"]:
            click.echo(f"{each['mode']}: {QUESTION} → {' '.join(each['answer'].split())}")
        if each["failure"]:
            click.echo(f"{each['mode']}: {each['verdict']}: {each['failure']['reason']}")


def _place(out: Path, device: Device, ready: Ready) -> Path:
    words = ("npu", device.manufacturer, device.model, ready.model.found.model, ready.model.entry.recipe)
    return out / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', '-'.join(filter(None, words)))}.json"


def _dry_run(phone: Phone, model: npu_job.Compiled, modes: Sequence[str]) -> None:
    """Print the commands for each chip that the model was compiled for."""
    for chip, binaries in model.binaries.items():
        ready = Ready(model, chip, npu_job.read_npu_settings(binaries))
        click.echo(f"# {chip}")
        for part in ready.manifest.entries[0].parts:
            local = model.folder / part.path
            click.echo(shlex.join(phone.command("push", str(local), f"{MODELS}/{ready.name}/{part.path}")))
        for mode in modes:
            words = demo.start_words("benchmark", ready.name, mode)
            click.echo(shlex.join(phone.command("shell", shlex.join(words))))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--recipe", help="Which ONNX recipe of MODEL; without it the first that was compiled for an NPU.")
@click.option("--serial", envvar="ANDROID_SERIAL", help="Which phone, when several are plugged in.")
@click.option("--adb", default="adb", show_default=True, help="Android's adb.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/phone"), show_default=True)
@click.option("--modes", type=Modes(), default="npu,split,cpu", show_default=True, help="What is to compute.")
@click.option("--ignore-memory", is_flag=True, help="Try although the phone says that its memory is short.")
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of the table.")
@click.option("--dry-run", is_flag=True, help="Check what is local, print the commands, and run none.")
def main(
    model: Path, recipe: str | None, serial: str | None, adb: str, out: Path, modes: tuple[str, ...],
    ignore_memory: bool, as_json: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Measure MODEL, a folder that `mimo quantize --target qnn` wrote, on a phone's NPU with the demo app."""
    try:
        compiled = npu_job.prepare(model, recipe)
        if dry_run:
            return _dry_run(Phone(adb, serial or "SERIAL"), compiled, modes)
        phone = connect(adb, serial)
        device = read_device(phone)
        if not demo.is_installed(phone):
            raise PhoneError(
                f"the demo app ({demo.PACKAGE}) is not installed on {device.name}; docs/devices.md says how to build it"
                " with QNN, then: adb install build/android/mimo-mobile-debug.apk"
            )
        ready = compiled.on(device)
        plans = ready.plans()
        show_plan(ready, device, plans)
        kept = Kept(start(ready, device, plans), _place(out, device, ready))
        room = None if ignore_memory else device.available_bytes
        why = {mode: ready.why_not(mode, plans[mode], room) for mode in modes}
        if all(why.values()):
            raise PhoneError("; ".join(f"{mode}: {reason}" for mode, reason in why.items()))
        with terminal.progress_shown() as progress:
            with npu_job.to_be_sent(ready, progress) as wanted:
                steps.put(phone, device, wanted, MODELS, progress)
            for mode, reason in why.items():
                if reason:
                    kept.add(mode, {**NOTHING, **_without("not measured", reason)})
            try:
                measure(phone, kept, ready, [mode for mode in modes if not why[mode]], progress)
            finally:
                _report(kept, as_json=as_json)
    except MimoMobileError as error:
        raise click.ClickException(str(error)) from error
    failed = [f"{each['mode']}: {each['failure']['reason']}" for each in kept.record["modes"] if each["failure"]]
    if failed:
        raise click.ClickException("; ".join(failed))


def _report(kept: Kept, *, as_json: bool) -> None:
    """Print what was measured, and draw it."""
    picture = kept.file.with_suffix(".svg")
    drawn = npu_picture.drawing(kept.record)
    if drawn:
        files.write_text(picture, drawn)
    if as_json:
        click.echo(json.dumps(kept.record, indent=1, ensure_ascii=False))
    else:
        show(kept.record)
    click.echo(f"{kept.file}" + (f", {picture}" if drawn else ""), err=True)


if __name__ == "__main__":
    main()
