"""The Python part of the APK's and the AAR's build, which `make android` runs."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from android_demo.packaging.apk import model
from android_demo.packaging.archive import Member, write_archive
from android_demo.packaging.classfile import JAVA_8, ClassFile
from android_demo.packaging.project import ROOT, read_project
from android_demo.packaging.services import services
from android_demo.packaging.undex import undex


def interface_file(name: str) -> bytes:
    """An interface as enjarify writes it, with a constant that names its method `m` as a class's."""
    pool = [(name,), (1,), ("m",), ("()V",), (3, 4), (2, 5)]
    out = struct.pack(">IHHH", 0xCAFEBABE, 0, 49, len(pool) + 1)
    for tag, values in zip([1, 7, 1, 1, 12, 10], pool, strict=True):
        out += bytes([tag])
        for value in values:
            text = value.encode() if isinstance(value, str) else None
            out += struct.pack(">H", value) if text is None else struct.pack(">H", len(text)) + text
    return out + struct.pack(">HHHHHHH", 0x601, 2, 0, 0, 0, 0, 0)


def test_calls_of_interfaces_are_told_as_such(tmp_path: Path) -> None:
    data = interface_file("a/I")
    assert [name for _, name in ClassFile(data).methods_called()] == ["a/I"]
    write_archive(tmp_path / "in.jar", [Member("I.class", data)])
    undex(tmp_path / "out.jar", tmp_path / "in.jar")
    file = ClassFile(zipfile.ZipFile(tmp_path / "out.jar").read("a/I.class"))
    assert (file.name, file.version, list(file.methods_called())) == ("a/I", JAVA_8, [])


def test_what_is_no_class_file_is_an_error() -> None:
    with pytest.raises(ValueError, match="no class file"):
        ClassFile(b"PK\x03\x04" + bytes(20))


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


def test_services_of_several_jars_become_one_list_and_licences_stay(tmp_path: Path) -> None:
    for name, found in {"one": "a.A\n", "two": "b.B\na.A", "three": "c.C\n"}.items():
        service = "META-INF/services/x.Y" if name != "three" else "META-INF/services/x.Z"
        licence = Member(f"META-INF/licenses/{name}", name.encode())
        write_archive(tmp_path / name, [Member(service, found.encode()), Member("META-INF/other", b""), licence])
    merged = services(tmp_path / name for name in ("one", "two", "three"))
    lists = [("x.Y", b"a.A\nb.B\n"), ("x.Z", b"c.C\n")]
    assert [(each.name[18:], each.data) for each in merged[:2]] == lists
    assert [each.data for each in merged[2:]] == [b"one", b"three", b"two"]


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


@pytest.mark.parametrize("text", ["mimo.a=1\nmimo.a=2", "mimo.a = 1", "mimo.a: 1", "mimo.a=1\\"])
def test_settings_are_written_in_one_way_and_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "gradle").mkdir()
    (tmp_path / "gradle/libs.versions.toml").write_text("[versions]\n[libraries]\n[bundles]\n")
    (tmp_path / "gradle.properties").write_text(f"# comment\norg.gradle.a=b\n\n{text}\n")
    with pytest.raises(
        ValueError, match=r"gradle\.properties:[45]: `mimo\.a.*` found, `name=value` expected, each name once"
    ):
        read_project(tmp_path)


def test_gradle_takes_each_setting_from_where_the_build_takes_it() -> None:
    scripts = "".join(file.read_text() for file in ROOT.glob("*/build.gradle.kts"))
    settings = read_project().settings
    assert set(re.findall(r'setting\("([^"]*)"\)', scripts)) == set(settings)
    assert [value for name, value in settings.items() if f'"{value}"' in scripts and name != "app.versionCode"] == []


def test_the_build_says_what_it_can_do_and_what_is_missing(tmp_path: Path) -> None:
    script = "android_demo/build.sh"
    usage = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert all(f"build.sh {command} " in usage.stderr for command in ("test", "api", "aar", "apk", "lint", "test-dex"))
    missing = subprocess.run(["bash", script, "apk", tmp_path, tmp_path], capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert missing.stderr == f"{tmp_path}: no manifest.json; run `make quantize` first\n"
