"""Run ``make emulator-test``, or ``python -m tools.emulator_test APP.apk TESTS.apk`` after ``make android``.

Both APKs go to the emulator or phone that adb sees, the instrumented tests run there, and OUT/result.json says how they
ended: device, page size, each test, and what the app measured. When they fail, OUT/logcat.txt is the device's log of
the run. Knows how `am instrument` reports; nothing of what is tested.

Source: https://android.googlesource.com/platform/frameworks/base/+/refs/heads/main/cmds/am/src/com/android/commands/am/Instrument.java
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.phone.adb import Phone, PhoneError, connect
from benchmarks.phone.device import FOLDER, Device, read_device
from mimo_mobile import files, terminal
from mimo_mobile.errors import MimoMobileError
from mimo_mobile.progress import Progress, ProgressCallback

VERSION = 1
APP = "io.github.mimomobile.demo"
TESTS = "io.github.mimomobile.demo.test"
RUNNER = f"{TESTS}/{TESTS}.MimoInstrumentation"

INSTALL_S = 300.0
"""What an installation may take: an old phone compiles the app meanwhile."""

RUN_S = 1800
"""What all tests may take; each of them gives up much earlier."""

STARTED, PASSED, FINISHED = 1, 0, -1
"""Codes of a test's start and of its good end, and of the end of all: the others are failures.

Source: https://developer.android.com/reference/android/app/Activity#RESULT_OK and
https://github.com/android/android-test/blob/main/runner/android_junit_runner/java/androidx/test/internal/runner/listener/InstrumentationResultPrinter.java
"""

ADVICE = {
    "INSTALL_FAILED_UPDATE_INCOMPATIBLE": "another build of the app is there: `adb uninstall {package}` removes it,"
    " with its models and conversations",
    "INSTALL_FAILED_VERSION_DOWNGRADE": "a newer build of the app is there: `adb uninstall {package}` removes it,"
    " with its models and conversations",
    "INSTALL_FAILED_USER_RESTRICTED": "allow it on the phone (HyperOS: Developer options, Install via USB)",
    "INSTALL_FAILED_INSUFFICIENT_STORAGE": "make room on the device",
    "INSTALL_FAILED_NO_MATCHING_ABIS": "the app is for arm64-v8a and x86_64; take a 64-bit device",
    "INSTALL_FAILED_OLDER_SDK": "the app needs Android 8.0 (API 26)",
}


@dataclass(frozen=True, slots=True)
class Event:
    """What `am instrument -r` says at once: ``kind`` is STATUS, of a test, or RESULT, of all."""

    kind: str
    code: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended; ``stack`` says why it failed."""

    name: str
    ok: bool
    seconds: float
    stack: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """All tests of a run; ``failure`` says why it is no good one, ``app`` is what the app reported at the end."""

    tests: tuple[Outcome, ...]
    failure: str | None
    app: dict[str, Any] | None


