"""Run ``make bench-phone``, or ``python -m benchmarks.phone MODEL.gguf --tools DIR`` after ``make phone-tools``.

The phone answers one question, then runs llama-bench once for each depth, always with 128 tokens of prompt and 32
generated ones, three times. What it reads of heat, battery and memory meanwhile is in the record.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.phone import app as demo
from benchmarks.phone import job as steps
from benchmarks.phone.adb import Phone, PhoneError, Sent, connect
from benchmarks.phone.app import Record
from benchmarks.phone.device import Device, read_device
from benchmarks.phone.job import Job
from mimo_mobile import files, terminal
from mimo_mobile.cli_options import ParamType
from mimo_mobile.errors import MimoMobileError
from mimo_mobile.progress import Progress, ProgressCallback

VERSION = 1
COLUMNS = (
    "depth",
    "threads",
    "prefill/s",
    "±",
    "decode/s",
    "±",
    "peak RSS",
    "RssAnon",
    "hottest",
    "battery, µA as read",
)

SIDE_BY_SIDE = ("depth", "llama.cpp prefill/s", "decode/s", "app prefill/s", "decode/s")


class Numbers(ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them, none below ``least``."""

    name = "numbers"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers, in the order given."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(int(each) for each in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: numbers with commas between them are expected, as 0,1024", param, ctx)
        if min(found) < self._least:
            self.fail(f"{min(found)} is below {self._least}", param, ctx)
        return found


def measure(phone: Phone, job: Job, progress: ProgressCallback, *, ignore_memory: bool) -> Record:
    """The record of a phone. When a depth fails, what was measured before is kept, and ``failure`` says why.

    Raises:
        PhoneError: The phone cannot run the job, or not even answer the question.
    """
    before = read_device(phone)
    steps.check(job, before, ignore_memory=ignore_memory)
    sent = steps.send(phone, before, job, progress)
    total = len(job.depths) + 1
    answer = steps.run(phone, job.answer_words(), Progress("benchmark", 0, total, unit="programs"), progress)
    record = start(job, before, sent, answer.output.strip().removesuffix("[end of text]").strip())
    for number, depth in enumerate(job.depths, 1):
        step = Progress("benchmark", number, total, f"depth {depth}", "programs")
        try:
            seen = steps.run(phone, job.bench_words(depth), step, progress)
            rows = steps.parse_rows(seen.output)
            found = {"depth": depth, "speeds": [asdict(each) for each in steps.speeds(rows)]}
        except PhoneError as error:
            record["failure"] = {"depth": depth, "reason": str(error)}
            break
        record["backend"] = rows[0]["backends"]
        watched = {name: value for name, value in asdict(seen).items() if name != "output"}
        record["runs"].append({**found, **watched, "llama_bench": rows})
    with suppress(PhoneError):  # after a broken connection there is no answer
        after = read_device(phone)
        wanted = ("battery_percent", "battery_temperature_c", "available_bytes")
        record["after"] = {key: getattr(after, key) for key in wanted}
    progress(Progress("benchmark", total, total, unit="programs"))
    return record


def start(job: Job, device: Device, sent: dict[str, Sent], answer: str) -> Record:
    """A record without runs."""
    return {
        "record_version": VERSION,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"name": device.name, **asdict(device)},
        "model": {"name": job.model.name, **_stored(sent[job.model.name])},
        "tools": {"arch": job.arch, **{name: _stored(sent[name]) for name in steps.PROGRAMS}},
        "settings": {
            "prompt_tokens": steps.PROMPT_TOKENS,
            "generate_tokens": steps.GENERATE_TOKENS,
            "repeats": steps.REPEATS,
        },
        "backend": None,
        "question": steps.QUESTION,
        "answer": answer,
        "runs": [],
        "failure": None,
        "after": None,
        "app": None,
    }


def show(record: Record) -> None:
    """Print the phone's answer and a row for each depth and number of threads."""
    click.echo(f"{record['question']} → {' '.join(record['answer'].split())}")
    rows = []
    for run in record["runs"]:
        readings: Sequence[Record] = run["readings"]
        memory = (terminal.size(run[key]) if run[key] else "–" for key in ("peak_rss_bytes", "peak_anon_bytes"))
        taken = (*memory, _hottest(readings), _current(readings))
        for each in run["speeds"]:
            numbers = (each[key] for key in ("prefill_tps", "prefill_stddev_tps", "decode_tps", "decode_stddev_tps"))
            rows.append((str(run["depth"]), str(each["threads"]), *(f"{number:.2f}" for number in numbers), *taken))
    if rows:
        title = f"{record['model']['name']} on {record['device']['name']}, {record['backend']}"
        terminal.table(title, COLUMNS, rows)
    if app := record["app"]:
        show_app(record, app)
    if record["device"]["powered"]:
        click.echo("The phone draws power from the cable: the battery's current is not what the phone takes.")


