"""What `make android` built, as Android and Maven will read it: the debug APK and the library's AARs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

from android_demo.packaging.project import MODULES, ROOT, Project, read_project
from tests.schemas import check_text

pytestmark = pytest.mark.android

PERMISSIONS = {
    f"android.permission.{name}"
    for name in ("FOREGROUND_SERVICE", "FOREGROUND_SERVICE_SPECIAL_USE", "POST_NOTIFICATIONS", "WAKE_LOCK")
}


@pytest.fixture(scope="module")
def apk(build: Path) -> Path:
    return build / "mimo-mobile-debug.apk"


@pytest.fixture(scope="module")
def project() -> Project:
    return read_project()


@pytest.fixture(scope="module")
def badging(build: Path, apk: Path) -> str:
    return run(build / "tools/prebuilt/linux/aapt2_64", "dump", "badging", apk)


@pytest.fixture(scope="module")
def manifest(build: Path, apk: Path) -> str:
    return run(build / "tools/prebuilt/linux/aapt2_64", "dump", "xmltree", apk, "--file", "AndroidManifest.xml")


@pytest.fixture(scope="module", params=["debug", "debug-androidTest", "release"])
def each_dex(build: Path, request: pytest.FixtureRequest) -> str:
    return disassembled(build / f"mimo-mobile-{request.param}.apk")


@pytest.fixture(scope="module")
def dex(apk: Path) -> str:
    return disassembled(apk)


def disassembled(apk: Path) -> str:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(apk) as archive:
        return run("dexdump", "-d", archive.extract("classes.dex", folder))


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout


def named(text: str, tag: str) -> set[str]:
    """The names in lines such as `uses-permission: name='X'`."""
    return set(re.findall(rf"^{tag}: name='([^']*)'", text, re.MULTILINE))


def test_the_app_says_who_it_is_and_on_what_it_runs(badging: str, project: Project) -> None:
    name, code, version = (project.settings[f"app.{each}"] for each in ("id", "versionCode", "versionName"))
    assert badging.startswith(f"package: name='{name}' versionCode='{code}' versionName='{version}' ")
    levels = re.findall(r"^(minSdk|targetSdk)Version:'(\d+)'", badging, re.MULTILINE)
    assert dict(levels) == {name: project.versions[name] for name in ("minSdk", "targetSdk")}
    assert f"compileSdkVersion='{project.versions['compileSdk']}'" in badging
    assert named(badging, "launchable-activity") == {f"{name}.chat.ChatActivity"}


def test_the_app_speaks_english_spanish_and_chinese(badging: str) -> None:
    (line,) = re.findall(r"^locales: (.*)$", badging, re.MULTILINE)
    assert set(re.findall(r"'([^']*)'", line)) == {"--_--", "es", "zh"}


def test_permissions_are_few_and_none_is_for_the_internet(badging: str) -> None:
    assert named(badging, "uses-permission") == PERMISSIONS


def test_nothing_but_the_launcher_reaches_into_the_app(manifest: str) -> None:
    assert "E: provider" not in manifest
    assert "E: receiver" not in manifest
    assert re.findall(r":exported\(0x[0-9a-f]+\)=true", manifest) != []
    assert len(re.findall(r":exported\(0x[0-9a-f]+\)=true", manifest)) == 1
    assert re.search(r":extractNativeLibs\(0x[0-9a-f]+\)=false", manifest)


def test_dex_has_no_call_that_needs_a_method_handle(each_dex: str) -> None:
    assert "invoke-virtual" in each_dex
    assert re.findall(r"invoke-(?:custom|polymorphic).*", each_dex) == []


def test_buffers_are_moved_by_the_methods_that_android_8_has(each_dex: str) -> None:
    """A FloatBuffer's own `position(int)` came with Android 10; D8 calls Buffer's instead."""
    moves = r"Ljava/nio/(\w+)Buffer;\.(?:position|limit|flip|clear|mark|reset|rewind):\(I?\)Ljava/nio/\1Buffer;"
    assert re.findall(moves, each_dex) == []


def test_private_calls_call_private_methods(dex: str) -> None:
    """Android refuses others, such as those that a class of the same nest could reach in Java; compilers' shims do."""
    private, called, method = set(), set(), ""
    owner = name = ""
    for line in dex.splitlines():
        if found := re.match(r"  Class descriptor  : '(.*)'", line):
            owner = found[1]
        elif found := re.match(r"      name          : '(.*)'", line):
            name = found[1]
        elif found := re.match(r"      type          : '(\(.*)'", line):
            method = f"{owner}.{name}:{found[1]}"
        elif (found := re.match(r"      access        : 0x([0-9a-f]+)", line)) and int(found[1], 16) & 2:
            private.add(method)
        elif (found := re.search(r"invoke-direct(?:/range)? {.*}, (\S+)", line)) and "$jd:" not in method:
            called.add(found[1])
    assert private
    assert {name for name in called if ".<init>:" not in name} <= private


