"""The cache's folder: ours alone, nothing in it trusted that is not, nothing outside it touched, and none needed."""

from __future__ import annotations

import json
import logging
import os
import pwd
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_mobile import cache, cache_folder, checksums, files
from mimo_mobile.cli import main
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import resolve
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.runtime.decode import pace
from mimo_mobile.runtime.devices import selftest
from mimo_mobile.runtime.onnx import prepacked
from tests import hostile_caches
from tests.commands import runner

GREEDY = GenerationConfig(temperature=0, max_tokens=16)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int4")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32"], problems=0)
    return out / "mimo-nano-int4_b32-onnx"


@pytest.fixture(autouse=True)
def small_models_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "LEAST_BYTES", 0)
    monkeypatch.setattr(pace, "WORTH_KEEPING_S", 0.0)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder that is none of the cache's, with what our own things are called in it."""
    made = tmp_path / "precious"
    for name in ("0123456789abcdef", "mine"):
        (made / name).mkdir(parents=True)
        for file in ("model.onnx", "model.onnx.data", "entry.json", ".lock"):
            (made / name / file).write_text("precious")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def text(model: Path, *, use: bool = True) -> str:
    with load(model, cache=use, speculate="ngram") as session:
        judge(model, use)
        return "".join(token.text for token in session.generate("What is 12 + 30?", GREEDY))


def judge(model: Path, use: bool) -> None:
    """What loading on another provider does with the cache."""
    if use and (place := selftest.place(model, "cpu")) and selftest.recall(place) is None:
        selftest.keep(place, selftest.Verdict(0.01, "", 0.08, selftest.Speed(0.1, 0.2), None))


