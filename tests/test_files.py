"""Outputs are whole or absent."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_mobile import files
from mimo_mobile.convert.model import Target, convert_checkpoint
from mimo_mobile.errors import DiskFullError, OutputExistsError
from mimo_mobile.files import FolderKind
from mimo_mobile.hub import Source

KIND = FolderKind(("a", "b", "part-*/*.bin"), mark="a", text=b"earlier")


def test_an_output_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "new" / "file"
    with files.whole(final, force=False) as temporary:
        temporary.write_text("half")
        assert not final.exists() and temporary.parent.parent == final.parent
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
    with pytest.raises(RuntimeError), files.whole(final, force=True, kind=KIND) as temporary:
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


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """What is no file and no folder, and links to such."""
    os.mkfifo(tmp_path / "pipe")
    bound = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # the path of a socket must be short
    bound.bind("socket")
    os.chdir(here)
    made = {name: tmp_path / name for name in ("pipe", "socket", "link to a pipe", "link to a device")}
    made["link to a pipe"].symlink_to("pipe")
    made["link to a device"].symlink_to("/dev/null")
    made["/dev/null"] = Path("/dev/null")
    yield made
    bound.close()


def test_no_pipe_socket_or_device_is_ever_replaced(special: dict[str, Path]) -> None:
    for path in special.values():
        before = path.lstat()
        with pytest.raises(OutputExistsError, match="which is never replaced"), files.whole(path, force=True):
            pytest.fail("begun")
        assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    for name in ("/dev/stdout", "/dev/fd/1", "/dev/new", "/proc/self/new", "/sys/new"):
        with (
            pytest.raises(OutputExistsError, match=r"never replaced|system's devices"),
            files.whole(Path(name), force=True),
        ):
            pytest.fail("begun")
    with pytest.raises(OutputExistsError, match="which is never replaced"):
        convert_checkpoint("nano", special["pipe"], to="gguf", force=True)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"letter.txt": "precious"}, "a folder found that mimo did not write"),
        ({"a": "another's"}, "a folder found that mimo did not write"),
        ({"a": "earlier", "letter.txt": "precious"}, "it holds 'letter.txt', which mimo did not write"),
        ({"a": "earlier", "part-1/letter.txt": "precious"}, "it holds 'part-1/letter.txt'"),
        ({"a": "earlier", "part-1/x.bin/deep": "precious"}, "it holds 'part-1/x.bin'"),
        ({"a": "earlier", "b/x.bin": "precious"}, "it holds 'b'"),
    ],
)
def test_a_folder_that_holds_anything_of_others_stays(held: dict[str, str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, text in held.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    for kind in (None, KIND):
        with pytest.raises(OutputExistsError, match=message if kind else "is not empty"):
            with files.whole(out, force=True, kind=kind):
                pytest.fail("begun")
    assert {name: (out / name).read_text() for name in held} == held


def test_a_folder_of_ours_or_an_empty_one_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for old in ({}, {"a": "earlier", "b": "", "part-1/x.bin": ""}):
        for name, text in old.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)
        out.mkdir(exist_ok=True)
        with files.whole(out, force=True, kind=KIND) as temporary:
            temporary.mkdir()
            (temporary / "b").write_text("new")
        assert [path.name for path in out.iterdir()] == ["b"] and [path.name for path in tmp_path.iterdir()] == ["out"]
        files.remove(out)


def test_a_link_is_replaced_itself(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter").write_text("precious")
    for target in ("precious", "precious/letter", "nowhere"):
        for folder in (False, True):
            link = tmp_path / "link"
            link.symlink_to(target)
            with pytest.raises(OutputExistsError, match="exists"), files.whole(link, force=False):
                pytest.fail("begun")
            with files.whole(link, force=True, kind=KIND) as temporary:
                temporary.mkdir() if folder else temporary.write_text("new")
            assert not link.is_symlink() and link.is_dir() == folder
            files.remove(link)
    assert (tmp_path / "precious" / "letter").read_text() == "precious"


def test_neither_the_current_folder_nor_one_above_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "..", "/", "../here", str(tmp_path)):
        with pytest.raises(OutputExistsError, match="the current folder is in it"):
            with files.whole(Path(name), force=True, kind=KIND):
                pytest.fail("begun")
        with pytest.raises(OutputExistsError, match="exists"), files.whole(Path(name), force=False):
            pytest.fail("begun")
    assert Path.cwd() == tmp_path / "here"


def test_what_a_killed_process_left_goes_at_the_next_start_and_what_is_in_use_stays(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from mimo_mobile import files\n"
        "with files.whole(pathlib.Path(sys.argv[1]), force=False) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    for name in ("out", "other"):
        assert subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False).returncode == -9
    assert len(list(tmp_path.glob(".*.partial"))) == 2
    with files.whole(tmp_path / "out", force=False) as first, files.whole(tmp_path / "out", force=True) as second:
        assert len(list(tmp_path.glob(".out.*.partial"))) == 2, "both in use; the killed one's is gone"
        files.remove_partials(tmp_path)
        assert not list(tmp_path.glob(".other.*")), "any that nobody holds goes from a folder of ours"
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "out").read_text() == "first" and [path.name for path in tmp_path.iterdir()] == ["out"]


def bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a socket, whose name must be short."""
    monkeypatch.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder", "socket"])
def test_a_lock_that_is_something_else_is_neither_emptied_nor_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, target = tmp_path / "out/.lock", tmp_path / "target"
    lock.parent.mkdir()
    target.write_text("precious")
    spoil = {
        "link": lambda: lock.symlink_to(target),
        "link to nothing": lambda: lock.symlink_to(tmp_path / "nothing"),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
        "socket": lambda: bound(lock, monkeypatch),
    }
    spoil[kind]()
    told = rf"\.lock: a {kind.split()[0]} found, our lock expected; remove it"
    with pytest.raises(OutputExistsError, match=told), files.locked(lock.parent):
        pass
    assert target.read_text() == "precious" and not (tmp_path / "nothing").exists()


def test_a_lock_that_its_holder_removed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, opened = tmp_path / ".lock", list[int]()
    make = files._lock_file

    def removed_at_first(path: Path) -> int:
        opened.append(make(path))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(files, "_lock_file", removed_at_first)
    with files.locked(tmp_path):
        assert len(opened) == 2 and lock.exists()
        with pytest.raises(OutputExistsError, match="another mimo process"), files.locked(tmp_path):
            pass
