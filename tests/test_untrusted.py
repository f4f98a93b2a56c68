"""What reads files of others: it waits for nothing, takes bounded memory, and stays inside a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mimo_mobile import untrusted


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    assert untrusted.read_bytes(file, most=3) == b"abc"
    with pytest.raises(OSError, match="more than 2e-06 MB found"):
        untrusted.read_bytes(file, most=2)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(OSError, match=f"{kind} found, a file expected"):
            untrusted.read_bytes(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 100_000, "nested more than 64 deep"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ("[" + "[]," * 2_000_001, "more than 2,000,000 values"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ("NaN", "NaN is no JSON"),
        (r'"\ud800"', "half a surrogate pair"),
        ("9" * 5000, "digits"),
        ('"' + "[" * 100, "Unterminated string"),
    ],
)
def test_json_that_would_do_harm_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        untrusted.parse_json(text)


def test_brackets_in_strings_are_no_depth() -> None:
    assert untrusted.parse_json(f'["{"[" * 100}\\"{"{" * 100}"]') == ["[" * 100 + '"' + "{" * 100]
    assert untrusted.parse_json("[" * 64 + "]" * 64)


def test_a_path_stays_inside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("x")
    (folder / "within").symlink_to("sub")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    assert untrusted.inside(folder, "sub/file").read_text() == "x"
    assert untrusted.inside(folder, "within/file").read_text() == "x"
    assert untrusted.inside(folder, "not/there") == folder / "not/there"
    with pytest.raises(ValueError, match=r"out/x: leads out of"):
        untrusted.inside(folder, "out/x")
    with pytest.raises(ValueError, match="a pipe found"):
        untrusted.inside(folder, "pipe")


def test_files_of_huggingface_hubs_cache_are_beside_each_other_and_nothing_else_is(tmp_path: Path) -> None:
    blobs, snapshot, other = (tmp_path / name for name in ("blobs", "snapshots/1", "other"))
    for folder in (blobs, snapshot / "sub", other):
        folder.mkdir(parents=True)
        (folder / "x").write_text(folder.name)
    for name, to in {"list": "../../blobs/x", "a": "../../blobs/x", "out": "../../other/x", "loop": "loop"}.items():
        (snapshot / name).symlink_to(to)
    (snapshot / "sub" / "b").symlink_to("../../../blobs/x")
    assert untrusted.beside(snapshot / "list", "a").read_text() == "blobs"
    assert untrusted.beside(snapshot / "list", "sub/b").read_text() == "blobs"
    assert untrusted.beside(snapshot / "list", "sub") == snapshot / "sub"
    for name in ("out", "loop", "../../other/x", "../../blobs", "n" * 300, "nul\0"):
        with pytest.raises(ValueError):
            untrusted.beside(snapshot / "list", name)
    with pytest.raises(ValueError, match="a: leads out of"):  # a list that is no link itself
        untrusted.beside(snapshot / "x", "a")


def test_what_steers_a_terminal_is_escaped() -> None:
    assert untrusted.printable("a\x1b]0;x\x07\u202eb\nc") == r"a\x1b]0;x\x07\u202eb\nc"
    assert untrusted.printable("Größe 大小") == "Größe 大小"


def test_a_text_that_ends_too_early_is_no_json_rather_than_nested() -> None:
    for text in ("[" * 60, '{"a": [' * 30 + ", " * 100, "[1, 2" + ", 3" * 100, "[" * 20 + "}" * 90):
        with pytest.raises(ValueError, match=r"Expecting|Extra data"):
            untrusted.parse_json(text)
