"""Puts an APK together, unsigned, from what aapt2 linked, a DEX file and more."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from android_demo.packaging.archive import Member, write_archive
from android_demo.packaging.services import LICENSES, SERVICES

PAGE_BYTES = 16384  # the larger of the two page sizes that Android has
WORD_BYTES = 4  # Android maps resources.arsc and reads it in place


def resources(apk: Path) -> Iterator[Member]:
    """What aapt2 linked, stored where it was."""
    with zipfile.ZipFile(apk) as archive:
        for info in archive.infolist():
            stored = info.compress_type == zipfile.ZIP_STORED
            yield Member(info.filename, archive.read(info), WORD_BYTES if stored else 0)


def classes(archive: Path) -> Iterator[Member]:
    """The DEX files of what D8 or R8 wrote."""
    return _members(archive, "classes")


def services(archive: Path) -> Iterator[Member]:
    """What Java's ServiceLoader looks for, which finds Android's main thread and our engines so; and licences."""
    return _members(archive, SERVICES, LICENSES)


def _members(archive: Path, *starts: str) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as source:
        for name in sorted(source.namelist()):
            if name.startswith(starts) and not name.endswith("/"):
                yield Member(name, source.read(name))


def native_libraries(jni: Path) -> Iterator[Member]:
    """`jni/ABI/libX.so` as `lib/ABI/libX.so`, where the linker can map them."""
    for file in sorted(jni.glob("*/*.so")):
        yield Member(f"lib/{file.parent.name}/{file.name}", file.read_bytes(), PAGE_BYTES)


def model(folder: Path) -> Iterator[Member]:
    """The model for ONNX Runtime in what `mimo quantize` wrote, without what NPUs were given, and a manifest of it.

    Raises:
        ValueError: There is no such model in the folder.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next((entry for entry in manifest["entries"] if entry["format"] == "onnx"), None)
    if entry is None:
        raise ValueError(f"{folder}: no model for ONNX Runtime; run `mimo quantize --recipe int4_b32`")
    entry["parts"] = [part for part in entry["parts"] if str(Path(part["path"]).parent) == entry["path"]]
    entry["size_bytes"] = sum(part["size_bytes"] for part in entry["parts"])
    manifest["entries"] = [entry]
    assets = f"assets/models/{manifest['model']}"
    yield Member(f"{assets}/manifest.json", json.dumps(manifest, indent=2).encode(), WORD_BYTES)
    for part in entry["parts"]:
        yield Member(f"{assets}/{part['path']}", (folder / part["path"]).read_bytes(), PAGE_BYTES)


def assets(folder: Path) -> Iterator[Member]:
    """The JSON files of a folder."""
    for file in sorted(folder.glob("*.json")):
        yield Member(f"assets/{file.name}", file.read_bytes())


def main() -> None:
    """Writes the APK that the command line asks for."""
    parser = argparse.ArgumentParser(prog="apk", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("linked", type=Path, help="an APK with resources only")
    parser.add_argument("classes", type=Path, help="what D8 or R8 wrote")
    kinds = {"services": services, "jni": native_libraries, "model": model, "assets": assets}
    for name in kinds:
        parser.add_argument(f"--{name}", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    members = [*resources(arguments.linked), *classes(arguments.classes)]
    for name, members_of in kinds.items():
        for source in getattr(arguments, name):
            members += members_of(source)
    write_archive(arguments.output, members)


if __name__ == "__main__":
    main()
