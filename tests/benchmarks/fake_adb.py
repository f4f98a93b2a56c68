"""An adb with a phone made of a folder behind it: writes down its arguments, and answers as adb and the phone would.

It needs nothing but Python. ``FAKE_PHONE`` is the folder; ``make_phone`` makes it. Commands run in a real shell of this
machine, with the phone's paths turned into the folder's. ``FAKE_SHELL`` is that shell (``sh``; ``mksh`` is what phones
have), ``FAKE_RUNNER`` what programs that were sent are run by, as words: QEMU, or a program that acts them.
``FAKE_SCENARIO`` is one of: good, none, two, unauthorized, emulator, old_cpu, full, little_memory, silent, cut,
unplugged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PHONE = Path(os.environ.get("FAKE_PHONE", "."))
SCENARIO = os.environ.get("FAKE_SCENARIO", "good")
SERIAL = "FAKE0123456789"
FOLDER = "/data/local/tmp/mimo-bench"
ROOTED = ("/sdcard", "/data/local/tmp", "/sys/class", "/sys/devices", "/proc/cpuinfo", "/proc/meminfo")

DEVICES = {
    "none": "",
    "two": f"{SERIAL}\tdevice\nemulator-5554\tdevice\n",
    "unauthorized": f"{SERIAL}\tunauthorized\n",
}

# A made-up phone with the shapes of a real one's answers.
PROPERTIES = {
    "ro.product.manufacturer": "Fake",
    "ro.product.model": "Phone 9",
    "ro.build.version.release": "15",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM0000",
    "ro.board.platform": "fakeboard",
    "ro.product.cpu.abi": "arm64-v8a",
}
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: true
  level: 81
  scale: 100
  voltage: 4210
  temperature: 287
  technology: Li-ion
"""


