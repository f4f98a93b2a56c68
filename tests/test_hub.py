"""Hub ids through a local stand-in of the hub, by the command a user types, each in a fresh cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from mimo_mobile import hub
from mimo_mobile.errors import CheckpointError
from mimo_mobile.hub import Source, resolve
from tests.hub_standin import COMMIT, REPOSITORY, Hub, serving
from tests.tiny import write_tiny_checkpoint


@pytest.fixture
def standin(tiny: Source, tmp_path: Path) -> Iterator[Hub]:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "served"))
    (folder / "modeling_mimo.py").write_text("raise SystemExit('code of a checkpoint was run')")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with serving(folder) as server:
        yield server


def command(standin: Hub | str, cache: Path, model: str = REPOSITORY) -> tuple[list[str], dict[str, str]]:
    endpoint = standin if isinstance(standin, str) else standin.endpoint
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    return [
        sys.executable,
        "-m",
        "mimo_mobile.cli",
        "convert",
        model,
        str(cache / "out.gguf"),
        "--to",
        "gguf",
    ], environment


def convert(standin: Hub | str, cache: Path, model: str = REPOSITORY) -> subprocess.CompletedProcess[str]:
    arguments, environment = command(standin, cache, model)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "Traceback" not in result.stderr
    return last


def test_a_hub_id_is_downloaded_checked_and_converted(standin: Hub, tmp_path: Path) -> None:
    import gguf

    result = convert(standin, tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    fields = gguf.GGUFReader(tmp_path / "cache" / "out.gguf").fields
    assert fields["general.source.url"].contents() == f"https://huggingface.co/{REPOSITORY}/tree/{COMMIT}"
    assert standin.sent["model-00001-of-00002.safetensors"] > 0
    assert not standin.sent["modeling_mimo.py"] and not standin.sent["pytorch_model.bin"]


def test_a_complete_download_works_without_a_network(standin: Hub, tmp_path: Path) -> None:
    assert convert(standin, tmp_path / "cache").returncode == 0
    (tmp_path / "cache" / "out.gguf").unlink()
    (tmp_path / "cache" / "out-mtp.gguf").unlink()
    standin.shutdown()
    result = convert("http://127.0.0.1:9", tmp_path / "cache")
    assert result.returncode == 0, result.stderr


def test_what_breaks_below_the_hubs_library_is_one_line_and_the_next_run_goes_on(standin: Hub, tmp_path: Path) -> None:
    standin.reset.add("model-00001-of-00002.safetensors")
    assert f"{REPOSITORY}: download failed (" in error_of(convert(standin, tmp_path / "cache"))
    standin.reset.clear()
    assert convert(standin, tmp_path / "cache").returncode == 0


def test_a_proxy_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    message = error_of(convert("http://hub.invalid", tmp_path / "cache"))
    assert message.startswith(f"Error: {REPOSITORY}: ") and "run again" in message


def test_a_broken_connection_is_resumed_where_it_broke(tmp_path: Path) -> None:
    # Larger than huggingface_hub's pieces of 10 MB, of which only whole ones are kept.
    name = "model-00001-of-00002.safetensors"
    with serving(write_tiny_checkpoint(tmp_path / "served", ffn=6144, dtype="F32")) as server:
        size = (server.folder / name).stat().st_size
        assert size > 20e6
        server.cut_at[name] = 15_000_000
        result = convert(server, tmp_path / "cache")
        if int(version("huggingface_hub").split(".")[0]) < 2 and result.returncode:
            assert "run again, files that arrived are kept" in error_of(result)
            result = convert(server, tmp_path / "cache")
        assert result.returncode == 0, result.stderr
        assert server.ranges[name] == [f"bytes={10 << 20}-"]
        assert server.sent[name] == 15_000_000 + size - (10 << 20)


def test_a_killed_download_leaves_no_output(standin: Hub, tmp_path: Path) -> None:
    arguments, environment = command(standin, tmp_path / "cache")
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not standin.sent and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cache" / "out.gguf").exists()
    assert convert(standin, tmp_path / "cache").returncode == 0


def test_a_damaged_file_is_found_removed_and_fetched_anew(standin: Hub, tmp_path: Path) -> None:
    name = "model-00002-of-00002.safetensors"
    standin.damaged.add(name)
    assert f"{name} differ from the hub's checksums; removed, run again" in error_of(
        convert(standin, tmp_path / "cache")
    )
    assert not (tmp_path / "cache" / "out.gguf").exists()
    standin.damaged.clear()
    assert convert(standin, tmp_path / "cache").returncode == 0


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts the bytes that a process reads")
def test_a_complete_download_is_verified_once_and_again_when_it_changed(tmp_path: Path) -> None:
    code = (
        "import sys; from mimo_mobile.hub import resolve\n"
        "def read(): return int(open('/proc/self/io').readline().split()[1])\n"
        "for _ in range(2):\n    before = read(); source = resolve(sys.argv[1]); print(source.path, read() - before)\n"
    )
    with serving(write_tiny_checkpoint(tmp_path / "served", ffn=6144, dtype="F32")) as server:
        _, environment = command(server, tmp_path / "hub")
        environment["MIMO_CACHE"] = str(tmp_path / "cache")

        def twice() -> subprocess.CompletedProcess[str]:
            run = [sys.executable, "-c", code, REPOSITORY]
            return subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120, check=False)

        first = twice()
        assert first.returncode == 0, first.stderr
        folder, read_bytes = first.stdout.splitlines()[1].split()
        shard = Path(folder, "model-00001-of-00002.safetensors").resolve()
        size = shard.stat().st_size
        assert int(read_bytes) < size / 2
        later = [int(line.split()[1]) for line in twice().stdout.splitlines()]
        assert len(later) == 2 and max(later) < size, "another process, which reads modules too, remembers it as well"
        state, content = shard.stat(), bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert "differ from the hub's checksums; removed, run again" in twice().stderr and not shard.exists()


def test_offline_is_a_clear_error(tmp_path: Path) -> None:
    message = error_of(convert("http://127.0.0.1:9", tmp_path / "cache"))
    assert "http://127.0.0.1:9 cannot be reached" in message and "give a local folder" in message


def test_an_unknown_repository_is_a_clear_error(standin: Hub, tmp_path: Path) -> None:
    message = error_of(convert(standin, tmp_path / "cache", "XiaomiMiMo/MiMo-8B"))
    assert f"XiaomiMiMo/MiMo-8B: not found at {standin.endpoint}" in message


def test_folders_and_nonsense_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(str(tmp_path)) == Source(tmp_path, tmp_path.name)
    assert (resolve("nano").path / "config.json").is_file()
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="a file found, a checkpoint folder"):
        resolve(str(tmp_path / "file"))
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe")
    for special, what in (("a/pipe", "pipe"), ("/dev/zero", "device")):  # the first looks like a hub id
        with pytest.raises(CheckpointError, match=f"a {what} found, a checkpoint folder"):
            resolve(special)
    for wrong in ("no/such/folder", "", "MiMo 7B", "../x"):
        with pytest.raises(CheckpointError, match="no such folder, and no hub id either"):
            resolve(wrong)


def test_neither_code_nor_pickles_are_asked_for() -> None:
    assert not any(pattern.endswith((".py", ".bin", ".pt")) or pattern == "*" for pattern in hub.CHECKPOINT_FILES)
