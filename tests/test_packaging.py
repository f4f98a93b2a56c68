"""The list of packages, their folders and the links that show the same tree are in step."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import mimo_mobile

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAGES = ("convert", "quantize", "runtime")


def packages_of_stages() -> list[Path]:
    return [path.relative_to(ROOT) for stage in STAGES for path in sorted((ROOT / stage).rglob("__init__.py"))]


def test_list_map_and_links_agree() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    expected = {"mimo_mobile": "src/mimo_mobile"} | {f"mimo_mobile.{stage}": stage for stage in STAGES}
    assert setuptools["package-dir"] == expected
    wings = {f"mimo_mobile.{'.'.join(path.parent.parts)}" for path in packages_of_stages()}
    assert set(setuptools["packages"]) == {"mimo_mobile"} | wings
    for stage in STAGES:
        link = ROOT / "src/mimo_mobile" / stage
        assert link.is_symlink() and link.resolve() == ROOT / stage
        assert (ROOT / stage / "__init__.py").is_file()


def test_the_public_names_are_few_and_there() -> None:
    assert len(mimo_mobile.__all__) <= 20
    for name in mimo_mobile.__all__:
        assert getattr(mimo_mobile, name) is not None


@pytest.mark.slow
def test_a_wheel_of_the_sources_holds_code_kernels_schemas_and_nano_and_nothing_else(tmp_path: Path) -> None:
    build = "import sys, setuptools.build_meta as build; print(build.build_sdist(sys.argv[1]))"
    made = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True, capture_output=True, text=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    command.append(str(tmp_path / made.stdout.splitlines()[-1]))
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = {f"mimo_mobile/{path.name}" for path in (ROOT / "src/mimo_mobile").glob("*.py")}
    expected |= {f"mimo_mobile/{path.relative_to(ROOT)}" for stage in STAGES for path in (ROOT / stage).rglob("*.py")}
    expected |= {"mimo_mobile/quantize/libkernels.so"}
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / "src" / package.replace(".", "/")
        expected |= {str(path.relative_to(ROOT / "src")) for each in patterns for path in folder.glob(each)}
    assert names == expected
    assert wheel.stat().st_size < 20e6
    assert wheel.name.split("-", 2)[2].startswith("py3-none-linux")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "from mimo_mobile.quantize import kernels; print(kernels.load()._name)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == str(tmp_path / "installed/mimo_mobile/quantize/libkernels.so")


@pytest.mark.skipif("MIMO_LOWEST" not in os.environ, reason="`make test-lowest` has an environment for it")
def test_the_versions_here_are_the_lowest_that_are_allowed() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    texts = PROJECT["project"]["dependencies"] + [text for name in ("gguf", "onnx", "hub") for text in extras[name]]
    for each in map(Requirement, texts):
        (lowest,) = (bound.version for bound in each.specifier if bound.operator == ">=")
        found = Version(version(each.name))
        # llama-cpp-python takes minutes to build, so that the one that was built for `make test` is taken.
        assert found == Version(lowest) or (each.name == "llama-cpp-python" and found > Version(lowest)), each


def test_no_file_is_longer_than_400_lines() -> None:
    files = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    too_long = {name: count for name in files if (count := len((ROOT / name).read_text().splitlines())) > 400}
    assert not too_long


def test_only_terminal_knows_rich_and_only_cli_knows_click() -> None:
    package = [path for stage in STAGES for path in (ROOT / stage).rglob("*.py")] + list(
        (ROOT / "src/mimo_mobile").glob("*.py")
    )
    for path in package:
        text = path.read_text()
        assert ("import rich" in text or "from rich" in text) == (path.name == "terminal.py"), path
        assert ("import click" in text) == path.name.startswith("cli"), path
