"""The Python part of the APK's and the AAR's build, which `make android` runs."""

from __future__ import annotations

import json
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from android_demo.packaging.apk import model
from android_demo.packaging.archive import Member, write_archive
from android_demo.packaging.classfile import FINAL, JAVA_7, JAVA_8, JAVA_11, PRIVATE, ClassFile
from android_demo.packaging.lower import lower_class, lower_jars
from android_demo.packaging.project import read_project
from android_demo.packaging.undex import undex


def class_file(name: str, *, flags: int = 0x21, version: int = 61, constants: tuple[str, ...] = ()) -> bytes:
    """A class with one private method `m`, that calls `name.m`; `constants` are more texts."""
    pool = [(name,), (1,), ("m",), ("()V",), (3, 4), (2, 5), *((text,) for text in constants)]
    tags = [1, 7, 1, 1, 12, 10] + [1] * len(constants)
    out = struct.pack(">IHHH", 0xCAFEBABE, 0, version, len(pool) + 1)
    for tag, values in zip(tags, pool, strict=True):
        out += bytes([tag])
        for value in values:
            text = value.encode() if isinstance(value, str) else None
            out += struct.pack(">H", value) if text is None else struct.pack(">H", len(text)) + text
    method = struct.pack(">HHHH", PRIVATE | 0x400, 3, 4, 0)
    return out + struct.pack(">HHHHHH", flags, 2, 0, 0, 0, 1) + method + struct.pack(">H", 0)


def test_a_nest_opens_its_private_methods_to_the_package() -> None:
    (member,) = ClassFile(lower_class(class_file("a/B", constants=("NestMembers",)))).members()
    assert (member.name, member.flags & PRIVATE, member.flags & FINAL) == ("m", 0, FINAL)
    (member,) = ClassFile(lower_class(class_file("a/B"))).members()
    assert member.flags & PRIVATE


@pytest.mark.parametrize(
    ("flags", "before", "after"), [(0x21, 61, JAVA_11), (0x21, 52, JAVA_11), (0x601, 61, JAVA_7), (0x21, 50, 50)]
)
def test_class_files_say_what_proguard_takes(flags: int, before: int, after: int) -> None:
    assert ClassFile(lower_class(class_file("a/B", flags=flags, version=before))).version == after


@pytest.mark.parametrize(
    ("constant", "problem"), [("BootstrapMethods", "with lambdas"), ("NestHost", "private method m")]
)
def test_an_interface_that_cannot_be_lowered_is_an_error(tmp_path: Path, constant: str, problem: str) -> None:
    jar = tmp_path / "in.jar"
    write_archive(jar, [Member("a/B.class", class_file("a/B", flags=0x601, constants=(constant,)))])
    with pytest.raises(ValueError, match=rf"in.jar: a/B.class: an interface .*{problem}"):
        lower_jars(tmp_path / "out.jar", [jar])


def test_one_class_in_two_jars_is_an_error(tmp_path: Path) -> None:
    jars = [tmp_path / "one.jar", tmp_path / "two.jar"]
    for jar in jars:
        write_archive(jar, [Member("a/B.class", class_file("a/B"))])
    with pytest.raises(ValueError, match=r"two.jar: a/B.class is in another jar, too"):
        lower_jars(tmp_path / "out.jar", jars)


def test_what_is_no_class_file_is_an_error() -> None:
    with pytest.raises(ValueError, match="no class file"):
        lower_class(b"PK\x03\x04" + bytes(20))


def test_uploader_and_modules_stay_out(tmp_path: Path) -> None:
    names = ["ai/onnxruntime/telemetry/HttpClient", "ai/onnxruntime/TelemetryInitializer", "module-info", "a/B"]
    others = [Member("META-INF/services/x.Y", b"x.Z"), Member("META-INF/MANIFEST.MF", b""), Member("a/b.txt", b"")]
    write_archive(tmp_path / "in.jar", [*(Member(f"{name}.class", class_file(name)) for name in names), *others])
    lower_jars(tmp_path / "out.jar", [tmp_path / "in.jar"])
    assert zipfile.ZipFile(tmp_path / "out.jar").namelist() == ["a/B.class", "META-INF/services/x.Y"]


def test_calls_of_interfaces_are_told_as_such(tmp_path: Path) -> None:
    write_archive(tmp_path / "in.jar", [Member("I.class", class_file("a/I", flags=0x601, version=49))])
    undex(tmp_path / "out.jar", tmp_path / "in.jar")
    file = ClassFile(zipfile.ZipFile(tmp_path / "out.jar").read("a/I.class"))
    assert (file.name, file.version, list(file.methods_called())) == ("a/I", JAVA_8, [])


def test_archives_are_the_same_each_time_and_stored_on_boundaries(tmp_path: Path) -> None:
    members = [Member("a", b"12345"), Member("lib/é.so", b"x" * 100, 16384), Member("c", b"y", 4)]
    for name in ("one.zip", "two.zip"):
        write_archive(tmp_path / name, members)
    data = (tmp_path / "one.zip").read_bytes()
    assert data == (tmp_path / "two.zip").read_bytes()
    assert data.index(b"x" * 100) == 16384
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.testzip() is None
        assert [archive.read(member.name) for member in members] == [member.data for member in members]
        kinds = [info.compress_type for info in archive.infolist()]
    assert kinds == [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_STORED]
    assert not list(tmp_path.glob("*.partial"))


def test_a_model_is_bundled_without_what_npus_were_given(tmp_path: Path) -> None:
    parts = [{"path": f"m-onnx/{name}", "size_bytes": 3, "sha256": ""} for name in ("model.onnx", "qnn-X/a.bin")]
    entries = [{"format": "gguf", "parts": []}, {"format": "onnx", "path": "m-onnx", "parts": parts, "size_bytes": 6}]
    (tmp_path / "manifest.json").write_text(json.dumps({"model": "m", "entries": entries}))
    (tmp_path / "m-onnx").mkdir()
    (tmp_path / "m-onnx/model.onnx").write_bytes(b"abc")
    manifest, file = model(tmp_path)
    assert (file.name, file.data) == ("assets/models/m/m-onnx/model.onnx", b"abc")
    (entry,) = json.loads(manifest.data)["entries"]
    assert (entry["size_bytes"], entry["parts"]) == (3, parts[:1])


def test_a_folder_without_a_model_for_onnx_runtime_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"model": "m", "entries": []}))
    with pytest.raises(ValueError, match="no model for ONNX Runtime; run `mimo quantize"):
        list(model(tmp_path))


def test_gradle_files_that_say_something_twice_are_an_error(tmp_path: Path) -> None:
    for folder in ("gradle", "app", "runtime"):
        (tmp_path / folder).mkdir()
    (tmp_path / "gradle/libs.versions.toml").write_text("[versions]\n[libraries]\n")
    (tmp_path / "app/build.gradle.kts").write_text('applicationId = "a"\napplicationId = "b"\n')
    with pytest.raises(ValueError, match="2 lines `applicationId = …`, 1 expected"):
        read_project(tmp_path)


def test_the_build_says_what_it_can_do_and_what_is_missing(tmp_path: Path) -> None:
    script = "android_demo/build.sh"
    usage = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert all(f"build.sh {command} " in usage.stderr for command in ("jar", "test", "aar", "apk", "test-dex"))
    missing = subprocess.run(["bash", script, "apk", tmp_path, tmp_path], capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert missing.stderr == f"{tmp_path}: no manifest.json; run `make quantize` first\n"
