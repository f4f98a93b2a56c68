"""``make emulator-test`` against a fake adb: what `am instrument` prints there is what Android 14 prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from tests.benchmarks import fake_adb
from tests.benchmarks.setting import Setting, make_setting
from tools import emulator_test

NAMES = ["tokens", "answer", "rotation"]
APP_RECORD = {"page_size_bytes": 16384, "speed": {"decode_tps": 212.5}}

STACK = """java.lang.AssertionError: the answer is '75'
\tat io.github.mimomobile.demo.test.ScreenChecks.answer(ScreenChecks.kt:40)
Caused by: java.lang.IllegalStateException: INSTRUMENTATION is no key here
"""


def status(name: str, code: int, **more: str) -> str:
    values = {"class": "Checks", "current": str(NAMES.index(name) + 1), "id": "AndroidJUnitRunner", "numtests": "3"}
    values |= {"stream": "\n", "test": name} | more
    lines = [f"INSTRUMENTATION_STATUS: {key}={value}" for key, value in sorted(values.items())]
    return "\n".join([*lines, f"INSTRUMENTATION_STATUS_CODE: {code}", ""])


def passed(name: str) -> str:
    return status(name, 1) + status(name, 0)


def result(code: int, **values: str) -> str:
    lines = [f"INSTRUMENTATION_RESULT: {key}={value}" for key, value in sorted(values.items())]
    return "\n".join([*lines, f"INSTRUMENTATION_CODE: {code}", ""])


GOOD = "".join(map(passed, NAMES)) + result(-1, mimo=json.dumps(APP_RECORD), stream="\n\nOK (3 tests)\n")
FAILING = passed(NAMES[0]) + status(NAMES[1], 1) + status(NAMES[1], -2, stack=STACK) + passed(NAMES[2]) + result(-1)
CRASH = passed(NAMES[0]) + status(NAMES[1], 1) + result(0, shortMsg="Process crashed.")
BROKEN = passed(NAMES[0]) + status(NAMES[1], 1)
MISSING = """INSTRUMENTATION_STATUS: Error=Unable to find instrumentation info for: ComponentInfo{x/x.Mimo}
INSTRUMENTATION_STATUS: id=ActivityManagerService
INSTRUMENTATION_STATUS_CODE: -1
onError: commandError=true message=INSTRUMENTATION_FAILED: x/x.Mimo
"""


class Kit:
    """A fake emulator with the two APKs to be sent to it."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.setting, self.out = setting, folder / "out"
        self.apks = [folder / "app.apk", folder / "tests.apk"]
        for apk in self.apks:
            apk.write_bytes(b"PK" + apk.name.encode())
        self.program("getconf", "echo 16384")
        self.program("logcat", 'echo "log $*"')
        for name in ("input", "wm"):
            self.program(name, "")
        self.installs("Success")
        self.says(GOOD)

    def program(self, name: str, script: str) -> None:
        file = self.setting.folder / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def installs(self, answer: str) -> None:
        installed = self.setting.folder / "installed"
        self.program("pm", f'case $1 in install) cat "$4" >>{installed}; echo "{answer}";; esac')

    def says(self, transcript: str, code: int = 0) -> None:
        (self.setting.folder / "am.txt").write_text(transcript)
        self.program("am", f'[ "$1" = force-stop ] || {{ cat {self.setting.folder / "am.txt"}; exit {code}; }}')

    def run(self, *options: str) -> Result:
        words = [*map(str, self.apks), "--adb", str(self.setting.adb), "--out", str(self.out), *options]
        return CliRunner().invoke(emulator_test.main, words)

    def record(self) -> Any:
        return json.loads((self.out / "result.json").read_text(encoding="utf-8"))

    def scripts(self) -> list[str]:
        return [call[3] for call in self.setting.calls() if call[2:3] == ["shell"]]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Kit:
    scenario = getattr(request, "param", "emulator")
    return Kit(tmp_path, make_setting(tmp_path, tmp_path, tmp_path, [], monkeypatch, scenario))


def test_a_good_run_gives_a_record_and_a_table(kit: Kit) -> None:
    ended = kit.run()
    assert ended.exit_code == 0, ended.output
    record = kit.record()
    assert [(each["name"], each["ok"], each["stack"]) for each in record["tests"]] == [(n, True, None) for n in NAMES]
    assert all(0 <= each["seconds"] < 10 for each in record["tests"])
    device = record["device"]
    assert (device["abi"], device["android"], device["page_size_bytes"]) == ("x86_64", "15", 16384)
    assert record["app"] == APP_RECORD and record["failure"] is None
    assert not (kit.out / "logcat.txt").exists()
    for part in ("Fake Phone 9", "Android 15, x86_64", *NAMES):
        assert part in ended.stdout
    for line in ("tokens: 0 of 3 tests", "answer: 1 of 3 tests", "rotation: 2 of 3 tests", "rotation: 3 of 3 tests"):
        assert line in ended.stderr


def test_both_apks_are_installed_and_only_the_tests_removed(kit: Kit) -> None:
    assert kit.run().exit_code == 0
    assert (kit.setting.folder / "installed").read_bytes() == b"PKapp.apkPKtests.apk"
    assert list((kit.setting.folder / fake_adb.FOLDER[1:]).iterdir()) == []
    wanted = ["pm install -r -t", "pm install -r -t", "pm grant", "am instrument -w -r", "pm uninstall"]
    found = [each for script in kit.scripts() for each in re.findall("|".join(dict.fromkeys(wanted)), script)]
    assert found == wanted
    assert "pm uninstall io.github.mimomobile.demo.test;" in kit.scripts()[-1]
    assert "io.github.mimomobile.demo.test/io.github.mimomobile.demo.test.MimoInstrumentation" in kit.scripts()[-2]


