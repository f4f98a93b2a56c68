"""``make bench-phone`` against a fake adb, whose phone runs our script in a real shell."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.phone import adb, app, job
from benchmarks.phone.adb import Phone, PhoneError
from mimo_mobile.progress import Progress
from tests.benchmarks import fake_adb, fake_programs
from tests.benchmarks.setting import Setting, make_setting

ARM_PROGRAM = b"\x7fELF".ljust(18, b"\0") + (183).to_bytes(2, "little")


@pytest.fixture
def setting(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Setting:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in job.PROGRAMS:
        (tools / name).write_bytes(ARM_PROGRAM + name.encode())
    (tools / "arch").write_text("armv8.2-a+dotprod+fp16\n")
    acting = [sys.executable, "-S", fake_programs.__file__]
    return make_setting(tmp_path, tools, tiny_gguf, acting, monkeypatch, getattr(request, "param", "good"))


def test_a_phone_gives_one_record_and_a_table(setting: Setting) -> None:
    result = setting.run("--depths", "0,1024", "--threads", "2,4")
    assert result.exit_code == 0, result.output
    record = setting.record()
    device = record["device"]
    assert device["name"] == "Fake Phone 9 (QTI SM0000)" and device["android"] == "15"
    assert "asimddp" in device["cpu_features"] and device["core_max_khz"][-1] == 3_000_000
    assert device["available_bytes"] == 5_000_000 * 1024 and device["storage_free_bytes"] == 90_000_000 * 1024
    assert (device["battery_percent"], device["battery_temperature_c"], device["powered"]) == (81, 28.7, True)
    assert record["after"]["battery_percent"] == 81
    assert record["answer"] == fake_programs.ANSWER and record["backend"] == "CPU" and record["failure"] is None
    assert record["model"]["size_bytes"] == setting.model.stat().st_size

    prefill, decode = (json.loads(line) for line in fake_programs.BENCH.read_text().splitlines())
    assert [run["depth"] for run in record["runs"]] == [0, 1024]
    for run in record["runs"]:
        assert [each["threads"] for each in run["speeds"]] == [2, 4]
        for each in run["speeds"]:
            assert (each["prefill_tps"], each["prefill_stddev_tps"]) == (prefill["avg_ts"], prefill["stddev_ts"])
            assert (each["decode_tps"], each["decode_stddev_tps"]) == (decode["avg_ts"], decode["stddev_ts"])
        assert {row["n_depth"] for row in run["llama_bench"]} == {run["depth"]}
        assert run["peak_rss_bytes"] >= run["peak_anon_bytes"] > 1_000_000  # a Python acts the program
        first, last = run["readings"][0], run["readings"][-1]
        assert first["at_s"] <= last["at_s"] and last["temperatures_c"]["thermal_zone1 cpu-1-7"] == 58.9
        assert last["battery_current_ua"] == -812_000 and last["battery_voltage_uv"] == 4_012_000
        assert (last["battery_temperature_c"], last["battery_status"]) == (30.5, "Charging")
    for part in ("59 °C cpu-1-7", "-812,000", "1024", "Fake Phone 9", f"{decode['avg_ts']:.2f}", "from the cable"):
        assert part in result.stdout, result.stdout


def test_json_goes_to_stdout_and_the_rest_to_stderr(setting: Setting) -> None:
    result = setting.run("--depths", "0", "--json")
    assert json.loads(result.stdout) == setting.record()
    assert f"push {setting.model.name}" in result.stderr and "benchmark" in result.stderr


def test_only_what_the_phone_lacks_is_sent(setting: Setting) -> None:
    everything = ["watch.sh", "llama-bench", "llama-completion", "model.gguf"]
    assert setting.run("--depths", "0").exit_code == 0
    assert setting.pushed() == everything
    assert setting.run("--depths", "0").exit_code == 0
    assert setting.pushed() == everything
    with (setting.folder / fake_adb.FOLDER[1:] / "model.gguf").open("r+b") as file:  # same size, another byte
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert setting.run("--depths", "0").exit_code == 0
    assert setting.pushed() == [*everything, "model.gguf"]


@pytest.mark.parametrize("setting", ["silent"], indirect=True)
def test_what_cannot_be_read_is_null(setting: Setting) -> None:
    result = setting.run("--depths", "0")
    assert result.exit_code == 0, result.output
    record = setting.record()
    for key in ("soc_manufacturer", "soc_model", "board", "battery_percent", "battery_temperature_c", "powered"):
        assert record["device"][key] is None, key
    assert record["device"]["name"] == "Fake Phone 9"
    for reading in record["runs"][0]["readings"]:
        assert reading.pop("at_s") >= 0 and reading.pop("temperatures_c") == {}
        assert set(reading.values()) == {None}
    assert "from the cable" not in result.stdout


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("none", "no device; plug the phone in and allow USB debugging"),
        ("two", "2 devices (FAKE0123456789, emulator-5554); choose one by --serial"),
        ("unauthorized", "FAKE0123456789 is unauthorized; unlock it"),
        ("emulator", "Fake Phone 9 (QTI SM0000) is x86_64; a phone with 64-bit ARM"),
        ("old_cpu", "has no asimddp, asimdhp, which"),
        ("full", "10.24 kB free in /data/local/tmp/mimo-bench of Fake Phone 9 (QTI SM0000); make room on it"),
        ("little_memory", "GB available; close apps, take a smaller model or lower --depths, or give --ignore-memory"),
    ],
    indirect=["setting"],
)
def test_a_phone_that_cannot_is_told_apart(setting: Setting, message: str) -> None:
    result = setting.run()
    assert result.exit_code == 1 and message in result.output, result.output
    assert "model.gguf" not in setting.pushed() and not setting.out.exists()


@pytest.mark.parametrize("setting", ["little_memory"], indirect=True)
def test_short_memory_can_be_ignored(setting: Setting) -> None:
    assert setting.run("--depths", "0", "--ignore-memory").exit_code == 0


@pytest.mark.parametrize("setting", ["two"], indirect=True)
def test_one_of_two_devices_is_chosen_by_its_serial(setting: Setting) -> None:
    assert setting.run("--depths", "0", "--serial", fake_adb.SERIAL).exit_code == 0
    result = setting.run("--serial", "OTHER")
    assert result.exit_code == 1 and "no device OTHER; adb sees FAKE0123456789, emulator-5554" in result.output


def test_what_is_missing_here_is_named(setting: Setting, tmp_path: Path) -> None:
    result = setting.run("--adb", str(tmp_path / "nothing"))
    assert result.exit_code == 1 and "nothing not found; install Android's platform tools" in result.output
    (setting.tools / "llama-bench").write_bytes(Path("/bin/sh").read_bytes()[:18] + b"\x3e\0")  # EM_X86_64
    result = setting.run()
    assert result.exit_code == 1 and "llama-bench is no program for 64-bit ARM; `make phone-tools`" in result.output
    (setting.tools / "llama-bench").unlink()
    result = setting.run()
    assert result.exit_code == 1 and "llama-bench is missing; `make phone-tools` builds it" in result.output
    assert setting.calls() == []


@pytest.mark.parametrize(
    ("acted", "message"),
    [
        ("broken", "llama_bench: error: failed to load model 'model.gguf'"),
        ("chatter", "llama-bench printed no JSON but 'Segmentation fault"),
    ],
)
def test_a_program_that_fails_is_quoted(
    setting: Setting, acted: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BENCH", acted)
    result = setting.run()
    assert result.exit_code == 1 and message in result.output, result.output


@pytest.mark.parametrize("setting", ["good", "cut"], indirect=True)
def test_what_was_measured_before_a_failure_is_kept(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = os.environ["FAKE_SCENARIO"] == "cut"
    monkeypatch.setenv("FAKE_BENCH", "killed")
    result = setting.run("--depths", "0,1024,4096")
    record = setting.record()
    assert result.exit_code == 1
    assert [run["depth"] for run in record["runs"]] == ([] if cut else [0])
    assert record["failure"]["depth"] == (0 if cut else 1024)
    assert ("failed (255)" if cut else "the phone killed it, most likely for want of memory") in result.output


def becomes(true: Callable[[], bool]) -> bool:
    """Whether something is true within ten seconds."""
    for _ in range(100):
        if true():
            return True
        time.sleep(0.1)
    return true()


def gone(process: int) -> bool:
    """Whether there is no such process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_program_does_not_outlive_its_connection(setting: Setting) -> None:
    phone = Phone(str(setting.adb), fake_adb.SERIAL)
    phone.shell(f"mkdir -p {fake_adb.FOLDER}")
    phone.push(job.SCRIPT, f"{fake_adb.FOLDER}/watch.sh")
    # The shell's own number is the program's.
    lines = phone.lines(f"sh {fake_adb.FOLDER}/watch.sh 1 sh -c 'echo $$ >&2; exec sleep 60'")
    assert next(lines).startswith("reading")
    said = setting.folder / fake_adb.FOLDER[1:] / "watch.err"
    assert becomes(lambda: said.exists() and said.read_text().endswith("\n"))
    process = int(said.read_text())
    os.kill(process, 0)  # it is there
    lines.close()
    assert becomes(lambda: gone(process))


