"""Lays :runtime out for a Maven repository, like Gradle's publication: `aar REPOSITORY CLASSES.jar MANIFEST.xml`."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

from android_demo.packaging.archive import Member, write_archive
from android_demo.packaging.project import ROOT, Project, read_project

# What Gradle's plugin writes when nothing more is asked of those who use the library.
METADATA = {
    "aarFormatVersion": "1.0",
    "aarMetadataVersion": "1.0",
    "minCompileSdk": "1",
    "minCompileSdkExtension": "0",
    "minAndroidGradlePluginVersion": "1.0.0",
}
# Maven's names of Gradle's scopes, and the bundles of libraries that runtime/build.gradle.kts gives them.
SCOPES = {"runtime-api": "compile", "runtime-implementation": "runtime"}


def aar(classes: Path, manifest: Path, runtime: Path) -> list[Member]:
    """What the AAR holds; `classes` is a jar, `manifest` merged, `runtime` the folder of the library."""
    with zipfile.ZipFile(classes) as jar:
        names = [name for name in jar.namelist() if name.startswith(("io/", "META-INF/runtime"))]
        inner = classes.with_name("classes.jar")
        write_archive(inner, [Member(name, jar.read(name)) for name in sorted(names) if not name.endswith("/")])
    metadata = "".join(f"{name}={value}\n" for name, value in METADATA.items())
    return [
        Member("AndroidManifest.xml", manifest.read_bytes()),
        Member("classes.jar", inner.read_bytes(), 4),
        Member("proguard.txt", (runtime / "consumer-rules.pro").read_bytes()),
        Member("R.txt", b""),
        Member("META-INF/com/android/build/gradle/aar-metadata.properties", metadata.encode()),
    ]


def pom(project: Project) -> str:
    """The library's POM."""
    root = ElementTree.Element("project", xmlns="http://maven.apache.org/POM/4.0.0")
    texts = {
        "modelVersion": "4.0.0",
        "groupId": project.settings["library.group"],
        "artifactId": project.settings["library.artifact"],
        "version": project.settings["library.version"],
        "packaging": "aar",
        "name": project.settings["library.name"],
        "description": project.settings["library.description"],
    }
    for name, text in texts.items():
        ElementTree.SubElement(root, name).text = text
    licence = ElementTree.SubElement(ElementTree.SubElement(root, "licenses"), "license")
    ElementTree.SubElement(licence, "name").text = project.settings["library.license"]
    ElementTree.SubElement(licence, "url").text = project.settings["library.licenseUrl"]
    dependencies = ElementTree.SubElement(root, "dependencies")
    # Gradle's Kotlin adds its library to `api` by itself.
    needed = {f"org.jetbrains.kotlin:kotlin-stdlib:{project.versions['kotlin']}": "compile"}
    needed |= {library: scope for bundle, scope in SCOPES.items() for library in project.bundles[bundle]}
    for library, scope in needed.items():
        dependency = ElementTree.SubElement(dependencies, "dependency")
        for tag, text in zip(("groupId", "artifactId", "version", "scope"), (*library.split(":"), scope), strict=True):
            ElementTree.SubElement(dependency, tag).text = text
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def main(repository: Path, classes: Path, manifest: Path, runtime: Path = ROOT / "runtime") -> None:
    """Writes AAR, sources and POM, and prints where."""
    project = read_project()
    stem = repository / project.library_stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {kind: stem.with_name(stem.name + kind) for kind in (".aar", "-sources.jar", ".pom")}
    write_archive(files[".aar"], aar(classes, manifest, runtime))
    kotlin = runtime / "src/main/kotlin"
    sources = [Member(str(file.relative_to(kotlin)), file.read_bytes()) for file in sorted(kotlin.rglob("*.kt"))]
    write_archive(files["-sources.jar"], sources)
    partial = files[".pom"].with_name("pom.partial")
    partial.write_text(pom(project))
    os.replace(partial, files[".pom"])
    for file in files.values():
        print(file)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
