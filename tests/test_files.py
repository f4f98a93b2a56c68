"""Outputs are whole or absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mimo_mobile import files
from mimo_mobile.convert.model import Target, convert_checkpoint
from mimo_mobile.errors import DiskFullError, OutputExistsError
from mimo_mobile.hub import Source


def test_an_output_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "new" / "file"
    with files.whole(final, force=False) as temporary:
        temporary.write_text("half")
        assert not final.exists() and temporary.parent == final.parent
        temporary.write_text("whole")
    assert final.read_text() == "whole" and [path.name for path in final.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_keeps_the_earlier_output(folder: bool, tmp_path: Path) -> None:
    final = tmp_path / "out"
    if folder:
        final.mkdir()
        (final / "a").write_text("earlier")
    else:
        final.write_text("earlier")
    with pytest.raises(RuntimeError), files.whole(final, force=True) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "a").write_text("new")
        else:
            temporary.write_text("new")
        raise RuntimeError
    assert ((final / "a") if folder else final).read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(OutputExistsError, match=r"out exists; give --force to replace it"),
        files.whole(tmp_path / "out", force=False),
    ):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_file_and_folder_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("file")
    with files.whole(tmp_path / "out", force=True) as temporary:
        temporary.mkdir()
    assert (tmp_path / "out").is_dir()
    files.write_text(tmp_path / "out", "file")
    assert (tmp_path / "out").read_text() == "file"


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(OutputExistsError, match="another mimo process"), files.locked(tmp_path):
        pass
    with files.locked(tmp_path):
        pass


def test_an_output_that_would_not_fit_is_refused_before_it_is_begun(
    tmp_path: Path, tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    targets: tuple[tuple[str, Target], ...] = (("m.gguf", "gguf"), ("m-onnx", "onnx"))
    for name, target in targets:
        with pytest.raises(DiskFullError, match=r"GB needed, 0\.00 GB free"):
            convert_checkpoint(tiny, tmp_path / name, to=target)
    assert not list(tmp_path.iterdir())
