"""``make bench-npu-phone`` against a fake adb, whose phone has a chip with an NPU and an app that acts the real one."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from benchmarks.phone import app, npu
from mimo_mobile import manifest
from mimo_mobile.entries import Entry, Part
from mimo_mobile.layout import NPU_FORMAT
from mimo_mobile.manifest import Manifest
from tests.benchmarks import fake_adb
from tests.benchmarks.setting import Setting, make_setting

CHIP, CONTEXT, DATA_BYTES = "SM8750", 2048, 60_000
CACHE_BYTES = 2 * 8 * CONTEXT * 128 * 2
"""Keys and values of 8 heads of 128 numbers in float16, of one layer."""


def graph(path: Path) -> None:
    """A graph that reads the caches of one layer."""
    shape = ir.Shape([1, 8, CONTEXT, 128])
    caches = [
        ir.Value(name=f"past_key_values.0.{kind}", shape=shape, type=ir.TensorType(ir.DataType.FLOAT16))
        for kind in ("key", "value")
    ]
    ir.save(ir.Model(ir.Graph(caches, [], nodes=[], opset_imports={"": 21}), ir_version=10), path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `mimo quantize` would have compiled for two chips, with files of a few bytes."""
    folder = tmp_path_factory.mktemp("out") / "small"
    model = folder / "small-int4_b32-onnx"
    names = ["layers-0.64", "layers-0.2", "layers-0.1", "head.2", "head.1"]
    for chip in (CHIP, "SM8650"):
        binaries = model / f"qnn-{chip}"
        binaries.mkdir(parents=True)
        graph(binaries / "layers-0.64.onnx")
        settings = {
            "ep": "qnn", "activations": "float", "soc": chip, "context_length": CONTEXT, "windows": [64, 2, 1],
            "layers": [[0, 1]], "mtp": False, "embedding_bytes": 1000, "made_with": "tests",
            "graphs": [{"name": name, "size_bytes": 1_000_000, "seconds": 1.0} for name in names],
        }  # fmt: skip
        (binaries / "npu.json").write_text(NPU_FORMAT.to_text(settings))
    (model / "model.onnx.data").write_bytes(bytes(DATA_BYTES))
    files = sorted(path for path in model.rglob("*") if path.is_file())
    parts = tuple(
        Part(path.relative_to(folder).as_posix(), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    )
    entry = Entry("int4_b32", "onnx", model.name, 5.0, sum(each.size_bytes for each in parts), parts, {}, effort="none")
    Manifest("small", {"fingerprint": "0"}, (entry,)).write(folder)
    return folder


@dataclass(frozen=True, slots=True)
class Kit:
    """A fake phone, and the folder that it is to measure."""

    setting: Setting
    model: Path

    def words(self, *options: str) -> list[str]:
        return [str(self.model), "--adb", str(self.setting.adb), "--out", str(self.setting.out), *options]

    def run(self, *options: str) -> Result:
        return CliRunner().invoke(npu.main, self.words(*options))

    def record(self) -> Any:
        (file,) = self.setting.out.glob("*.json")
        return json.loads(file.read_text(encoding="utf-8"))

    def mode(self, name: str) -> Any:
        return next(each for each in self.record()["modes"] if each["mode"] == name)


@pytest.fixture
def kit(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Kit:
    scenario = getattr(request, "param", "good")
    setting = make_setting(tmp_path, tmp_path, tmp_path, [], monkeypatch, scenario)
    monkeypatch.setattr(app, "POLL_S", 0.01)
    properties = setting.folder / "bin/getprop"
    properties.write_text(properties.read_text().replace("SM0000", CHIP))
    fake_adb.install_npu_app(setting.folder, "good")
    return Kit(setting, written)


def test_three_modes_give_one_record_a_table_and_a_picture(kit: Kit) -> None:
    result = kit.run()
    assert result.exit_code == 0, result.output
    record, real = kit.record(), json.loads(fake_adb.APP_RECORD.read_text())
    assert [each["mode"] for each in record["modes"]] == ["npu", "split", "cpu"]
    assert [each["verdict"] for each in record["modes"]] == ["passed", "passed", "measured"]
    assert [each["provider"] for each in record["modes"]] == ["QNN", "QNN", "CPU"]
    assert kit.mode("npu")["placement"] == {"QNNExecutionProvider": 12} and kit.mode("cpu")["placement"] == {}
    assert kit.mode("npu")["runs"] == real["runs"] and kit.mode("npu")["answer"] == real["answer"]
    assert record["device"]["soc_model"] == CHIP and record["model"]["chip"] == CHIP
    plan = record["plan"]
    assert plan["npu"]["npu_bytes"] == 3_000_000 + 2_000_000 and plan["npu"]["npu_cache_bytes"] == 2 * CACHE_BYTES
    assert plan["npu"]["cache_bytes"] == plan["cpu"]["cache_bytes"] == CACHE_BYTES and plan["npu"]["cpu_bytes"] == 0
    assert plan["cpu"]["cpu_bytes"] == plan["split"]["cpu_bytes"] == 1.2 * (DATA_BYTES - 1000)
    assert (
        plan["split"]["memory_bytes"] == plan["npu"]["memory_bytes"] + plan["cpu"]["cpu_bytes"]
        and plan["cpu"]["npu_bytes"] == 0
    )
    for part in ("12 of QNNExecutionProvider", "passed", f"{real['runs'][0]['speeds'][0]['decode_tps']:.2f}", "1.6 %"):
        assert part in result.stdout, result.stdout
    assert "of a session" in result.stderr and "memory of small on Fake Phone 9" in result.stderr
    (picture,) = kit.setting.out.glob("*.svg")
    bars = [each for each in ElementTree.parse(picture).iter() if each.tag.endswith("rect") and "fill" in each.attrib]
    assert len(bars) == 3 + 2 * 3 * len(real["runs"]), "a key for each mode, and prefill and decode of each depth"


def test_the_phone_gets_one_chips_binaries_and_a_manifest_that_says_so(kit: Kit) -> None:
    assert kit.run().exit_code == 0
    sent = kit.setting.pushed()
    assert sent[-1] == "manifest.json" and len(sent) == 2 + 1 + 1, "a graph and npu.json, and the weights"
    folder = kit.setting.folder / f"sdcard/Android/data/{app.PACKAGE}/files/models/small-{CHIP}"
    found = manifest.read(folder)
    assert found is not None and {path.name for path in folder.glob("*/q*")} == {f"qnn-{CHIP}"}
    for part in found.entries[0].parts:
        assert hashlib.sha256((folder / part.path).read_bytes()).hexdigest() == part.sha256
    assert kit.run("--modes", "cpu").exit_code == 0 and kit.setting.pushed() == sent, "what is there is not sent again"
    calls = [call[3] for call in kit.setting.calls() if call[2:3] == ["shell"] and call[3].startswith("am start")]
    assert calls[:3] == [shlex.join(app.start_words("benchmark", f"small-{CHIP}", mode)) for mode in app.MODES]


@pytest.mark.parametrize(
    ("kit", "message"),
    [
        ("none", "no device; plug the phone in and allow USB debugging"),
        ("two", "2 devices (FAKE0123456789, emulator-5554); choose one by --serial"),
        ("unauthorized", "FAKE0123456789 is unauthorized; unlock it"),
        ("full", "10.24 kB free in /sdcard/Android/data/io.github.mimomobile.demo/files/models of Fake Phone 9"),
        ("little_memory", "npu: takes 330.17 MB of memory by the plan, the phone has 102.40 kB available; close apps"),
        ("silent", "does not say which chip it has (ro.soc.model); one of SM8650 (Snapdragon 8 Gen 3), SM8750"),
    ],
    indirect=["kit"],
)
def test_a_phone_that_cannot_is_told_apart(kit: Kit, message: str) -> None:
    result = kit.run()
    assert result.exit_code == 1 and message in " ".join(result.output.split()), result.output
    assert not kit.setting.pushed() and not kit.setting.out.exists()


@pytest.mark.parametrize("kit", ["two"], indirect=True)
def test_the_variable_of_adb_chooses_one_of_two_phones(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_SERIAL", fake_adb.SERIAL)
    assert kit.run("--modes", "cpu").exit_code == 0


@pytest.mark.parametrize("kit", ["little_memory"], indirect=True)
def test_short_memory_can_be_ignored(kit: Kit) -> None:
    assert kit.run("--modes", "npu", "--ignore-memory").exit_code == 0


@pytest.mark.parametrize(
    ("chip", "message"),
    [
        ("SM8550", "is compiled for SM8650 (Snapdragon 8 Gen 3), SM8750 (Snapdragon 8 Elite), and Fake Phone 9 (QTI"
                   " SM8550) has the chip SM8550 (Snapdragon 8 Gen 2); compile for it: mimo quantize"),
        ("Tensor G5", "has the chip TENSOR G5, for whose NPU nothing can be compiled here; there are SM8450"),
    ],
)  # fmt: skip
def test_another_chip_is_named_with_those_that_were_compiled_for(kit: Kit, chip: str, message: str) -> None:
    properties = kit.setting.folder / "bin/getprop"
    properties.write_text(properties.read_text().replace(CHIP, chip))
    result = kit.run()
    assert result.exit_code == 1 and message in result.output and not kit.setting.pushed(), result.output


def test_without_the_app_nothing_is_sent(kit: Kit) -> None:
    (kit.setting.folder / "bin/pm").write_text("#!/bin/sh\nexit 1\n")
    result = kit.run()
    assert result.exit_code == 1 and "demo) is not installed on Fake Phone 9" in result.output
    assert "adb install build/android/mimo-mobile-debug.apk" in result.output and not kit.setting.pushed()


def test_a_mode_whose_app_is_killed_keeps_its_depths_and_the_next_ones_follow(kit: Kit) -> None:
    fake_adb.install_npu_app(kit.setting.folder, "killed")
    result = kit.run("--modes", "npu,cpu")
    assert result.exit_code == 1 and "npu: io.github.mimomobile.demo ended while it measured" in result.output
    assert [run["depth"] for run in kit.mode("npu")["runs"]] == [0] and kit.mode("npu")["verdict"] == "failed"
    assert kit.mode("cpu")["verdict"] == "measured"
    assert len(kit.mode("cpu")["runs"]) > 1 and list(kit.setting.out.glob("*.svg"))


@pytest.mark.parametrize("kit", ["unplugged"], indirect=True)
def test_a_phone_that_is_unplugged_leaves_what_it_measured(kit: Kit) -> None:
    result = kit.run()
    assert result.exit_code == 1 and "failed (255)" in result.output and "passed" in result.stdout
    assert [each["mode"] for each in kit.record()["modes"]] == ["npu", "split"]
    assert kit.mode("npu")["runs"] and not kit.mode("split")["runs"]


def becomes(true: Callable[[], bool]) -> bool:
    """Whether something is true within ten seconds."""
    for _ in range(200):
        if true():
            return True
        time.sleep(0.05)
    return true()


def test_a_benchmark_that_is_killed_leaves_what_was_measured(kit: Kit) -> None:
    fake_adb.install_npu_app(kit.setting.folder, "hanging")
    command = [sys.executable, "-m", "benchmarks.phone.npu", *kit.words()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert becomes(lambda: bool(list(kit.setting.out.glob("*.json")))) and process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert kit.mode("npu")["verdict"] == "in part" and [run["depth"] for run in kit.mode("npu")["runs"]] == [0]


@pytest.mark.parametrize(
    ("behavior", "verdict", "message"),
    [
        ("no_qnn", "failed", "npu: the app measured nothing: QNN execution provider is not enabled in this build"),
        ("wrong", "on another", "npu: CPU computed: wrong numbers on this device: logits differ by 93.0 %"),
        ("old", "failed", "npu: the app knows no mode npu; install the app of this version"),
    ],
)
def test_speeds_that_are_not_the_npus_are_not_told_as_its(kit: Kit, behavior: str, verdict: str, message: str) -> None:
    fake_adb.install_npu_app(kit.setting.folder, behavior)
    result = kit.run("--modes", "npu,cpu")
    assert result.exit_code == 1 and message in result.output, result.output
    assert (kit.mode("npu")["verdict"], kit.mode("npu")["runs"]) == (verdict, [])
    assert kit.mode("cpu")["verdict"] == ("failed" if behavior == "old" else "measured")


def test_a_folder_that_cannot_be_measured_says_what_to_do(kit: Kit, tmp_path: Path, written: Path) -> None:
    def said(folder: Path, *options: str) -> str:
        result = CliRunner().invoke(npu.main, [str(folder), "--adb", str(kit.setting.adb), *options])
        assert result.exit_code == 1
        return result.output

    assert "no manifest.json; give the folder that `mimo quantize` wrote" in said(tmp_path)
    assert "no model that was compiled for an NPU; run `mimo quantize … --recipe q4" in said(written, "--recipe", "q4")
    found = manifest.read(written)
    assert found is not None
    found.write(tmp_path)
    (tmp_path / "small-int4_b32-onnx").mkdir()
    assert "nothing that was compiled for an NPU; run `mimo quantize … --recipe int4_b32" in said(tmp_path)
    binaries = tmp_path / f"small-int4_b32-onnx/qnn-{CHIP}"
    binaries.mkdir()
    (binaries / "npu.json").write_text("{}")
    assert "bytes expected, as manifest.json says; quantize again" in said(tmp_path)
    assert not kit.setting.calls()


def test_a_dry_run_prints_the_commands_and_runs_none(kit: Kit) -> None:
    said = kit.run("--dry-run", "--modes", "npu,cpu").stdout
    assert not kit.setting.calls() and said.count("push") == 2 * 3 and said.count("am start") == 2 * 2
    assert "--es mode npu" in said and "# SM8650" in said
    assert kit.run("--modes", "gpu").exit_code == 2