def show_app(record: Record, app: Record) -> None:
    """Print the two engines side by side, and what a soak did to the speed."""
    if "error" in app:
        click.echo(f"The app was not measured: {app['error']}")
        return
    if app["failure"]:
        click.echo(f"The app did not measure all: {app['failure']['reason']}")
    if app["runs"]:
        engine = str(app.get("backend")).split(",")[0]
        title = f"{record['model']['name']} by llama.cpp, {app['model']['name']} by {engine} in the app"
        terminal.table(title, SIDE_BY_SIDE, demo.rows(record, app))
    if compared := app.get("compared"):
        title = f"All recipes of {app['model']['name']} in the app, in turn, medians"
        terminal.table(title, demo.COMPARED, [demo.compared_row(each) for each in compared], left=2)
    if samples := app["soak"]:
        first, last = samples[0], samples[-1]
        click.echo(
            f"Soak of the app: {first['decode_tps']:.2f} tokens/s at first, {last['decode_tps']:.2f} after"
            f" {last['at_s']:.0f} s"
        )


def _measure_app(
    phone: Phone, kind: str, model: str | None, wanted: bool | None, progress: ProgressCallback
) -> Record | None:
    """The app's record, or why there is none; None where the app is not there and nobody asked for it."""
    if wanted is False or (wanted is None and not demo.is_installed(phone)):
        return None
    so_far: list[Record] = []
    try:
        return demo.measure(phone, kind, model, progress, keep=so_far.append)
    except PhoneError as error:
        return so_far[-1] | {"failure": {"reason": str(error)}} if so_far else {"error": str(error)}


def _hottest(readings: Sequence[Record]) -> str:
    """The hottest zone at any time; zones that are off give numbers that no running phone has."""
    found = [
        (celsius, zone.split(" ", 1)[-1])
        for reading in readings
        for zone, celsius in reading["temperatures_c"].items()
        if 0 < celsius < 150
    ]
    return "{:.0f} °C {}".format(*max(found)) if found else "–"


def _current(readings: Sequence[Record]) -> str:
    found = [each["battery_current_ua"] for each in readings if each["battery_current_ua"] is not None]
    return f"{median(found):,.0f}" if found else "–"


def _stored(sent: Sent) -> Record:
    return {"size_bytes": sent.size_bytes, "sha256": sent.sha256}


def _report(record: Record, out: Path, *, as_json: bool) -> None:
    """Write the record, print it or its table, and fail when the phone did."""
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    device = record["device"]
    words = (device["manufacturer"], device["model"], Path(record["model"]["name"]).stem)
    final = out / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', '-'.join(filter(None, words)))}.json"
    files.write_text(final, text)
    if as_json:
        click.echo(text, nl=False)
    else:
        show(record)
    click.echo(f"{final}", err=True)
    if failure := record["failure"]:
        raise click.ClickException(f"depth {failure['depth']}: {failure['reason']}")


def _say_plan(phone: Phone, job: Job, app: list[str]) -> None:
    for remote, local in job.sent.items():
        click.echo(shlex.join(phone.command("push", str(local), remote)))
    for words in (job.answer_words(), *map(job.bench_words, job.depths)):
        click.echo(shlex.join(phone.command("shell", steps.watched(words))))
    if app:
        click.echo(shlex.join(phone.command("shell", shlex.join(app))))


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tools", required=True, type=click.Path(path_type=Path), help="Folder that `make phone-tools` filled.")
@click.option("--serial", envvar="ANDROID_SERIAL", help="Which phone, when several are plugged in.")
@click.option("--adb", default="adb", show_default=True, help="Android's adb.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/phone"), show_default=True)
@click.option("--depths", type=Numbers(0), default="0,1024,4096", show_default=True, help="Tokens in the KV cache.")
@click.option("--threads", type=Numbers(1), default="4", show_default=True, help="Several are measured one by one.")
@click.option("--ignore-memory", is_flag=True, help="Try although the phone says that its memory is short.")
@click.option("--app/--no-app", default=None, help="Measure the demo app, too. Without a word: where it is installed.")
@click.option("--app-model", help="Which of the app's models; without it the one that the app has loaded.")
@click.option("--soak", is_flag=True, help="Have the app compute for ten minutes instead, to see what heat does.")
@click.option(
    "--compare", is_flag=True, help="Have the app measure all recipes of its model, by both engines, in turn."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of the table.")
@click.option("--dry-run", is_flag=True, help="Check what is local, print the commands, and run none.")
def main(
    model: Path, tools: Path, serial: str | None, adb: str, out: Path, depths: tuple[int, ...],
    threads: tuple[int, ...], ignore_memory: bool, app: bool | None, app_model: str | None, soak: bool, compare: bool,
    as_json: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Measure MODEL, a GGUF, on a phone: print a table, and write all there is to know to a JSON file in OUT."""
    if soak and compare:
        raise click.UsageError("--soak and --compare exclude each other: either takes the phone's whole time")
    if app is False and (soak or compare):
        raise click.UsageError("--no-app leaves nothing that --soak or --compare could have done")
    app = True if soak or compare else app
    try:
        job = steps.prepare(model, tools, depths, threads)
        kind = "soak" if soak else "compare" if compare else "benchmark"
        if dry_run:
            return _say_plan(Phone(adb, serial or "SERIAL"), job, demo.start_words(kind, app_model) if app else [])
        phone = connect(adb, serial)
        with terminal.progress_shown() as progress:
            record = measure(phone, job, progress, ignore_memory=ignore_memory)
            record["app"] = _measure_app(phone, kind, app_model, app, progress)
    except MimoMobileError as error:
        raise click.ClickException(str(error)) from error
    _report(record, out, as_json=as_json)


if __name__ == "__main__":
    main()
