"""Merges what several jars tell Java's ServiceLoader, and their licences: `services OUTPUT.jar INPUT.jar…`.

Gradle's plugin puts the same into an APK.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from android_demo.packaging.archive import Member, write_archive

SERVICES, LICENSES = "META-INF/services/", "META-INF/licenses/"


def services(jars: Iterable[Path]) -> list[Member]:
    """One file for each service, with the implementations of all `jars`; then all licences."""
    found: dict[str, list[str]] = {}
    licenses: dict[str, bytes] = {}
    for jar in jars:
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                if name.endswith("/"):
                    continue
                if name.startswith(SERVICES):
                    found.setdefault(name, []).extend(archive.read(name).decode().split())
                elif name.startswith(LICENSES):
                    licenses[name] = archive.read(name)
    merged = {name: ("\n".join(dict.fromkeys(lines)) + "\n").encode() for name, lines in found.items()}
    return [Member(name, data) for each in (merged, licenses) for name, data in sorted(each.items())]


if __name__ == "__main__":
    output, *inputs = map(Path, sys.argv[1:])
    write_archive(output, services(inputs))
