"""Links in the documents lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()


def prose(document: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    found = list[str]()
    for heading in re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE):
        slug = re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_to_a_file_or_a_heading_leads_somewhere(name: str) -> None:
    document = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", prose(document)) + re.findall(r'(?:src|href)="([^"]+)"', prose(document))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def files_of_tree(text: str) -> set[str]:
    """The Python files in a tree that is drawn by indentation, one or more a line before the description."""
    folders, found = list[str](), set[str]()
    for line in text.splitlines():
        names = re.split(r" {2,}", line.strip())[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [names.rstrip("/")] if names.endswith("/") else []
        found |= {"/".join([*folders[:depth], name]) for name in names.split(", ") if name.endswith(".py")}
    return found


def test_readme_names_every_source_file_of_the_package_and_no_other() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## The tree")[1].split("```")[1]
    files = [*(ROOT / "src/mimo_mobile").glob("*.py")]
    files += [path for folder in ("convert", "quantize", "runtime") for path in (ROOT / folder).rglob("*.py")]
    assert files_of_tree(tree) == {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
