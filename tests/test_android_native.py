"""The native libraries in the APK and in the AAR of :llama, as Android's linker and stores will read them."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from android_demo.packaging.project import ROOT, Project, read_project

pytestmark = pytest.mark.android

PAGE_BYTES = 16384
WHOLE = "llama/package/android/src/main/jniLibs"  # as they were fetched
OTHERS = {"libonnxruntime.so", "libonnxruntime4j_jni.so", "libjnidispatch.so"}
HEXAGON = "libggml-htp-"
"""Libraries of the NPU begin so: 32-bit code, which no CPU maps."""

# Those that apps with API level 26 may ask for: https://developer.android.com/ndk/guides/stable_apis
PUBLIC = {f"lib{name}.so" for name in ("android", "c", "dl", "log", "m", "stdc++", "z")}


@pytest.fixture(scope="module")
def project() -> Project:
    return read_project()


@pytest.fixture(scope="module")
def libraries(build: Path) -> dict[str, dict[str, bytes]]:
    """ABI → name → content, of the debug APK."""
    found: dict[str, dict[str, bytes]] = {}
    with zipfile.ZipFile(build / "mimo-mobile-debug.apk") as archive:
        for name in archive.namelist():
            if name.startswith("lib/"):
                _, abi, file = name.split("/")
                found.setdefault(abi, {})[file] = archive.read(name)
    return found


@pytest.fixture(scope="module")
def llama() -> dict[str, set[str]]:
    """ABI → the names of llama.cpp's libraries and the C++ library that they want."""
    listed = (line.split()[1] for line in (ROOT / "packaging/llama.sha256").read_text().splitlines())
    paths = [Path(path).parts[-2:] for path in listed if path.endswith(".so")]
    return {abi: {name for each, name in paths if each == abi} | {"libc++_shared.so"} for abi, _ in paths}


def for_cpus(libraries: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, str, bytes]]:
    for abi, files in libraries.items():
        for name, content in files.items():
            if not name.startswith(HEXAGON):
                yield abi, name, content


def segments(elf: bytes) -> Iterator[tuple[int, bytes]]:
    """Alignment and content of what the linker maps, of a 64-bit ELF file; without the header, which names sections."""
    assert elf[:5] == b"\x7fELF\x02"
    (at,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    for index in range(count):
        kind, _, offset, _, _, length, _, alignment = struct.unpack_from("<IIQQQQQQ", elf, at + index * size)
        if kind == 1:
            yield alignment, elf[max(offset, 64) : offset + length]


def data_offset(apk: Path, info: zipfile.ZipInfo) -> int:
    with apk.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + int(name) + int(extra)


def test_the_app_has_both_engines_for_both_abis(
    libraries: dict[str, dict[str, bytes]], llama: dict[str, set[str]], project: Project
) -> None:
    assert set(libraries) == {"arm64-v8a", "x86_64"} == set(project.settings["abis"].split(","))
    assert {abi: set(files) for abi, files in libraries.items()} == {
        abi: files | OTHERS for abi, files in llama.items()
    }
    arm = llama["arm64-v8a"]
    assert {f"{HEXAGON}v{version}.so" for version in (73, 75, 79, 81)} | {"libggml-hexagon.so"} <= arm
    assert len([name for name in arm if name.startswith("libggml-cpu-android_armv")]) == 7
    assert not [name for files in llama.values() for name in files if "vulkan" in name]


def test_native_libraries_can_be_mapped_by_pages_of_either_size(
    build: Path, libraries: dict[str, dict[str, bytes]]
) -> None:
    apk = build / "mimo-mobile-debug.apk"
    with zipfile.ZipFile(apk) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".so"):
                assert info.compress_type == zipfile.ZIP_STORED, info.filename
                assert data_offset(apk, info) % PAGE_BYTES == 0, info.filename
    for abi, name, content in for_cpus(libraries):
        assert min(alignment for alignment, _ in segments(content)) >= PAGE_BYTES, f"{abi}/{name}"


def test_stripping_left_all_that_the_linker_maps_as_it_was(
    build: Path, libraries: dict[str, dict[str, bytes]], llama: dict[str, set[str]]
) -> None:
    whole = 0
    for abi, names in llama.items():
        for name in names - {"libc++_shared.so"}:
            content, before = libraries[abi][name], (build / WHOLE / abi / name).read_bytes()
            whole += len(before)
            if name.startswith(HEXAGON):
                assert content == before, name
            else:
                assert list(segments(content)) == list(segments(before)), f"{abi}/{name}"
    assert sum(len(libraries[abi][name]) for abi, names in llama.items() for name in names) < whole / 4


def test_what_native_libraries_need_is_in_the_app_or_public_or_declared(
    build: Path, libraries: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    aapt2 = build / "tools/prebuilt/linux/aapt2_64"
    badging = subprocess.run(
        [aapt2, "dump", "badging", build / "mimo-mobile-debug.apk"], check=True, capture_output=True, text=True
    ).stdout
    declared = set(re.findall(r"^uses-native-library-not-required:'([^']*)'", badging, re.MULTILINE))
    assert declared == {"libOpenCL.so", "libcdsprpc.so"}
    for abi, name, content in for_cpus(libraries):
        (tmp_path / name).write_bytes(content)
        said = subprocess.run(["readelf", "-dW", tmp_path / name], check=True, capture_output=True, text=True).stdout
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", said))
        assert "libc.so" in needed
        missing = needed - set(libraries[abi]) - PUBLIC
        assert missing == ({"libOpenCL.so"} if name == "libggml-opencl.so" else set()), f"{abi}/{name}"


def test_the_aar_of_llama_brings_its_libraries_their_licences_and_what_they_ask_android_for(
    build: Path, llama: dict[str, set[str]], libraries: dict[str, dict[str, bytes]], project: Project
) -> None:
    with zipfile.ZipFile(build / "maven" / f"{project.stem('llama')}.aar") as archive:
        found = {name for name in archive.namelist() if name.startswith("jni/")}
        assert found == {f"jni/{abi}/{name}" for abi, names in llama.items() for name in names}
        for name in found:
            _, abi, file = name.split("/")
            assert archive.read(name) == libraries[abi][file]
        root = ElementTree.fromstring(archive.read("AndroidManifest.xml"))
        android = "{http://schemas.android.com/apk/res/android}"
        wanted = {
            (each.get(f"{android}name"), each.get(f"{android}required")) for each in root.iter("uses-native-library")
        }
        assert wanted == {("libOpenCL.so", "false"), ("libcdsprpc.so", "false")}
        with zipfile.ZipFile(io.BytesIO(archive.read("classes.jar"))) as jar:
            licenses = {
                name: jar.read(name).decode() for name in jar.namelist() if "/licenses/" in name and name[-1] != "/"
            }
    with zipfile.ZipFile(build / "mimo-mobile-release.apk") as apk:
        assert {name: apk.read(name).decode() for name in licenses} == licenses
    assert licenses["META-INF/licenses/Apache-2.0.txt"] == (ROOT.parent / "LICENSE").read_text()
    told = licenses["META-INF/licenses/mimo-mobile-llama.txt"]
    for of in ("llama.cpp and ggml", "@novastera-oss/llamarn", "LLVM Exceptions", "Java Native Access", "libffi"):
        assert of in told