def test_progress_of_a_push_is_asked_of_the_phone(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb, "INTERVAL_S", 0.05)
    monkeypatch.setenv("FAKE_PAUSE", "1.5")
    phone, seen = Phone(str(setting.adb), fake_adb.SERIAL), list[Progress]()
    phone.push(setting.model, "/data/local/tmp/model.gguf", seen.append)
    size = setting.model.stat().st_size
    assert size // 2 in {step.done for step in seen} and seen[-1].done == size


def test_a_push_that_fails_is_quoted(setting: Setting) -> None:
    with pytest.raises(PhoneError, match=r"adb -s FAKE0123456789 push .* failed \(1\): .*No such file or directory"):
        Phone(str(setting.adb), fake_adb.SERIAL).push(setting.model, "/data/local/tmp/nowhere/model.gguf")


def test_a_dry_run_prints_the_commands_of_the_real_one_and_runs_none(setting: Setting) -> None:
    dry = setting.run("--depths", "0,512", "--threads", "2,4", "--serial", fake_adb.SERIAL, "--dry-run")
    assert dry.exit_code == 0 and setting.calls() == []
    planned: list[list[str]] = []
    for word in shlex.split(dry.stdout):  # a prompt has several lines
        if word == str(setting.adb):
            planned.append([])
        else:
            planned[-1].append(word)
    assert setting.run("--depths", "0,512", "--threads", "2,4").exit_code == 0
    real = setting.calls()
    positions = [real.index(words) for words in planned]
    assert positions == sorted(positions) and len(positions) == 4 + 1 + 2