def test_the_release_is_shrunk_and_keeps_what_is_looked_up_by_name(build: Path, apk: Path, badging: str) -> None:
    release = build / "mimo-mobile-release.apk"
    aapt2 = build / "tools/prebuilt/linux/aapt2_64"
    assert "application-debuggable" in badging
    assert run(aapt2, "dump", "badging", release) == badging.replace("application-debuggable\n", "")
    classes = re.findall(r"Class descriptor +: 'L([^']*);'", disassembled(release))
    demo, runtime = "io/github/mimomobile/demo/", "io/github/mimomobile/runtime/"
    assert {f"{demo}MimoApp", f"{demo}chat/ChatActivity", "ai/onnxruntime/OrtSession"} <= set(classes)
    kept = {name for name in classes if name.startswith(runtime)}  # what JNA asks for the names of fields and methods
    assert {name.rpartition("/")[0] for name in kept} == {f"{runtime}llama"} and f"{runtime}llama/LlamaApi" in kept
    assert [name for name in classes if "elemetry" in name and name.startswith("ai/")] == []
    assert "io.github.mimomobile.runtime.Engine -> " in (build / "mimo-mobile-release-mapping.txt").read_text()
    with zipfile.ZipFile(release) as shrunk, zipfile.ZipFile(apk) as whole:
        assert shrunk.getinfo("classes.dex").file_size < whole.getinfo("classes.dex").file_size / 2
        same = [name for name in whole.namelist() if name.startswith(("lib/", "assets/"))]
        assert [name for name in shrunk.namelist() if name.startswith(("lib/", "assets/"))] == same
        services = [name for name in shrunk.namelist() if name.startswith("META-INF/services/")]
        found = {line for name in services for line in shrunk.read(name).decode().split()}
        assert found and {line.replace(".", "/") for line in found} <= set(classes)


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_in_the_library_is_what_its_dump_says(build: Path, module: str) -> None:
    jars = [*build.glob("api/*.jar"), *build.glob("lib/kotlin-stdlib-*.jar")]
    dump = ["java", "-cp", os.pathsep.join(map(str, jars)), str(ROOT / "packaging/DumpApi.java")]
    said = run(*dump, build / f"apk/{module}.jar")
    assert said == (ROOT / module / f"api/{module}.api").read_text(), (
        "`android_demo/build.sh api build/android` writes it anew"
    )


def test_onnx_runtime_is_in_without_what_would_report(dex: str) -> None:
    classes = set(re.findall(r"Class descriptor +: 'L([^']*);'", dex))
    assert "ai/onnxruntime/OrtSession" in classes
    assert [name for name in classes if "elemetry" in name and name.startswith("ai/")] == []


def test_what_is_looked_up_by_name_is_there(apk: Path, dex: str) -> None:
    with zipfile.ZipFile(apk) as archive:
        factories = archive.read("META-INF/services/kotlinx.coroutines.internal.MainDispatcherFactory").decode()
    for name in factories.split():
        assert f"'L{name.replace('.', '/')};'" in dex


def test_onnx_runtime_is_of_the_version_that_gradle_takes(apk: Path, project: Project) -> None:
    with zipfile.ZipFile(apk) as archive:
        library = archive.read("lib/arm64-v8a/libonnxruntime.so")
    assert project.versions["onnxruntime"].encode() in library