def hostile(quantized: Path, folder: Path, precious: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    text(quantized)
    shutil.copytree(folder, tmp_path / "made")
    (tmp_path / "copies").mkdir()
    return hostile_caches.cases(tmp_path / "copies", tmp_path / "made", precious)


def survives(name: str, path: Path, quantized: Path, plain: str, precious: Path) -> None:
    """A model loads with a spoilt cache in time, answers rightly, and the cache can be listed and cleared."""
    kept = contents(precious)
    started = time.monotonic()
    assert text(quantized) == plain, name
    for arguments in (["list"], ["list", "--json"], ["clear", "--unused"], ["clear", "--json"], ["list"]):
        result = runner().invoke(main, ["cache", *arguments])
        assert result.exit_code == 0 and (result.exception is None), (name, arguments, result.output)
    assert time.monotonic() - started < 30, name
    assert contents(precious) == kept, name


def test_no_spoilt_cache_changes_a_text_hangs_or_reaches_what_links_lead_to(
    quantized: Path, folder: Path, precious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = text(quantized, use=False), 0
    for number, (name, path) in enumerate(hostile(quantized, folder, precious, tmp_path)):
        if number % 16 == 0:  # the others are for the slow stage
            monkeypatch.setenv("MIMO_CACHE", str(path))
            survives(name, path, quantized, plain, precious)
            seen += 1
    assert seen > 12


@pytest.mark.slow
def test_no_cache_of_all_that_are_spoilt_does_either(
    quantized: Path, folder: Path, precious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = text(quantized, use=False), 0
    for name, path in hostile(quantized, folder, precious, tmp_path):
        monkeypatch.setenv("MIMO_CACHE", str(path))
        survives(name, path, quantized, plain, precious)
        seen += 1
    assert seen > 200, seen


def test_folders_and_files_are_made_for_their_owner_alone(quantized: Path, folder: Path) -> None:
    old = os.umask(0)
    try:
        text(quantized)
    finally:
        os.umask(old)
    made = [folder, *folder.rglob("*")]
    assert len(made) > 10
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == 0o700 if path.is_dir() else mode & 0o022 == 0 or path.name == ".lock", (path, oct(mode))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o1777])
def test_a_chosen_folder_that_others_may_write_to_is_refused_by_name(folder: Path, mode: int, quantized: Path) -> None:
    folder.mkdir()
    folder.chmod(mode)
    expected = rf"MIMO_CACHE is '.*cache': others may write to it \(its mode is {mode:o}\); name a folder of your own"
    for use in (cache_folder.root, cache.entries, cache.clear, lambda: load(quantized)):
        with pytest.raises(BadArgumentError, match=expected):
            use()
    assert list(folder.iterdir()) == []
    result = runner().invoke(main, ["cache", "list"])
    assert (
        result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1 and "others may write" in result.stderr
    )
    assert text(quantized, use=False)


def test_a_chosen_folder_that_belongs_to_another_user_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(
        BadArgumentError, match=rf"cache': it belongs to user {mine}, we are user {mine + 1}; name a fol"
    ):
        cache_folder.root()


@pytest.mark.parametrize("fault", ["owner", "mode", "file", "link to itself", "parent of another user"])
def test_the_default_folder_is_left_out_with_one_line_when_it_is_not_ours_alone(
    fault: str, quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MIMO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    place = tmp_path / "home" / "mimo-mobile"
    place.parent.mkdir()
    if fault == "file":
        place.write_text("mine")
    elif fault == "link to itself":
        place.symlink_to(place)
    elif fault != "parent of another user":
        place.mkdir()
    if fault == "mode":
        place.chmod(0o777)
    plain, mine = text(quantized, use=False), os.geteuid()
    if fault == "owner" and mine == 0:
        os.chown(place, hostile_caches.SOMEBODY, -1)
    elif fault == "parent of another user" and mine == 0:
        os.chown(place.parent, hostile_caches.SOMEBODY, -1)
    elif fault in ("owner", "parent of another user"):
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert text(quantized) == plain
    told = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(told) == 1 and "nothing is kept there (MIMO_CACHE chooses another folder)" in told[0], told
    assert not place.is_dir() or list(place.iterdir()) == []
    assert cache.entries() == [] and cache.clear() == 0


def test_without_a_home_everything_works_without_a_cache(
    quantized: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody(_: int) -> object:
        raise KeyError("uid not found")

    plain = text(quantized, use=False)
    for name in ("MIMO_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    cache_folder.tell.cache_clear()
    assert text(quantized) == plain == text(quantized)
    assert len(caplog.records) == 1 and "nothing that is learnt of this machine is kept" in caplog.text
    for arguments in (["list"], ["list", "--json"], ["clear"], ["clear", "--json"]):
        result = runner().invoke(main, ["cache", *arguments])
        assert result.exit_code == 0, result.output
    assert json.loads(runner().invoke(main, ["cache", "list", "--json"]).output)["folder"] is None


def test_a_relative_folder_of_xdg_is_ignored_as_its_specification_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIMO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative", "./x"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder.root() == tmp_path / ".cache/mimo-mobile"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder.root() == tmp_path / "xdg/mimo-mobile"


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ("here", True), ("a/b/c", True), ("./x/../y", True), ("two\nlines", True), ("\x1b[31m[red]", True),
        ("ümläut \udcff", False), ("file", False), ("file/below", False), ("loop", False), ("x" * 300, False),
        ("dangling", False), ("a link", True), ("", None),
    ],
)  # fmt: skip
def test_whatever_folder_is_chosen_works_or_costs_a_line(
    chosen: str, kept: bool | None, quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "target").mkdir(0o700)
    (tmp_path / "a link").symlink_to("target")
    plain = text(quantized, use=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("MIMO_CACHE", chosen)
    assert text(quantized) == plain == text(quantized)
    made = list(Path(os.path.abspath(chosen or "xdg/mimo-mobile")).rglob("entry.json")) if kept is not False else []
    assert len(made) == (kept is not False)
    messages = {each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING}
    assert all(len(message.splitlines()) == 1 for message in messages)
    assert bool(messages) == (kept is False) and len(messages) <= 4
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "nowhere").exists()
    assert runner().invoke(main, ["cache", "list"]).exit_code == 0


def test_a_current_folder_that_is_gone_costs_a_line(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("MIMO_CACHE", "relative")
    cache_folder.tell.cache_clear()
    assert text(quantized) and "MIMO_CACHE chooses a folder" in caplog.text


FULL = """if True:
    import logging, resource, sys
    from mimo_mobile.runtime import GenerationConfig, load
    from mimo_mobile.runtime.decode import pace
    from mimo_mobile.runtime.onnx import prepacked

    prepacked.LEAST_BYTES, pace.WORTH_KEEPING_S = 0, 0.0
    logging.basicConfig(format="%(message)s")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with load(sys.argv[1], speculate="ngram") as model:
        greedy = GenerationConfig(temperature=0, max_tokens=16)
        print("".join(token.text for token in model.generate("What is 12 + 30?", greedy)), end="")
"""


def test_where_no_byte_can_be_written_a_model_loads_without(quantized: Path, folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(quantized)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (0, text(quantized, use=False)), result.stderr
    assert "Traceback" not in result.stderr and 1 <= len(result.stderr.splitlines()) <= 4, result.stderr


def test_clearing_leaves_what_is_not_ours_and_lists_it_as_unknown(
    quantized: Path, folder: Path, precious: Path
) -> None:
    text(quantized)
    (entry,) = [each.path for each in cache.entries() if each.kind == "prepacked"]
    left = {
        folder / "notes.txt", folder / "precious", folder / "costs/mine.json",
        folder / "costs/folder-0123456789abcdef.json",
        folder / "prepacked/mine", entry.parent / "mine", entry.parent / "ffffffffffffffff", entry.with_name("a link"),
    }  # fmt: skip
    for path in left:
        if path.suffix == ".txt" or path.name == "mine.json":
            path.write_text("mine")
        elif "link" in path.name or path.name == "ffffffffffffffff":
            path.symlink_to(precious)
        else:
            shutil.copytree(precious, path)
    before, others = contents(precious), {path: contents(path) for path in left}
    found = json.loads(runner().invoke(main, ["cache", "list", "--json"]).output)["entries"]
    assert {Path(each["path"]) for each in found if each["kind"] == "unknown"} == left
    result = json.loads(runner().invoke(main, ["cache", "clear", "--json"]).output)
    assert result == {"folder": str(folder), "freed_bytes": result["freed_bytes"]} and result["freed_bytes"] > 1e6
    assert contents(precious) == before and {path: contents(path) for path in left} == others
    assert {each.path for each in cache.entries()} == left


def test_clearing_removes_all_that_is_ours_also_locks_and_what_killed_processes_left(
    quantized: Path, folder: Path
) -> None:
    text(quantized)
    (entry,) = [each.path for each in cache.entries() if each.kind == "prepacked"]
    for name in (".0123456789abcdef.7.partial", ".0123456789abcdef.7.old.partial"):
        shutil.copytree(entry, entry.with_name(name))
    (folder / "costs" / ".x-0123456789abcdef.json.7.partial").write_text("half")
    (folder / "qnn-affinity.json").write_text("{}")  # an earlier version's
    kinds = [each.kind for each in cache.entries()]
    assert kinds.count("unfinished") == 3 and "unknown" not in kinds
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert sum(each.size_bytes for each in cache.entries()) == total == cache.clear()
    assert {path.name for path in folder.rglob("*")} == {"prepacked", "costs", "selftest", "checksums"}


def test_what_cannot_be_removed_is_told_and_not_counted(
    quantized: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    text(quantized)
    before = cache.entries()
    monkeypatch.setattr(Path, "unlink", refuse)
    assert cache.clear() == 0 and cache.entries() == before
    assert caplog.text.count("cannot be removed: Read-only file system") == len(before)


def test_an_entry_with_something_of_others_in_it_stays_with_that_alone(
    quantized: Path, folder: Path, precious: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = text(quantized)
    (entry,) = [each.path for each in cache.entries() if each.kind == "prepacked"]
    shutil.copytree(precious, entry / "mine")
    assert text(quantized) == plain  # it is used: what is ours in it is whole
    cache.clear()
    assert [path.name for path in entry.iterdir()] == ["mine"] and "cannot be removed" in caplog.text
    assert text(quantized) == plain and "holds what is not ours; remove it" in caplog.text
    assert contents(entry / "mine").keys() == {
        str(entry / "mine" / Path(name).relative_to(precious)) for name in contents(precious)
    }


def test_a_cache_is_listed_while_others_write_and_remove(quantized: Path, folder: Path) -> None:
    text(quantized)
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in range(20):
                cache_folder.keep(folder / "costs" / f"model-{number:016x}.json", "{}")
            for path in (folder / "costs").iterdir():
                path.unlink(missing_ok=True)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(100):
            assert cache.entries()
        for _ in range(20):
            cache.clear(unused_only=True)
    finally:
        over.set()
        thread.join()


def test_a_file_that_is_read_just_after_a_change_is_not_mixed_up_with_the_next_change(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(1_500_000))
    for number in range(40):
        with path.open("r+b") as handle:
            handle.write(bytes([number]))
        assert checksums.sha256(path) == files.sha256(path)


def test_what_cannot_be_kept_is_read_once_in_a_process(folder: Path, tmp_path: Path) -> None:
    folder.write_text("no folder")
    path, read = tmp_path / "large", list[object]()
    path.write_bytes(bytes(1_500_000))
    assert checksums.sha256(path, read.append) == checksums.sha256(path, read.append) == files.sha256(path)
    assert len({id(each) for each in read}) == len(read) == 1
