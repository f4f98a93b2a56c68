"""A stranger's manifest.json has no file outside its folder read or removed, and no file that it does not list."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile import inspection, manifest
from mimo_mobile.errors import MimoMobileError, OutputExistsError
from mimo_mobile.hub import Source
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, load
from tools.format_documents import GGUF, MANIFEST, SHA, entry

ONNX = "mimo-nano-int4_b32-onnx"


def folder_with(folder: Path, *entries: dict[str, Any], files: tuple[str, ...] = ()) -> Path:
    """A folder with a manifest of these entries, and with files of three bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"entries": list(entries)}))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("abc")
    return folder


def state(folder: Path) -> list[str]:
    return sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*"))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "home" / "thesis.txt"
    file.parent.mkdir()
    file.write_text("years of work")
    return file


OUT = (
    "../home", "../home/thesis.txt", "../../x", "x/../../home", "/etc/passwd", "/dev/zero", "..\\home", ".", "..", "",
    "x/", "x//y", "./x", "x\0y", "manifest.json", "manifest.json/x", "link/thesis.txt", "link", "self", "loop",
    "loop/x", "pipe", "zero", "n" * 300,
)  # fmt: skip


@pytest.mark.parametrize("path", OUT)
@pytest.mark.parametrize("where", ["gguf", "gguf part", "onnx", "onnx part"])
def test_a_path_that_leads_out_is_refused_by_all_that_read(
    path: str, where: str, tmp_path: Path, precious: Path, tiny: Source
) -> None:
    made = {
        "gguf": GGUF | {"path": path, "parts": []},
        "gguf part": entry("x.gguf", path, format="gguf"),
        "onnx": entry(path),
        "onnx part": entry("a", f"a/{path}") if path in OUT[:14] else entry(path, f"{path}/model.onnx"),
    }[where]
    folder = folder_with(tmp_path / "out", made | {"recipe": "q4_0"}, files=("notes.txt",))
    (folder / "link").symlink_to(precious.parent)
    (folder / "self").symlink_to(".")
    (folder / "loop").symlink_to("loop")
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    before = state(tmp_path)
    for read in (load, inspection.inspect, inspection.verify, manifest.read):
        with pytest.raises(MimoMobileError, match=r"manifest\.json: not what mimo writes: ") as caught:
            read(folder)  # type: ignore[operator]
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(MimoMobileError, match=r"manifest\.json: not what mimo writes: "):
        manifest.start(folder, tiny, force=False)
    assert state(tmp_path) == before
    manifest.start(folder, tiny, force=True)
    assert state(tmp_path) == before and precious.read_text() == "years of work"


