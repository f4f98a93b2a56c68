"""What Gradle's files say of this project: versions, names, API levels."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Project:
    """The project's names and numbers; from the catalog, `versions`, and `libraries` as `group:name:version`."""

    versions: dict[str, str]
    libraries: dict[str, str]
    application_id: str
    version_code: int
    version_name: str
    library_namespace: str
    library_group: str
    library_artifact: str
    library_version: str

    @property
    def library_stem(self) -> str:
        """The path of the library's files in a Maven repository, without what follows the version."""
        folder = f"{self.library_group.replace('.', '/')}/{self.library_artifact}/{self.library_version}"
        return f"{folder}/{self.library_artifact}-{self.library_version}"


def read_project(root: Path = ROOT) -> Project:
    """The project in the folder `root`.

    Raises:
        ValueError: A file does not say what is looked for, in the form that is looked for.
    """
    catalog = tomllib.loads((root / "gradle/libs.versions.toml").read_text())
    versions = catalog["versions"]
    app, runtime = root / "app/build.gradle.kts", root / "runtime/build.gradle.kts"
    return Project(
        versions=versions,
        libraries={
            name: f"{library['module']}:{versions[library['version']['ref']]}"
            for name, library in catalog["libraries"].items()
        },
        application_id=_assigned(app, "applicationId"),
        version_code=int(_assigned(app, "versionCode")),
        version_name=_assigned(app, "versionName"),
        library_namespace=_assigned(runtime, "namespace"),
        library_group=_assigned(runtime, "group"),
        library_artifact=_assigned(runtime, "artifactId"),
        library_version=_assigned(runtime, "version"),
    )


def _assigned(file: Path, name: str) -> str:
    found = re.findall(rf'^\s*{name} = "?([\w.-]+)"?$', file.read_text(), re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"{file}: {len(found)} lines `{name} = …`, 1 expected")
    return str(found[0])
