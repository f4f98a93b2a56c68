"""What an app declares once it takes the library: Google's own merger adds the libraries' manifests to the app's."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from android_demo.packaging.project import ROOT, Project, read_project
from tests.test_android import PERMISSIONS

pytestmark = pytest.mark.android

ANDROID = "{http://schemas.android.com/apk/res/android}"
DECLARATIONS = 'xmlns:android="http://schemas.android.com/apk/res/android"'
INTERNET = '<uses-permission android:name="android.permission.INTERNET" />'

# What com.microsoft.onnxruntime:onnxruntime-android declares; the copy that `make android` takes has lost it. The
# provider loads the native library, which starts to report, before any line of the app has run:
# https://github.com/microsoft/onnxruntime/blob/03807fe8681f75a7e81b94f1014e1c099efdd4ee/java/src/main/android-telemetry/AndroidManifest.xml
ONNX_RUNTIME = f"""
<manifest {DECLARATIONS} package="ai.onnxruntime">
    <uses-sdk android:minSdkVersion="24" />
    <uses-permission android:name="android.permission.ACCESS_NETWORK_STATE" />
    {INTERNET}
    <application>
        <provider
            android:name="ai.onnxruntime.TelemetryInitializer"
            android:authorities="${{applicationId}}.onnxruntime_telemetry_initializer"
            android:exported="false"
            android:initOrder="100" />
    </application>
</manifest>
"""
UNWANTED = {
    "android.permission.ACCESS_NETWORK_STATE",
    "android.permission.INTERNET",
    "ai.onnxruntime.TelemetryInitializer",
}

Merge = Callable[[str, list[str]], ElementTree.Element]


@pytest.fixture(scope="module")
def project() -> Project:
    return read_project()


@pytest.fixture(scope="module")
def library(build: Path, project: Project) -> str:
    """The manifest in the AAR of :onnx."""
    return manifest_of(build / "maven" / f"{project.stem('onnx')}.aar")


def manifest_of(aar: Path) -> str:
    with zipfile.ZipFile(aar) as archive:
        return archive.read("AndroidManifest.xml").decode()


@pytest.fixture
def merge(build: Path, project: Project, tmp_path: Path) -> Merge:
    """An app's manifest and its libraries', the nearest first, → the manifest in the APK."""

    def merge(app: str, libraries: list[str]) -> ElementTree.Element:
        files = [tmp_path / f"{index}.xml" for index in range(1 + len(libraries))]
        for file, text in zip(files, [app, *libraries], strict=True):
            file.write_text(text.strip())
        merged = tmp_path / "merged.xml"
        merger = ["java", "-cp", str(build / "plugin/*"), "com.android.manifmerger.Merger"]
        levels = [
            option
            for name in ("MIN", "TARGET")
            for option in ("--property", f"{name}_SDK_VERSION={project.versions[f'{name.lower()}Sdk']}")
        ]
        options = ["--libs", os.pathsep.join(map(str, files[1:])), *levels, "--remove-tools-declarations"]
        done = subprocess.run(
            [*merger, "--main", files[0], *options, "--out", merged], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return ElementTree.parse(merged).getroot()

    return merge


def app(*declared: str) -> str:
    return f'<manifest {DECLARATIONS} package="com.example.app">{"".join(declared)}<application /></manifest>'


def demo(project: Project) -> str:
    text = (ROOT / "app/src/main/AndroidManifest.xml").read_text()
    return text.replace("<manifest ", f'<manifest package="{project.settings["app.id"]}" ')


def names(manifest: ElementTree.Element) -> Iterator[str]:
    return (name for element in manifest.iter() if (name := element.get(f"{ANDROID}name")))


def test_onnx_runtime_alone_would_bring_the_internet_and_a_provider(merge: Merge) -> None:
    assert UNWANTED <= set(names(merge(app(), [ONNX_RUNTIME])))


def test_an_app_that_takes_the_library_gets_nothing_that_reports(merge: Merge, library: str) -> None:
    merged = merge(app(), [library, ONNX_RUNTIME])
    assert UNWANTED.isdisjoint(names(merged))
    assert {element.tag for element in merged.iter()} == {"manifest", "uses-sdk", "application", "uses-native-library"}


def test_an_app_may_load_the_library_that_reaches_qualcomms_npu_where_there_is_one(merge: Merge, library: str) -> None:
    (wanted,) = merge(app(), [library, ONNX_RUNTIME]).iter("uses-native-library")
    assert wanted.attrib == {f"{ANDROID}name": "libcdsprpc.so", f"{ANDROID}required": "false"}


def test_the_demo_asks_for_what_its_service_needs_only(merge: Merge, library: str, project: Project) -> None:
    merged = merge(demo(project), [library, ONNX_RUNTIME])
    asked = {element.get(f"{ANDROID}name") for element in merged.iter("uses-permission")}
    assert asked == PERMISSIONS
    assert not list(merged.iter("provider"))


def test_an_app_keeps_the_internet_that_it_declares_itself(merge: Merge, library: str) -> None:
    merged = merge(app(INTERNET), [library, ONNX_RUNTIME])
    assert UNWANTED.intersection(names(merged)) == {"android.permission.INTERNET"}


def test_the_internet_of_a_library_further_away_is_lost_as_the_documentation_says(merge: Merge, library: str) -> None:
    other = f'<manifest {DECLARATIONS} package="com.example.other">{INTERNET}<application /></manifest>'
    other = other.replace("<application", '<uses-sdk android:targetSdkVersion="36" /><application')
    assert "android.permission.INTERNET" in set(names(merge(app(), [other, library, ONNX_RUNTIME])))
    assert "android.permission.INTERNET" not in set(names(merge(app(), [library, ONNX_RUNTIME, other])))