@pytest.mark.parametrize(
    "entries",
    [
        (entry("a", "a/x"), entry("a/b", "a/b/x", recipe="int8")),
        (entry("a", "a/x"), entry("a", "a/y", recipe="int8")),
        (GGUF, entry("x.gguf", "x.gguf/y")),
        (GGUF, entry("x-mtp.gguf", "x-mtp.gguf", format="gguf")),
        (entry("a", "a/x"), entry("b", "b/x")),
    ],
)
def test_no_entry_names_files_of_another(entries: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    folder_with(tmp_path, *entries)
    with pytest.raises(MimoMobileError, match=r"entries: .* (more than one|twice)"):
        manifest.read(tmp_path)


def test_force_removes_listed_files_and_empty_folders_and_nothing_else(
    tiny: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = ("a/model.onnx", "a/qnn-SM8750/head.1.onnx", "x.gguf", "x-mtp.gguf", "b/model.onnx", "b/c/d/e")
    folder = folder_with(
        tmp_path / "out",
        entry("a", *listed[:2]),
        GGUF,
        entry("b", *listed[4:], recipe="int8"),
        files=(*listed, "a/qnn-SM8750/mine.txt", "notes.txt"),
    )
    with pytest.raises(OutputExistsError, match="another checkpoint"):
        manifest.start(folder, tiny, force=False)
    manifest.start(folder, tiny, force=True)
    assert state(folder) == ["a", "a/qnn-SM8750", "a/qnn-SM8750/mine.txt", "manifest.json", "notes.txt"]
    assert "a/qnn-SM8750: kept, as it holds what no manifest lists: mine.txt" in caplog.text


def test_force_follows_no_link_and_takes_no_folder_for_a_file(tiny: Source, tmp_path: Path) -> None:
    listed = ("a/sub/x", "a/folder", "a/inner")
    folder = folder_with(tmp_path / "out", entry("a", *listed), files=("other/x", "a/folder/mine.txt", "mine.txt"))
    (folder / "a/sub").symlink_to("../other")
    (folder / "a/inner").symlink_to("../mine.txt")
    manifest.start(folder, tiny, force=True)
    assert state(folder) == [
        "a", "a/folder", "a/folder/mine.txt", "a/sub", "manifest.json", "mine.txt", "other", "other/x"
    ]  # fmt: skip


def as_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("x")


@pytest.mark.parametrize("make", [as_folder, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_force_replaces_nothing_under_the_manifests_name_but_a_file(
    make: Callable[[Path], None], tiny: Source, tmp_path: Path
) -> None:
    make(tmp_path / "manifest.json")
    for force in (False, True):
        with pytest.raises(MimoMobileError, match=r"manifest\.json: cannot be read: .* found, a file expected"):
            manifest.start(tmp_path, tiny, force=force)
    assert os.path.lexists(tmp_path / "manifest.json") and not (tmp_path / "manifest.json").is_file()


@pytest.mark.parametrize("recipe", ["q4_0", "int4_b32"])
@pytest.mark.parametrize("force", [False, True])
def test_an_output_with_something_else_in_it_is_not_replaced(
    recipe: str, force: bool, tiny: Source, tmp_path: Path
) -> None:
    quantize_checkpoint(tiny, tmp_path, [recipe], problems=0)
    (name,) = (each.path for each in manifest.read(tmp_path).entries)  # type: ignore[union-attr]
    if recipe == "q4_0":
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name / "model.onnx").unlink()
    (tmp_path / name / "mine.txt").write_text("x")
    with pytest.raises(OutputExistsError, match=r"a folder found that (is not empty|mimo did not write)"):
        quantize_checkpoint(tiny, tmp_path, [recipe], force=force, problems=0)
    assert (tmp_path / name / "mine.txt").is_file()
    shutil.rmtree(tmp_path / name) if recipe == "q4_0" else (tmp_path / name / "mine.txt").unlink()
    quantize_checkpoint(tiny, tmp_path, [recipe], force=force, problems=0)
    assert inspection.verify(tmp_path) > 1


def test_a_recipe_that_lay_elsewhere_gives_way_without_harm(tiny: Source, tmp_path: Path, precious: Path) -> None:
    out = tmp_path / "out"
    quantize_checkpoint(tiny, out, ["q8_0", "q4_0"], problems=0)
    data = json.loads((out / "manifest.json").read_text())
    by_recipe = {each["recipe"]: each for each in data["entries"]}
    # Another file says that it is q4_0's, and q8_0 says that it is where q4_0 goes.
    by_recipe["q4_0"] |= {"path": "foreign.gguf", "parts": [{"path": "foreign.gguf", "size_bytes": 1, "sha256": SHA}]}
    (out / "foreign.gguf").write_text("x")
    target = [{"path": "tiny-q4_0.gguf", "size_bytes": 1, "sha256": SHA}]
    by_recipe["q8_0"] |= {"path": "tiny-q4_0.gguf", "parts": target}
    (out / "manifest.json").write_text(json.dumps(data))
    made = quantize_checkpoint(tiny, out, ["q4_0"], problems=0)
    assert [each.path for each in made.entries] == ["tiny-q4_0.gguf"] and made == manifest.read(out)
    assert inspection.verify(out) == 2 and not (out / "foreign.gguf").exists() and precious.exists()


def test_verifying_reads_no_more_than_the_manifest_says(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, GGUF, files=("x.gguf", "x-mtp.gguf"))
    assert inspection.verify(folder) == 2
    with (folder / "x.gguf").open("r+b") as file:
        file.truncate(1 << 40)  # hashing it would take an hour
    with pytest.raises(MimoMobileError, match=r"x\.gguf: 1099511627776 bytes found, 3 in the manifest"):
        inspection.verify(folder)


def test_many_entries_are_refused_at_once(tmp_path: Path) -> None:
    folder_with(tmp_path, *(entry(str(number), recipe=str(number)) for number in range(1001)))
    with pytest.raises(MimoMobileError, match="entries: at most 1000 elements expected, 1001 found"):
        manifest.read(tmp_path)


def test_a_folder_in_huggingface_hubs_cache_is_read(nano_q4: dict[str, Path], tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    made = nano_q4["gguf"].parent
    files = [each for each in made.rglob("*") if each.is_file()]
    for number, file in enumerate(files):
        shutil.copy(file, blobs / str(number))
        link = snapshot / file.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert inspection.verify(snapshot) == inspection.verify(made)
    for recipe in ("q4_0", "int4_b32"):
        with load(snapshot, recipe=recipe) as model:
            assert list(model.generate("1 + 2 =", GenerationConfig(max_tokens=1)))
