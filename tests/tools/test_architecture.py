"""The pictures of docs/architecture.md are what the code says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.architecture import PICTURES, ROOT, arrows, modules, users_first
from tools.svg import Arrow

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("file", PICTURES)
def test_pictures_are_up_to_date(file: str) -> None:
    assert (ROOT / "docs/images" / file).read_text(encoding="utf-8") == PICTURES[file](), "run `make docs`"


@pytest.mark.parametrize("file", PICTURES)
def test_pictures_are_xml_whose_boxes_do_not_overlap(file: str) -> None:
    root = ElementTree.fromstring(PICTURES[file]())
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    boxes = [each for each in root.iter(f"{SVG}rect") if each.get("class") in ("box", "data")]
    spans = sorted((float(each.attrib["y"]), float(each.attrib["height"])) for each in boxes)
    assert all(y + tall < below for (y, tall), (below, _) in pairwise(spans))
    assert spans[-1][0] + spans[-1][1] < height
    assert all(0 < float(x.attrib["x"]) and float(x.attrib["x"]) + float(x.attrib["width"]) < width for x in boxes)


def test_every_file_of_the_package_is_in_a_picture() -> None:
    shown = "".join(picture() for picture in PICTURES.values())
    files = [
        path
        for folder in ("src/mimo_mobile", "convert", "quantize", "runtime")
        for path in (ROOT / folder).glob("*.py")
    ]
    files += (ROOT / "runtime").glob("*/*.py")
    assert not [path for path in files if path.name not in shown and path.name != "__init__.py"]


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_imports_count_wherever_they_stand_but_for_type_checkers_only(tmp_path: Path) -> None:
    write(tmp_path, "src/mimo_mobile/errors.py", "")
    write(tmp_path, "convert/__init__.py", "")
    write(tmp_path, "convert/tensors.py", "import json\nfrom mimo_mobile.errors import MimoMobileError\n")
    write(tmp_path, "quantize/late.py", "def work():\n    from mimo_mobile.convert import tensors\n")
    write(tmp_path, "runtime/text/words.py", "import mimo_mobile.errors\nimport mimo_mobile.convert.tensors\n")
    write(
        tmp_path,
        "runtime/typed.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mimo_mobile.quantize.late import work\n",
    )
    found = modules(tmp_path)
    assert found["mimo_mobile.quantize.late"].imports == {"mimo_mobile.convert.tensors"}
    assert not found["mimo_mobile.runtime.typed"].imports
    groups = {
        stage: [module for module in found.values() if module.name.startswith(f"mimo_mobile.{stage}")]
        for stage in ("convert", "quantize", "runtime", "errors")
    }
    assert arrows(groups) == [
        Arrow("convert", "errors", 1),
        Arrow("quantize", "convert", 1),
        Arrow("runtime", "convert", 1),
        Arrow("runtime", "errors", 1),
    ]


def test_users_stand_above_what_they_use() -> None:
    found = [Arrow("b", "a", 1), Arrow("c", "b", 2), Arrow("c", "a", 1), Arrow("d", "c", 1)]
    assert users_first(["a", "b", "c", "d"], found) == ["d", "c", "b", "a"]


def test_conversion_knows_nothing_of_the_runtime() -> None:
    for module in modules().values():
        if module.name.startswith("mimo_mobile.convert"):
            assert not [name for name in module.imports if name.startswith("mimo_mobile.runtime")], module.name
