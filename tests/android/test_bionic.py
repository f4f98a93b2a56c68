"""Android's own llama.cpp computes here what llama.cpp of this computer does: for x86-64 natively, for ARM under QEMU.

bionic, Android's C library, has a stand-in (standin.py). All else is what a phone gets: the APK's libraries, loaded by
their names as the app loads them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from mimo_mobile.runtime import GenerationConfig, Message, load
from tests.android import standin
from tests.android.conftest import ABIS

pytestmark = pytest.mark.android

QUESTIONS = ("What is 12 + 30?", "What is 25 + 17 * 3?")

BEST = {
    "cortex-a76": "armv8.2_2",
    "max,sve=off,sme=off": "armv8.6_1",
    "max,sme=off": "armv9.0_1",
}
"""QEMU's CPUs, and the library that is made for each. SME is off because QEMU 7 computes wrongly with it."""

OPTIONAL = ("libggml-hexagon.so", "libggml-opencl.so")
"""What phones without such drivers cannot load."""


BESIDE = "trunk beside the MTP layer: "

TESTS = "io.github.mimomobile.runtime.llama.LlamaBackendTest"
METHODS = (
    "a prompt longer than a batch is computed in chunks",
    "every kind of KV cache and of weights gives nearly the same",
    "rows of logits are the same with the MTP layer beside, which drafts",
    "what llama cpp says of a file that it cannot load is in the error, and nothing is printed",
)


@pytest.fixture(scope="module")
def arguments(nano_q4: Mapping[str, Path]) -> list[str]:
    """What the driver is given before the backends."""
    trunk, config = nano_q4["gguf"], GenerationConfig(temperature=0)
    with load(trunk, speculate="off") as model:
        prompts = [model.encode_prompt([Message("user", question)], config) for question in QUESTIONS]
    ids = [",".join(map(str, prompt)) for prompt in prompts]
    return [str(trunk), str(trunk.with_name(f"{trunk.stem}-mtp.gguf")), *ids]


@pytest.fixture(scope="module")
def own() -> Path:
    """llama.cpp of this computer, of Python's package."""
    spec = find_spec("llama_cpp")
    assert spec and spec.origin
    return Path(spec.origin).parent / "lib"


