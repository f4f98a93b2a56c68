"""The native libraries that `make android` packed, as a phone's installer finds them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.android.elf import Library, read_library

ABIS = ("arm64-v8a", "x86_64")


@pytest.fixture(scope="session")
def folders(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The APK's libraries, by Android's names of CPUs."""
    out = tmp_path_factory.mktemp("apk")
    with zipfile.ZipFile(build / "mimo-mobile-debug.apk") as apk:
        for name in apk.namelist():
            if name.startswith("lib/"):
                apk.extract(name, out)
    return {abi: out / "lib" / abi for abi in ABIS}


@pytest.fixture(scope="session")
def packed(folders: Mapping[str, Path]) -> Mapping[str, Mapping[str, Library]]:
    """What they say of themselves."""
    read = {abi: [read_library(file) for file in sorted(folder.glob("*.so"))] for abi, folder in folders.items()}
    return {abi: {each.name: each for each in libraries} for abi, libraries in read.items()}