def make_phone(folder: Path, scenario: str = "good") -> None:
    """Write the phone's files and its own programs."""
    properties, features, available_kb, free_kb = PROPERTIES, FEATURES, 5_000_000, 90_000_000
    if scenario == "emulator":
        properties = PROPERTIES | {"ro.product.cpu.abi": "x86_64"}
    if scenario == "old_cpu":
        features = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
    if scenario == "full":
        free_kb = 10
    if scenario == "little_memory":
        available_kb = 100
    if scenario == "silent":  # lets nobody read: no chip's name, no heat, no battery
        properties = {key: value for key, value in PROPERTIES.items() if "soc" not in key and "board" not in key}
    texts = {
        "proc/cpuinfo": f"processor\t: 0\nBogoMIPS\t: 38.40\nFeatures\t: {features}\nCPU implementer\t: 0x41\n",
        "proc/meminfo": f"MemTotal:       11500000 kB\nMemFree:  200000 kB\nMemAvailable:   {available_kb} kB\n",
    }
    for core, khz in enumerate((1_800_000,) * 4 + (2_400_000,) * 3 + (3_000_000,)):
        texts[f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq"] = f"{khz}\n"
    if scenario != "silent":
        for zone, (kind, milli) in enumerate((("cpu-0-0", 41_300), ("cpu-1-7", 58_900), ("modem-off", -273_000))):
            texts[f"sys/class/thermal/thermal_zone{zone}/type"] = f"{kind}\n"
            texts[f"sys/class/thermal/thermal_zone{zone}/temp"] = f"{milli}\n"
        numbers = {"current_now": -812_000, "voltage_now": 4_012_000, "temp": 305, "capacity": 81, "status": "Charging"}
        for name, value in numbers.items():
            texts[f"sys/class/power_supply/battery/{name}"] = f"{value}\n"
    listed = "\n".join(f"[{key}]: [{value}]" for key, value in properties.items())
    storage = (
        "Filesystem      1K-blocks     Used Available Use% Mounted on\n"
        f"/dev/block/dm-9 110000000 20000000 {free_kb} 19% /data/user/0"
    )
    said = {"getprop": listed, "df": storage, "dumpsys": "" if scenario == "silent" else BATTERY}
    texts |= {f"bin/{name}": f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n" for name, text in said.items()}
    for path, text in texts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    (folder / "data/local/tmp").mkdir(parents=True)


APP = "/sdcard/Android/data/io.github.mimomobile.demo/files/benchmarks"
APP_RECORD = Path(__file__).with_name("app_record.json")
COMPARISON = Path(__file__).with_name("app_comparison.json")
"""What the app wrote under Robolectric, on a computer with both engines."""


def install_app(folder: Path, behavior: str) -> None:
    """Give the phone a demo app, whose record is one that the real app wrote.

    It behaves good, comparing (its record is of a comparison), slow (its file comes at the third look), gone (Android
    ends it), failing (it has no such model) or refused (it does not start).
    """
    files = folder / APP[1:]
    files.mkdir(parents=True, exist_ok=True)
    failing = {"record_version": 1, "failure": {"depth": 0, "reason": "no model is called large; there are mimo-nano"}}
    (folder / "failing.json").write_text(json.dumps(failing))
    record = {"failing": folder / "failing.json", "comparing": COMPARISON}.get(behavior, APP_RECORD)
    look = f'[ "$(grep -c pidof {folder}/looks 2>/dev/null)" = 2 ] && cp {record} {files}/bench-phone.json'
    scripts = {
        "pm": "echo package:/data/app/base.apk",
        "am": {
            "refused": "echo 'Error: Activity class does not exist.'",
            "gone": "echo Status: ok",
            "slow": f"echo Status: ok; rm -f {folder}/looks",
        }.get(behavior, f"echo Status: ok; cp {record} {files}/bench-phone.json"),
        "pidof": "exit 1" if behavior == "gone" else f"echo pidof >>{folder}/looks; {look}; echo 4711",
    }
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)


NPU_RECORDS = ("npu", "split", "cpu")


def install_npu_app(folder: Path, behavior: str) -> None:
    """Give the phone a demo app that measures modes; its records are the real app's with another provider in them.

    It behaves good, old (it knows no modes), no_qnn (it was built without), wrong (the self-test fails, so that the CPU
    computes), killed (Android ends it in the NPU's second depth) or hanging (it never gets there).
    """
    install_app(folder, "good")
    files, written = folder / APP[1:], json.loads(APP_RECORD.read_text())
    for mode in NPU_RECORDS:
        model = written["model"] | {"self_test": "logits differ by 1.6 % of the largest"}
        if mode != "cpu":
            model |= {"provider": "QNN", "placement": {"QNNExecutionProvider": 12}}
        record = written | {"mode": mode, "model": model}
        if behavior == "old":
            del record["mode"]
        if behavior == "wrong" and mode != "cpu":
            model |= {
                "provider": "CPU",
                "placement": {},
                "fallback": "wrong numbers on this device: logits differ by 93.0 %",
            }
        if behavior == "no_qnn" and mode != "cpu":
            record = {"record_version": 1, "failure": {"reason": "QNN execution provider is not enabled in this build"}}
        (folder / f"record-{mode}.json").write_text(json.dumps(record))
        part = record | {"runs": record.get("runs", [])[:1], "failure": None}
        (folder / f"part-{mode}.json").write_text(json.dumps(part))
    ended, file = f"{folder}/ended", f"{files}/bench-phone.json"
    stays = f"echo 4711; [ -e {ended} ] && exit 1 || exit 0"
    leaves_part = f'case "$*" in *"mode npu"*) cp {folder}/part-npu.json {file}.so-far; exit;; esac; '
    measures = (
        f'for mode in npu split cpu; do case "$*" in *"mode $mode"*) cp {folder}/record-$mode.json {file};; esac; done'
    )
    begins = {
        "killed": f'rm -f {ended}; case "$*" in *"mode npu"*) touch {ended};; esac; {leaves_part}',
        "hanging": leaves_part,
    }
    scripts = {"pidof": stays, "am": f"echo Status: ok; {begins.get(behavior, '')}{measures}"}
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")


def rooted(text: str) -> str:
    """The phone's paths as this machine's."""
    for path in ROOTED:
        text = text.replace(path, f"{PHONE}{path}")
    return text


def shell(script: str) -> int:
    """Run a script as the phone would; its own scripts with their paths turned, programs by FAKE_RUNNER."""
    folder = PHONE / FOLDER[1:]
    for sent in folder.glob("[!.]*.sh"):
        (folder / f".turned-{sent.name}").write_text(rooted(sent.read_text()))
        script = script.replace(f"sh {FOLDER}/{sent.name}", f"$FAKE_SHELL {FOLDER}/.turned-{sent.name}")
    if SCENARIO == "cut" and "./llama-bench" in script:
        return 255  # what adb returns when the cable is pulled
    if SCENARIO == "unplugged" and "mode split" in script:
        return 255
    if runner := os.environ.get("FAKE_RUNNER"):
        script = script.replace(" ./llama-", f" {runner} ./llama-")
    used = os.environ.get("FAKE_SHELL", "sh")
    environment = dict(os.environ, PATH=f"{PHONE / 'bin'}:{os.environ['PATH']}", FAKE_SHELL=used)
    return subprocess.run([used, "-c", rooted(script)], env=environment, stdin=subprocess.DEVNULL).returncode


def send(local: Path, remote: Path) -> None:
    """Copy a file, in two halves with a pause of FAKE_PAUSE seconds between them."""
    data = local.read_bytes()
    with remote.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(float(os.environ.get("FAKE_PAUSE", "0")))
        file.write(data[len(data) // 2 :])


def main(words: list[str]) -> int:
    """Answer one call."""
    with (PHONE / "calls.jsonl").open("a") as log:
        log.write(json.dumps(words) + "\n")
    if words == ["devices"]:
        print("List of devices attached\n" + DEVICES.get(SCENARIO, f"{SERIAL}\tdevice\n"))
        return 0
    if words[:2] != ["-s", SERIAL]:
        print(f"adb: device '{words[1]}' not found", file=sys.stderr)
        return 1
    match words[2:]:
        case ["shell", script]:
            return shell(script)
        case ["push", local, remote]:
            send(Path(local), Path(rooted(remote)))
            print(f"{local}: 1 file pushed, 0 skipped.")
            return 0
    print(f"adb: unknown command {words[2]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