def events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of `am instrument -r`, each when its last line has come. Values may have several lines."""
    values: dict[str, str] = {}
    key = None
    for line in lines:
        if found := re.match(r"INSTRUMENTATION_(STATUS_CODE|CODE): (-?\d+)", line):
            yield Event("STATUS" if found[1] == "STATUS_CODE" else "RESULT", int(found[2]), values)
            values, key = {}, None
        elif found := re.match(r"INSTRUMENTATION_(?:STATUS|RESULT): ([^=]+)=(.*)", line):
            key = found[1]
            values[key] = found[2]
        elif found := re.match(r"INSTRUMENTATION_(?:FAILED|ABORTED): (.*)", line):
            key = "shortMsg"
            values[key] = found[1]
        elif key is not None:
            values[key] += f"\n{line}"
    if values:
        yield Event("RESULT", 0, values)


def follow(lines: Iterable[str], progress: ProgressCallback) -> Run:
    """How the tests end whose events come in ``lines``."""
    tests: list[Outcome] = []
    said: dict[str, str] = {}  # of the whole run
    running, began_s, total, finished = None, 0.0, 0, False
    for event in events(lines):
        if event.kind == "RESULT" or "test" not in event.values:
            said = event.values | said
            finished = event.kind == "RESULT" and event.code == FINISHED
            continue
        name, total = event.values["test"], int(event.values.get("numtests", "0"))
        if event.code == STARTED:
            running, began_s = name, time.monotonic()
        else:
            stack, seconds = event.values.get("stack"), round(time.monotonic() - began_s, 1)
            tests.append(Outcome(name, event.code == PASSED, seconds, stack))
            running = None
        progress(Progress(name, len(tests), total, unit="tests"))
    failure = None
    if not finished:
        where = f"in {running}" if running else f"after {len(tests)} of {total or 'unknown'} tests"
        reasons = [said[key] for key in ("Error", "shortMsg", "longMsg") if key in said]
        failure = f"the run ended {where}: {' / '.join(reasons) or 'the device does not say why'}"
        if running:
            tests.append(Outcome(running, False, round(time.monotonic() - began_s, 1), None))
    elif failed := [
        f"{test.name} ({(test.stack or 'no reason given').splitlines()[0]})" for test in tests if not test.ok
    ]:
        failure = f"{len(failed)} of {len(tests)} tests failed: {', '.join(failed)}"
    elif not tests or len(tests) != total:
        failure = f"{len(tests)} tests ended, {total} expected"
    return Run(tuple(tests), failure, json.loads(said["mimo"]) if finished and "mimo" in said else None)


def install(phone: Phone, apk: Path, package: str, progress: ProgressCallback) -> None:
    """Put an APK on the device, in place of an earlier build.

    Raises:
        PhoneError: Android refuses it; says why and what to do.
    """
    remote = f"{FOLDER}/{package}.apk"
    phone.push(apk, remote, progress)
    try:
        said = phone.shell(f"pm install -r -t {remote} 2>&1; rm -f {remote}", timeout_s=INSTALL_S)
    except PhoneError as error:
        raise PhoneError(f"{apk.name} was not installed: {error}") from error
    if "Success" not in said.splitlines():
        reason = found[0] if (found := re.search(r"INSTALL_\w+", said)) else None
        advice = ADVICE.get(reason or "", "").format(package=package)
        raise PhoneError(f"{apk.name} was not installed: {' '.join(said.split())}" + (f"; {advice}" if advice else ""))


def instrument(phone: Phone, progress: ProgressCallback) -> Run:
    """Run the tests of the installed APKs to their end."""
    errors: list[str] = []

    def lines() -> Iterator[str]:
        try:
            yield from phone.lines(f"timeout {RUN_S} am instrument -w -r {RUNNER}")
        except PhoneError as error:  # what came before it counts
            errors.append(str(error))

    ended = follow(lines(), progress)
    return replace(ended, failure="; ".join([ended.failure or "", *errors])) if errors else ended


def carry_out(phone: Phone, app: Path, tests: Path, out: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Install, run and clean up; returns the record, which is written to ``out`` too, beside the log of a failure.

    Raises:
        PhoneError: The tests could not be begun.
    """
    device = read_device(phone)
    install(phone, app, APP, progress)
    install(phone, tests, TESTS, progress)
    try:
        # Nothing is drawn behind a locked screen.
        phone.shell("input keyevent KEYCODE_WAKEUP; wm dismiss-keyguard; true")
        # Since Android 13; a dialog would cover the app. Older ones refuse, as they ask nobody.
        phone.shell(f"pm grant {APP} android.permission.POST_NOTIFICATIONS 2>/dev/null; true")
        page = phone.shell("getconf PAGE_SIZE 2>/dev/null; true").strip()  # Android 8 does not have the program
        began = phone.shell("date '+%m-%d %H:%M:%S.000'").strip()
        ended = instrument(phone, progress)
        record = report(device, int(page) if page.isdecimal() else None, ended)
        files.write_text(out / "result.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        files.remove(out / "logcat.txt")
        if ended.failure is not None:
            with suppress(PhoneError):  # there is no answer after a broken connection
                files.write_text(out / "logcat.txt", phone.shell(f"logcat -d -v threadtime -T '{began}' 2>&1"))
    finally:
        with suppress(PhoneError):
            phone.shell(f"am force-stop {APP}; pm uninstall {TESTS}; true")
    return record


def report(device: Device, page_size_bytes: int | None, ended: Run) -> dict[str, Any]:
    """The record of a run: plain values only."""
    return {
        "record_version": VERSION,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"name": device.name, "page_size_bytes": page_size_bytes, **asdict(device)},
        **asdict(ended),
    }


def show(record: dict[str, Any]) -> None:
    """Print a row for each test."""
    device = record["device"]
    rows = [(each["name"], "ok" if each["ok"] else "FAILED", f"{each['seconds']:.1f}") for each in record["tests"]]
    click.echo(f"{device['name']}, Android {device['android']}, {device['abi']}")
    terminal.table("", ("test", "", "s"), rows)


@click.command()
@click.argument("app", metavar="APK", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("tests", metavar="TEST_APK", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--serial", envvar="ANDROID_SERIAL", help="Which device, when adb sees several.")
@click.option("--adb", default="adb", show_default=True, help="Android's adb.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/emulator"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of the table.")
def main(app: Path, tests: Path, serial: str | None, adb: str, out: Path, as_json: bool) -> None:
    """Run the instrumented tests in TEST_APK on APK, the app, on an emulator or a phone."""
    try:
        phone = connect(adb, serial)
        with terminal.progress_shown() as progress:
            record = carry_out(phone, app, tests, out, progress)
    except MimoMobileError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        show(record)
    click.echo(f"{out / 'result.json'}", err=True)
    if failure := record["failure"]:
        log = out / "logcat.txt"
        raise click.ClickException(failure + (f"; the device's log of the run: {log}" if log.exists() else ""))


if __name__ == "__main__":
    main()
