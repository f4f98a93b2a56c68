"""What gradle/libs.versions.toml and gradle.properties say to Gradle and to this; `project` prints it for build.sh."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "mimo."
MODULES = ("runtime", "onnx", "llama")
"""The library's modules, each after what it needs."""


@dataclass(frozen=True)
class Project:
    """The project's versions, libraries as `group:name:version`, those of each bundle, and settings without `mimo.`."""

    versions: dict[str, str]
    libraries: dict[str, str]
    bundles: dict[str, list[str]]
    settings: dict[str, str]

    def stem(self, module: str) -> str:
        """The path of a module's files in a Maven repository, without what follows the version."""
        group, version = self.settings["library.group"], self.settings["library.version"]
        artifact = self.settings[f"{module}.artifact"]
        return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}"


def read_project(root: Path = ROOT) -> Project:
    """The project in the folder `root`.

    Raises:
        ValueError: A line of gradle.properties is neither `name=value` nor a comment, or says again what another says.
    """
    catalog = tomllib.loads((root / "gradle/libs.versions.toml").read_text())
    versions = catalog["versions"]
    libraries = {
        name: f"{library['module']}:{versions[library['version']['ref']]}"
        for name, library in catalog["libraries"].items()
    }
    bundles = {name: [libraries[each] for each in names] for name, names in catalog["bundles"].items()}
    return Project(versions, libraries, bundles, _settings(root / "gradle.properties"))


def _settings(file: Path) -> dict[str, str]:
    """What starts with `mimo.`; of Java's many ways to write properties, the one that is used here."""
    found: dict[str, str] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        name, separator, value = line.partition("=")
        if not separator or name != name.strip() or value != value.strip() or "\\" in line or name in found:
            raise ValueError(f"{file}:{number}: `{line}` found, `name=value` expected, each name once")
        found[name] = value
    return {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}


def main() -> None:
    """Prints modules, versions and settings, `name=value` each."""
    project = read_project()
    print(f"modules={' '.join(MODULES)}")
    for name, value in {**project.versions, **project.settings}.items():
        print(f"{name}={value}")


if __name__ == "__main__":
    main()