@pytest.mark.parametrize("behavior", ["good", "slow"])
def test_the_app_is_measured_beside_llama_cpp_where_it_is_installed(
    setting: Setting, behavior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "POLL_S", 0.01)
    fake_adb.install_app(setting.folder, behavior)
    result = setting.run("--depths", "0,4096", "--app-model", "mimo-nano")
    assert result.exit_code == 0, result.output
    written = json.loads(fake_adb.APP_RECORD.read_text())
    assert setting.record()["app"] == written
    (decode,) = (run["speeds"][0]["decode_tps"] for run in written["runs"] if run["depth"] == 0)
    assert "by ONNX Runtime in the app" in result.stdout and f"{decode:.2f}" in result.stdout, result.stdout
    started = [call[3] for call in setting.calls() if call[2:3] == ["shell"] and call[3].startswith("am start")]
    assert started == [shlex.join(app.start_words("benchmark", "mimo-nano"))]
    depths = [row[0] for row in app.rows(setting.record(), written)]
    assert depths == ["0", "1024", "4096"]  # each engine's, whether the other has them or not


def test_all_recipes_are_compared_in_the_app(setting: Setting) -> None:
    fake_adb.install_app(setting.folder, "comparing")
    result = setting.run("--depths", "0", "--compare", "--app-model", "mimo-nano")
    assert result.exit_code == 0, result.output
    written = json.loads(fake_adb.COMPARISON.read_text())
    assert setting.record()["app"] == written
    started = [call[3] for call in setting.calls() if call[2:3] == ["shell"] and call[3].startswith("am start")]
    assert started == [shlex.join(app.start_words("compare", "mimo-nano"))]
    assert "All recipes of mimo-nano in the app" in result.stdout
    rows = [app.compared_row(each) for each in written["compared"]]
    assert {row[1] for row in rows} == {"llama.cpp", "ONNX Runtime"} and rows[0][3] == "1.00"
    for each, row in zip(written["compared"], rows, strict=True):
        assert row[2] == f"{sorted(turn['decode_tps'] for turn in each['turns'])[1]:.2f}"
        assert len(row) == len(app.COMPARED) and row[0] in result.stdout and row[2] in result.stdout