def test_the_model_in_the_app_is_whole(apk: Path) -> None:
    with zipfile.ZipFile(apk) as archive:
        root = "assets/models/mimo-nano"
        text = archive.read(f"{root}/manifest.json").decode()
        check_text("manifest", text)
        (entry,) = json.loads(text)["entries"]
        assert entry["format"] == "onnx"
        for part in entry["parts"]:
            info = archive.getinfo(f"{root}/{part['path']}")
            assert info.compress_type == zipfile.ZIP_STORED
            assert hashlib.sha256(archive.read(info)).hexdigest() == part["sha256"]
        bundled = {f"{root}/manifest.json"} | {f"{root}/{part['path']}" for part in entry["parts"]}
        assert {name for name in archive.namelist() if name.startswith("assets/")} == bundled
        assert f"{root}/{entry['path']}/model.onnx" in bundled


def test_the_signature_is_one_that_every_android_from_8_takes(apk: Path) -> None:
    said = run("apksigner", "verify", "--verbose", apk)
    assert "Verified using v2 scheme (APK Signature Scheme v2): true" in said
    assert "Verified using v3 scheme (APK Signature Scheme v3): true" in said


def test_tests_for_devices_go_with_the_app(build: Path, apk: Path, project: Project) -> None:
    tests = build / "mimo-mobile-debug-androidTest.apk"
    said = run(build / "tools/prebuilt/linux/aapt2_64", "dump", "xmltree", tests, "--file", "AndroidManifest.xml")
    name = project.settings["app.id"]
    assert re.search(rf'A: package="{name}.test"', said)
    assert re.search(rf':targetPackage\(0x[0-9a-f]+\)="{name}"', said)
    certificates = [
        re.findall(r"certificate SHA-256 digest: (\w+)", run("apksigner", "verify", "--print-certs", file))
        for file in (apk, tests)
    ]
    assert certificates[0] and certificates[0] == certificates[1]


@pytest.mark.parametrize("module", MODULES)
def test_an_aar_holds_its_module_and_the_rules(build: Path, project: Project, module: str) -> None:
    with zipfile.ZipFile(build / "maven" / f"{project.stem(module)}.aar") as archive:
        root = ElementTree.fromstring(archive.read("AndroidManifest.xml"))
        assert root.get("package") == project.settings[f"{module}.namespace"]
        android = "{http://schemas.android.com/apk/res/android}"
        assert [element.attrib for element in root.iter("uses-sdk")] == [
            {f"{android}minSdkVersion": project.versions["minSdk"]}
        ]
        assert archive.read("proguard.txt") == (ROOT / module / "consumer-rules.pro").read_bytes()
        assert archive.read("R.txt") == b""
        with zipfile.ZipFile(io.BytesIO(archive.read("classes.jar"))) as jar:
            classes = [name for name in jar.namelist() if name.endswith(".class")]
            kotlin = ROOT / module / "src/main/kotlin"
            packages = {str(file.parent.relative_to(kotlin)) for file in kotlin.rglob("*.kt")}
            assert {name.rpartition("/")[0] for name in classes} == packages
            found = {
                line for name in jar.namelist() if "/services/" in name for line in jar.read(name).decode().split()
            }
            assert {f"{name.replace('.', '/')}.class" for name in found} <= set(classes)
            assert bool(found) == (module != "runtime")
            assert f"META-INF/{module}.kotlin_module" in jar.namelist()
            assert {jar.read(name)[6:8] for name in classes} == {b"\x00\x3d"}  # Java 17


@pytest.mark.parametrize("module", MODULES)
def test_an_aar_comes_with_all_sources(build: Path, project: Project, module: str) -> None:
    kotlin = ROOT / module / "src/main/kotlin"
    with zipfile.ZipFile(build / "maven" / f"{project.stem(module)}-sources.jar") as archive:
        assert set(archive.namelist()) == {str(file.relative_to(kotlin)) for file in kotlin.rglob("*.kt")}