@pytest.fixture(scope="module")
def expected(arguments: list[str], own: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What it computes."""
    driver = tmp_path_factory.mktemp("own") / "driver"
    compile_driver("x86_64", driver, own, own, f"-Wl,-rpath,{own}")
    lines = run([str(driver), *arguments])[2:]
    assert [line.split()[0] for line in lines] == "answer answer restored rolled grammar drafted trunk done".split()
    assert f"{BESIDE}the same" in lines
    # Android's build, older than ours, leaves the biases of queries, keys and values out of a trunk that is loaded with
    # an MTP layer. When it is `the same` there, too, LlamaOpener.kt can load the trunk once.
    return [line.replace("the same", "another") for line in lines]


@pytest.fixture(scope="module")
def bionic(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("bionic")
    return {abi: standin.build(folder, abi) for abi in ABIS}


@pytest.fixture(scope="module")
def drivers(own: Path, folders: Mapping[str, Path], bionic: Mapping[str, Path]) -> Mapping[str, Path]:
    for abi, folder in bionic.items():
        compile_driver(abi, folder / "driver", folders[abi], own, "-Wl,--allow-shlib-undefined")
    return {abi: folder / "driver" for abi, folder in bionic.items()}


def compile_driver(abi: str, output: Path, libraries: Path, own: Path, option: str) -> None:
    """A test of the Kotlin library sees to it that structs are the same in both builds' headers."""
    headers = f"-I{own.parents[1] / 'include'}"
    links = [f"-L{libraries}", "-lllama", "-lggml", "-lggml-base", "-lm"]
    standin.compile_c(abi, output, standin.HERE / "driver.c", headers, option, *links)


def run(command: list[str], path: str = "") -> list[str]:
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": path}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, f"status {ended.returncode}: {ended.stdout[-1000:]} {ended.stderr[-4000:]}"
    return ended.stdout.splitlines()


def emulated(cpu: str, path: str, *command: str) -> list[str]:
    qemu = shutil.which("qemu-aarch64-static")
    assert qemu, "qemu-aarch64-static is needed: sudo apt install qemu-user-static"
    return [qemu, "-cpu", cpu, "-L", "/usr/aarch64-linux-gnu", "-E", f"LD_LIBRARY_PATH={path}", *command]


def test_android_for_x86_64_computes_the_same(
    arguments: list[str],
    expected: list[str],
    folders: Mapping[str, Path],
    bionic: Mapping[str, Path],
    drivers: Mapping[str, Path],
) -> None:
    path = f"{bionic['x86_64']}:{folders['x86_64']}"
    lines = run([str(drivers["x86_64"]), *arguments, "libggml-cpu.so", OPTIONAL[1]], path)
    assert lines[:3] == ["best libggml-cpu.so", f"{OPTIONAL[1]} is refused", "devices CPU"]
    assert lines[3:] == expected


@pytest.mark.parametrize("cpu", BEST)
def test_android_for_arm_computes_the_same_with_the_code_for_each_cpu(
    cpu: str,
    arguments: list[str],
    expected: list[str],
    folders: Mapping[str, Path],
    bionic: Mapping[str, Path],
    drivers: Mapping[str, Path],
) -> None:
    folder = folders["arm64-v8a"]
    backends = sorted(file.name for file in folder.glob("libggml-cpu-*.so"))
    command = emulated(cpu, f"{bionic['arm64-v8a']}:{folder}", str(drivers["arm64-v8a"]), *arguments)
    lines = run([*command, *backends, *OPTIONAL])
    assert lines[0] == f"best libggml-cpu-android_{BEST[cpu]}.so"
    assert lines[1:4] == [*(f"{name} is refused" for name in OPTIONAL), "devices CPU"]
    assert lines[4:] == expected


def test_cpus_before_armv8_3_cannot_run_it(
    arguments: list[str], folders: Mapping[str, Path], bionic: Mapping[str, Path], drivers: Mapping[str, Path]
) -> None:
    """Whence LlamaLibrary.kt looks before it loads. When this fails, a build for all CPUs is there: look no more."""
    path = f"{bionic['arm64-v8a']}:{folders['arm64-v8a']}"
    command = emulated("cortex-a53", path, str(drivers["arm64-v8a"]), *arguments, "libggml-cpu-android_armv8.0_1.so")
    ended = subprocess.run(command, capture_output=True, timeout=600)
    assert ended.returncode in (-signal.SIGILL, 128 + signal.SIGILL), ended.stderr[-2000:]


def test_kotlin_and_jna_call_android_for_x86_64_as_they_do_llama_cpp_of_this_computer(
    build: Path, nano_q4: Mapping[str, Path], folders: Mapping[str, Path], bionic: Mapping[str, Path]
) -> None:
    android, work = folders["x86_64"], build / "apk"
    names = ("kotlin-stdlib", "kotlinx-coroutines-core-jvm", "jna", "junit", "hamcrest-core")
    jars = [file for name in names for file in (build / "lib").glob(f"{name}-[0-9]*.jar")]
    jars += [build / "test-classes" / name for name in ("shared", "llama")]
    jars += [work / f"{name}.jar" for name in ("runtime", "llama", "android-stubs")]
    assert all(jar.exists() for jar in jars)
    options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", f"-Djna.boot.library.path={android}", f"-Dmimo.llama={android}"]
    options += ["-Djna.nounpack=true", "-Djna.noclasspath=true"]  # no other libjnidispatch than that
    options += [f"-Dmimo.model={nano_q4['gguf'].parent}", "-cp", os.pathsep.join(map(str, jars))]
    java = shutil.which("java")
    assert java, "java is needed: sudo apt install openjdk-17-jdk-headless"
    command = [java, *options, str(standin.HERE / "RunTests.java"), TESTS, *METHODS]
    assert run(command, f"{bionic['x86_64']}:{android}")[-1] == f"run: {len(METHODS)}"