def test_a_recipe_that_the_app_did_not_measure_has_a_row_with_the_reason() -> None:
    each = json.loads(fake_adb.COMPARISON.read_text())["compared"][0]
    each |= {"medians": dict.fromkeys(each["medians"]), "ratio": None, "turns": [], "failure": "no room for it"}
    row = app.compared_row(each)
    assert row[2:-1] == ("–",) * 8 and row[-1] == "no room for it"


@pytest.mark.parametrize("compared", [[{}], [0], [{"recipe": "q4_0", "engine": "x", "medians": {}}], 5])
def test_what_is_no_comparison_is_refused(compared: object) -> None:
    record = json.loads(fake_adb.COMPARISON.read_text()) | {"compared": compared}
    with pytest.raises(PhoneError, match="wrote no record of version 1"):
        app.parse_record(json.dumps(record))


def test_memory_without_an_end_is_refused() -> None:
    record = json.loads(fake_adb.COMPARISON.read_text())
    record["compared"][0]["medians"]["peak_rss_bytes"] = float("inf")
    with pytest.raises(PhoneError, match="wrote no record of version 1"):
        app.parse_record(json.dumps(record))


@pytest.mark.parametrize("option", ["--soak", "--compare"])
def test_what_only_the_app_can_do_is_not_passed_over(setting: Setting, option: str) -> None:
    refused = setting.run(option, "--no-app")
    assert refused.exit_code == 2 and "--no-app" in refused.output and not setting.calls()
    assert f"--ez {option[2:]} true" in setting.run(option, "--dry-run").stdout
    fake_adb.install_app(setting.folder, "refused")
    (setting.folder / "bin/pm").write_text("#!/bin/sh\n")  # it is not installed
    result = setting.run("--depths", "0", option)
    assert result.exit_code == 0 and "The app was not measured" in result.stdout, result.output


def test_a_soak_and_a_comparison_exclude_each_other(setting: Setting) -> None:
    result = setting.run("--soak", "--compare")
    assert result.exit_code == 2 and "exclude each other" in result.output and not setting.calls()


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("gone", "ended while it measured, most likely for want of memory"),
        ("failing", "the app measured nothing: no model is called large; there are mimo-nano"),
        ("refused", "does not start: Error: Activity class does not exist."),
    ],
)
def test_an_app_that_cannot_costs_nothing_of_the_rest(setting: Setting, behavior: str, message: str) -> None:
    fake_adb.install_app(setting.folder, behavior)
    result = setting.run("--depths", "0")
    assert result.exit_code == 0 and message in result.stdout, result.output
    assert message in setting.record()["app"]["error"] and len(setting.record()["runs"]) == 1


def test_the_app_is_left_alone_when_it_is_not_there_or_not_wanted(setting: Setting) -> None:
    assert setting.run("--depths", "0").exit_code == 0
    assert setting.record()["app"] is None
    fake_adb.install_app(setting.folder, "good")
    assert setting.run("--depths", "0", "--no-app").exit_code == 0
    assert setting.record()["app"] is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"record_version": 2}', "[" * 100_000, '{"record_version": 1, "failure": 0}']
)
def test_what_is_no_record_of_the_app_is_refused(text: str) -> None:
    with pytest.raises(PhoneError, match="wrote no record of version 1"):
        app.parse_record(text)


def test_a_dry_run_tells_how_the_app_would_be_started(setting: Setting) -> None:
    said = setting.run("--dry-run", "--app", "--soak", "--depths", "0").stdout
    assert said.splitlines()[-1].endswith(f"shell {shlex.quote(shlex.join(app.start_words('soak', None)))}")


@pytest.mark.parametrize("depths", ["0,", "-1", "many"])
def test_depths_that_are_no_numbers_are_a_usage_error(setting: Setting, depths: str) -> None:
    assert setting.run("--depths", depths).exit_code == 2


def test_help_says_what_it_is_for() -> None:
    said = subprocess.run([sys.executable, "-m", "benchmarks.phone", "--help"], capture_output=True, text=True)
    assert said.returncode == 0 and "on a phone" in said.stdout
