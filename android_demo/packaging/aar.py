"""Lays a library out for a Maven repository, like Gradle's: `aar REPOSITORY MODULE CLASSES.jar MANIFEST.xml [JNI]`."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

from android_demo.packaging.archive import Member, write_archive
from android_demo.packaging.project import ROOT, Project, read_project
from android_demo.packaging.services import LICENSES, SERVICES

# What Gradle's plugin writes when nothing more is asked of those who use the library.
METADATA = {
    "aarFormatVersion": "1.0",
    "aarMetadataVersion": "1.0",
    "minCompileSdk": "1",
    "minCompileSdkExtension": "0",
    "minAndroidGradlePluginVersion": "1.0.0",
}
RUNTIME = "runtime"  # the module that all others need
# Maven's names of Gradle's scopes, and the ends of bundles of libraries that a module's build.gradle.kts gives them.
SCOPES = {"api": "compile", "implementation": "runtime"}
AARS = ("net.java.dev.jna:jna",)  # taken as what they are not by default


def aar(classes: Path, manifest: Path, module: Path, jni: Path | None) -> list[Member]:
    """What the AAR holds.

    Args:
        classes: A jar.
        manifest: The merged one.
        module: The folder of the library.
        jni: The folder of its native libraries, if there are any.
    """
    with zipfile.ZipFile(classes) as jar:
        kept = ("io/", f"META-INF/{module.name}.", SERVICES, LICENSES)
        names = [name for name in jar.namelist() if name.startswith(kept)]
        inner = classes.with_name("classes.jar")
        write_archive(inner, [Member(name, jar.read(name)) for name in sorted(names) if not name.endswith("/")])
    metadata = "".join(f"{name}={value}\n" for name, value in METADATA.items())
    native = sorted(jni.glob("*/*.so")) if jni else []
    return [
        Member("AndroidManifest.xml", manifest.read_bytes()),
        Member("classes.jar", inner.read_bytes(), 4),
        Member("proguard.txt", (module / "consumer-rules.pro").read_bytes()),
        Member("R.txt", b""),
        Member("META-INF/com/android/build/gradle/aar-metadata.properties", metadata.encode()),
        *(Member(f"jni/{file.parent.name}/{file.name}", file.read_bytes()) for file in native),
    ]


def pom(project: Project, module: str) -> str:
    """The POM of a module."""
    group, version = project.settings["library.group"], project.settings["library.version"]
    root = ElementTree.Element("project", xmlns="http://maven.apache.org/POM/4.0.0")
    texts = {
        "modelVersion": "4.0.0",
        "groupId": group,
        "artifactId": project.settings[f"{module}.artifact"],
        "version": version,
        "packaging": "aar",
        "name": project.settings[f"{module}.name"],
        "description": project.settings[f"{module}.description"],
    }
    for name, text in texts.items():
        ElementTree.SubElement(root, name).text = text
    licence = ElementTree.SubElement(ElementTree.SubElement(root, "licenses"), "license")
    ElementTree.SubElement(licence, "name").text = project.settings["library.license"]
    ElementTree.SubElement(licence, "url").text = project.settings["library.licenseUrl"]
    dependencies = ElementTree.SubElement(root, "dependencies")
    # Gradle's Kotlin adds its library to `api` by itself.
    needed = {f"org.jetbrains.kotlin:kotlin-stdlib:{project.versions['kotlin']}": "compile"}
    if module != RUNTIME:
        needed[f"{group}:{project.settings[f'{RUNTIME}.artifact']}:{version}"] = "compile"
    for end, scope in SCOPES.items():
        needed |= dict.fromkeys(project.bundles.get(f"{module}-{end}", ()), scope)
    for library, scope in needed.items():
        dependency = ElementTree.SubElement(dependencies, "dependency")
        for tag, text in zip(("groupId", "artifactId", "version", "scope"), (*library.split(":"), scope), strict=True):
            ElementTree.SubElement(dependency, tag).text = text
        if library.rpartition(":")[0] in AARS or library.startswith(f"{group}:"):
            ElementTree.SubElement(dependency, "type").text = "aar"
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def main(repository: Path, name: str, classes: Path, manifest: Path, jni: Path | None = None) -> None:
    """Writes AAR, sources and POM, and prints where."""
    project = read_project()
    module = ROOT / name
    stem = repository / project.stem(name)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {kind: stem.with_name(stem.name + kind) for kind in (".aar", "-sources.jar", ".pom")}
    write_archive(files[".aar"], aar(classes, manifest, module, jni))
    kotlin = module / "src/main/kotlin"
    sources = [Member(str(file.relative_to(kotlin)), file.read_bytes()) for file in sorted(kotlin.rglob("*.kt"))]
    write_archive(files["-sources.jar"], sources)
    partial = files[".pom"].with_name("pom.partial")
    partial.write_text(pom(project, name))
    os.replace(partial, files[".pom"])
    for file in files.values():
        print(file)


if __name__ == "__main__":
    first, name, *others = sys.argv[1:]
    main(Path(first), name, *map(Path, others))
