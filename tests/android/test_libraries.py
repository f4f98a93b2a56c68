"""Android's linker takes every library in the APK, from the first Android that the app runs on.

Where libraries lie in the APK, and that all are there which others need, is for tests/test_android_native.py.

What it refuses, and since when, is told in
https://github.com/aosp-mirror/platform_bionic/blob/731631f300090436d7f5df80d50b6275c8c60a93/android-changes-for-ndk-developers.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest

from android_demo.packaging.project import ROOT, read_project
from tests.android.conftest import ABIS
from tests.android.elf import Library
from tests.android.standin import FIRST_LEVEL_WITH_UNWINDER, read_symbols

pytestmark = pytest.mark.android

PAGE_BYTES = 16384
MACHINES = {"arm64-v8a": "AArch64", "x86_64": "Advanced Micro Devices X86-64"}
NPU_MACHINE = "QUALCOMM DSP6 Processor"

RELOCATIONS = {
    "arm64-v8a": {f"R_AARCH64_{kind}" for kind in ("ABS64", "GLOB_DAT", "JUMP_SLOT", "RELATIVE")},
    "x86_64": {f"R_X86_64_{kind}" for kind in ("64", "GLOB_DAT", "JUMP_SLOT", "RELATIVE")},
}
"""Neither thread-local variables, which linkers know since API level 29, nor what is resolved at run time."""

BINDING = ROOT / "llama/src/main/kotlin/io/github/mimomobile/runtime/llama/LlamaApi.kt"

Packed = Mapping[str, Mapping[str, Library]]


@pytest.fixture(params=ABIS)
def abi(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def libraries(packed: Packed, abi: str) -> Mapping[str, Library]:
    """Those for the phone's CPU; what is for its NPU is none of its linker's business."""
    found = {name: each for name, each in packed[abi].items() if each.machine != NPU_MACHINE}
    assert {each.machine for each in found.values()} == {MACHINES[abi]}
    return found


def test_segments_fit_pages_of_16_kib_and_none_can_be_written_and_run(libraries: Mapping[str, Library]) -> None:
    for each in libraries.values():
        loads = [segment for segment in each.segments if segment.kind == "LOAD"]
        assert loads and all(segment.align >= PAGE_BYTES for segment in loads), each.name
        assert all(segment.offset % PAGE_BYTES == segment.address % PAGE_BYTES for segment in loads), each.name
        assert not [segment for segment in each.segments if {"W", "E"} <= set(segment.flags)], each.name
        assert [segment.flags for segment in each.segments if segment.kind == "GNU_STACK"] == ["RW"], each.name


def test_code_is_not_relocated_and_relocations_are_of_kinds_that_android_8_knows(
    libraries: Mapping[str, Library], abi: str
) -> None:
    for each in libraries.values():
        tags = dict(each.tags)
        # DT_RELR and Android's own forms of it came with API levels 28 and 30; readelf names only some of them.
        assert not [tag for tag in tags if tag == "TEXTREL" or "RELR" in tag or "ANDROID" in tag], each.name
        assert "TEXTREL" not in tags.get("FLAGS", ""), each.name
        assert each.relocations <= RELOCATIONS[abi], each.name
        assert "TLS" not in {segment.kind for segment in each.segments}, each.name


def test_what_is_needed_is_found_by_the_name_that_it_has(libraries: Mapping[str, Library]) -> None:
    needed = {name for each in libraries.values() for name in each.needed if name in libraries}
    assert {"libggml.so", "libggml-base.so", "libc++_shared.so"} <= needed
    assert {name: dict(libraries[name].tags)["SONAME"] for name in needed} == {name: name for name in needed}


def test_every_symbol_is_packed_or_in_bionic_since_the_apps_first_android(
    libraries: Mapping[str, Library], abi: str
) -> None:
    found = sorted({line for each in libraries.values() for line in later_symbols(each, libraries)})
    # libllama for ARM can be loaded from Android 11 on, and DeviceNeeds.kt says so. For x86-64 it has its own unwinder.
    assert found == (["_Unwind_Resume@LIBC_R is in libc.so since 30"] if abi == "arm64-v8a" else [])


def later_symbols(library: Library, packed: Mapping[str, Library]) -> Iterator[str]:
    """What is missing on the first Android that the app runs on."""
    first, bionic = int(read_project().versions["minSdk"]), read_symbols()
    closure, names = set[str](), [library.name]
    while names:
        names = [name for name in names if name in packed and name not in closure]
        closure.update(names)
        names = [need for name in names for need in packed[name].needed]
    for name, version in library.undefined.items():
        if name in library.optional or any(name in packed[each].defined for each in closure):
            continue
        if "libOpenCL.so" in library.needed and version.startswith("OPENCL_"):
            continue
        assert name in bionic, f"{library.name}: look {name} up in bionic's *.map.txt, put it into bionic.txt"
        symbol = bionic[name]
        assert symbol.library in library.needed, (library.name, name)
        wanted = "LIBC" if symbol.level < FIRST_LEVEL_WITH_UNWINDER else "LIBC_R"
        assert version.split()[0] == wanted if symbol.library != "liblog.so" else not version, (library.name, name)
        if symbol.level > first:
            yield f"{name}@{version.split()[0]} is in {symbol.library} since {symbol.level}"


def test_all_that_kotlin_calls_is_exported(libraries: Mapping[str, Library]) -> None:
    called = re.findall(r"\bfun ((?:llama|ggml|gguf)_\w+)\(", BINDING.read_text(encoding="utf-8"))
    assert len(called) > 30
    exported = frozenset().union(*(libraries[f"lib{name}.so"].defined for name in ("llama", "ggml", "ggml-base")))
    assert set(called) <= exported


def test_each_library_of_cpu_code_for_arm_tells_how_well_it_fits(packed: Packed) -> None:
    variants = [each for name, each in packed["arm64-v8a"].items() if name.startswith("libggml-cpu")]
    assert len(variants) == 7
    assert all({"ggml_backend_score", "ggml_backend_init"} <= each.defined for each in variants)