@pytest.mark.parametrize("module", MODULES)
def test_a_pom_names_what_its_module_needs(build: Path, project: Project, module: str) -> None:
    root = ElementTree.parse(build / "maven" / f"{project.stem(module)}.pom").getroot()
    pom = {"": "http://maven.apache.org/POM/4.0.0"}
    tags = ("groupId", "artifactId", "version", "scope", "type")
    found = {
        ":".join(dependency.findtext(tag, "jar", pom) for tag in tags)
        for dependency in root.iterfind("dependencies/dependency", pom)
    }
    needed = {
        "runtime": f"org.jetbrains.kotlinx:kotlinx-coroutines-core:{project.versions['coroutines']}:compile:jar",
        "onnx": f"com.microsoft.onnxruntime:onnxruntime-android:{project.versions['onnxruntime']}:runtime:jar",
        "llama": f"net.java.dev.jna:jna:{project.versions['jna']}:runtime:aar",
    }
    own = f"io.github.mimomobile:mimo-mobile-runtime:{project.settings['library.version']}:compile:aar"
    kotlin = f"org.jetbrains.kotlin:kotlin-stdlib:{project.versions['kotlin']}:compile:jar"
    assert found == {kotlin, needed[module]} | ({own} if module != "runtime" else set())
    assert root.findtext("artifactId", None, pom) == f"mimo-mobile-{module}"
    assert root.findtext("licenses/license/name", None, pom) == "Apache-2.0"
    for tag in ("name", "description"):
        assert root.findtext(tag, None, pom) == project.settings[f"{module}.{tag}"]


def test_what_was_fetched_has_the_versions_that_gradle_takes(project: Project) -> None:
    lines = [line for file in ROOT.glob("**/artifacts.sha256") for line in file.read_text().splitlines()]
    fetched = [line.split()[1] for line in lines]
    for artifact, version in {
        "kotlin-compiler-embeddable": "kotlin",
        "kotlin-stdlib": "kotlin",
        "kotlinx-coroutines-core-jvm": "coroutines",
        "kotlinx-coroutines-android": "coroutines",
        "onnxruntime": "onnxruntime",
        "jna": "jna",
        "junit": "junit",
    }.items():
        found = {name.split(":")[2] for name in fetched if name.split(":")[1] == artifact}
        assert found == {project.versions[version]}, artifact
    frameworks = {name for name in fetched if ":android-all:" in name}
    assert len(frameworks) == 1
    # Google's merger and lint have the version of the Android plugin, 23 later.
    major, rest = project.versions["agp"].split(".", 1)
    lint = (ROOT / "packaging/lint.sha256").read_text()
    assert f"com.android.tools.lint:lint:{int(major) + 23}.{rest}\n" in lint
    plugin = (ROOT / "packaging/plugin.sha256").read_text()
    assert f"com.android.tools.build:manifest-merger:{int(major) + 23}.{rest}\n" in plugin
    assert f"com.android.tools.build:gradle:{project.versions['agp']}\n" in plugin
    assert (
        f"org.jetbrains.kotlin:abi-tools:{project.versions['kotlin']}\n" in (ROOT / "packaging/api.sha256").read_text()
    )
    under_test = (ROOT / "packaging/robolectric.sha256").read_text()
    assert f"org.robolectric:robolectric:{project.versions['robolectric']}\n" in under_test


def test_the_example_in_the_readme_compiles_against_the_aar(build: Path, project: Project, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"```kotlin\n(.*?)```", text, re.DOTALL)
    assert found, "no example"
    with zipfile.ZipFile(build / "maven" / f"{project.stem('runtime')}.aar") as aar:
        aar.extract("classes.jar", tmp_path)
    imports = ["android.content.Context", "android.util.Log", "java.io.File"]
    imports += [f"io.github.mimomobile.runtime.{name}" for name in ("*", "android.AndroidDevice")]
    lines = [*(f"import {name}" for name in imports), "lateinit var context: Context", found[1]]
    source = tmp_path / "Example.kt"
    source.write_text("\n".join(lines))
    (framework,) = build.glob("tools/android-all-*.jar")
    libraries = [*build.glob("lib/kotlin-stdlib-*.jar"), *build.glob("lib/kotlinx-coroutines-core-*.jar")]
    classpath = os.pathsep.join(map(str, [tmp_path / "classes.jar", framework, *libraries]))
    compiler = ["java", "-cp", str(build / "lib/*"), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    options = ["-no-stdlib", "-no-reflect", "-jvm-target", "17", "-Werror", "-cp", classpath, "-d", tmp_path / "out"]
    run(*compiler, *options, source)
    assert list((tmp_path / "out").rglob("*.class"))