def test_json_goes_to_stdout(kit: Kit) -> None:
    assert json.loads(kit.run("--json").stdout) == kit.record()


def test_a_failing_test_keeps_its_stack_and_the_devices_log(kit: Kit) -> None:
    kit.says(FAILING)
    ended = kit.run()
    log = kit.out / "logcat.txt"
    reason = "1 of 3 tests failed: answer (java.lang.AssertionError: the answer is '75')"
    assert ended.exit_code == 1 and f"{reason}; the device's log of the run: {log}" in ended.stderr
    assert "FAILED" in ended.stdout
    tests = kit.record()["tests"]
    assert [each["ok"] for each in tests] == [True, False, True]
    assert tests[1]["stack"] == STACK.rstrip("\n") + "\n" and tests[2]["stack"] is None
    assert re.fullmatch(r"log -d -v threadtime -T \d\d-\d\d \d\d:\d\d:\d\d\.000\n", log.read_text())
    kit.says(GOOD)
    assert kit.run().exit_code == 0 and not log.exists()


@pytest.mark.parametrize(
    ("transcript", "message"),
    [
        (CRASH, "the run ended in answer: Process crashed.;"),
        (
            passed(NAMES[0]) + "INSTRUMENTATION_ABORTED: System has crashed.\n",
            "after 1 of 3 tests: System has crashed.",
        ),
        (MISSING, "after 0 of unknown tests: Unable to find instrumentation info for: ComponentInfo{x/x.Mimo};"),
        ("", "after 0 of unknown tests: the device does not say why;"),
        (passed(NAMES[0]) + result(-1), "1 tests ended, 3 expected;"),
        (result(-1), "0 tests ended, 0 expected;"),
    ],
)
def test_a_run_that_does_not_end_well_says_where_and_why(kit: Kit, transcript: str, message: str) -> None:
    kit.says(transcript)
    ended = kit.run()
    assert ended.exit_code == 1 and message in ended.stderr, ended.output
    assert message.rstrip(";") in kit.record()["failure"] and (kit.out / "logcat.txt").exists()


def test_the_test_in_which_the_app_crashed_is_a_failed_one(kit: Kit) -> None:
    kit.says(CRASH)
    kit.run()
    assert [(each["name"], each["ok"]) for each in kit.record()["tests"]] == [("tokens", True), ("answer", False)]


def test_what_came_before_a_broken_connection_is_kept(kit: Kit) -> None:
    kit.says(BROKEN + "INSTRUMENTATION_RESULT: mimo={", code=255)
    ended = kit.run()
    assert ended.exit_code == 1 and "the run ended in answer" in ended.stderr and "failed (255)" in ended.stderr
    assert [each["name"] for each in kit.record()["tests"]] == ["tokens", "answer"]


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ("Failure [INSTALL_FAILED_UPDATE_INCOMPATIBLE: signatures do not match]", "adb uninstall io.github.mimomobile"),
        ("Failure [INSTALL_FAILED_USER_RESTRICTED: Install canceled by user]", "Developer options, Install via USB"),
        ("Failure [INSTALL_FAILED_NO_MATCHING_ABIS: Failed to extract]", "arm64-v8a and x86_64"),
        ("Failure [INSTALL_FAILED_OTHER]", "was not installed: Failure [INSTALL_FAILED_OTHER]"),
    ],
)
def test_a_refused_installation_says_what_to_do(kit: Kit, answer: str, advice: str) -> None:
    kit.installs(answer)
    ended = kit.run()
    assert ended.exit_code == 1 and f"app.apk was not installed: {answer}" in ended.stderr and advice in ended.stderr
    assert not kit.out.exists() and not any("am instrument" in script for script in kit.scripts())


@pytest.mark.parametrize(
    ("kit", "message"),
    [("none", "no device; plug the phone in"), ("two", "2 devices (FAKE0123456789, emulator-5554); choose one")],
    indirect=["kit"],
)
def test_one_device_is_needed(kit: Kit, message: str) -> None:
    ended = kit.run()
    assert ended.exit_code == 1 and message in ended.stderr
    assert kit.setting.pushed() == []


@pytest.mark.parametrize("kit", ["two"], indirect=True)
def test_one_of_two_devices_is_chosen_by_its_serial(kit: Kit) -> None:
    assert kit.run("--serial", fake_adb.SERIAL).exit_code == 0


def test_the_instrumentation_is_the_one_of_the_sources() -> None:
    tests = Path(__file__).parents[2] / "android_demo/app/src/androidTest"
    (found,) = ElementTree.parse(tests / "AndroidManifest.xml").getroot().findall("instrumentation")
    values = {name.rpartition("}")[2]: value for name, value in found.attrib.items()}
    package, name = emulator_test.RUNNER.split("/")
    assert (values["targetPackage"], values["name"]) == (emulator_test.APP, name)
    assert package == emulator_test.TESTS == f"{emulator_test.APP}.test"
    assert (tests / "kotlin" / name.replace(".", "/")).with_suffix(".kt").is_file()
