"""A manifest as Gradle's plugin would hand it to aapt2, on stdout: `manifest AndroidManifest.xml PACKAGE`.

Not a merger of manifests: the library's is empty, and what others declare is not wanted (ONNX Runtime's provider).
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from android_demo.packaging.project import Project, read_project

ANDROID = "http://schemas.android.com/apk/res/android"
TOOLS = "http://schemas.android.com/tools"


def complete_manifest(text: str, package: str, project: Project) -> str:
    """`text` with package, versions and API levels, and without what is meant for the plugin.

    >>> from android_demo.packaging.project import read_project
    >>> empty = f'<manifest xmlns:android="{ANDROID}"><application /></manifest>'
    >>> 'android:extractNativeLibs="false"' in complete_manifest(empty, "io.github.example", read_project())
    True
    """
    for prefix, uri in (("android", ANDROID), ("tools", TOOLS)):
        ElementTree.register_namespace(prefix, uri)
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in list(parent):
            if child.get(f"{{{TOOLS}}}node") == "remove":
                parent.remove(child)
        for name in [name for name in parent.attrib if name.startswith(f"{{{TOOLS}}}")]:
            del parent.attrib[name]
    root.set("package", package)
    root.set(f"{{{ANDROID}}}versionCode", str(project.version_code))
    root.set(f"{{{ANDROID}}}versionName", project.version_name)
    levels = {name: project.versions[name] for name in ("minSdk", "targetSdk")}
    uses_sdk = {f"{{{ANDROID}}}{name}Version": level for name, level in levels.items()}
    root.insert(0, ElementTree.Element("uses-sdk", uses_sdk))
    for application in root.iter("application"):
        # Native libraries are mapped from the APK, which is why they lie on boundaries of pages in it.
        application.set(f"{{{ANDROID}}}extractNativeLibs", "false")
    return ElementTree.tostring(root, encoding="unicode")


if __name__ == "__main__":
    print(complete_manifest(Path(sys.argv[1]).read_text(), sys.argv[2], read_project()))
