"""`mimo quantize` that is killed, finds no room or may not write: nothing is left, and one line says why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mimo_mobile import manifest
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import answering, evaluate
from mimo_mobile.quantize.pipeline import quantize_checkpoint

ANSWERING = """if True:
    import multiprocessing, pathlib, sys
    from mimo_mobile.quantize.answering import answer_all
    from mimo_mobile.quantize.evaluate import Problem

    def told(step):
        print(*(each.pid for each in multiprocessing.active_children()), flush=True)

    if __name__ == "__main__":
        problems = [Problem("sum", f"What is {number} + 1?", "1") for number in range(4000)]
        answer_all(pathlib.Path(sys.argv[1]), problems, processes=2, progress=told)
"""


def is_alive(process: int) -> bool:
    """Whether a process runs; one that only waits to be asked for its status does not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    ).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def test_workers_end_with_the_process_that_started_them(tiny_gguf: Path, tmp_path: Path) -> None:
    script = tmp_path / "answering.py"
    script.write_text(ANSWERING)
    command = [sys.executable, str(script), str(tiny_gguf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        workers = [int(each) for each in process.stdout.readline().split()]
        assert workers and all(is_alive(each) for each in workers)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 20
        while any(is_alive(each) for each in workers):
            assert time.monotonic() < until, workers
            time.sleep(0.05)
        assert "Traceback" not in process.stderr.read()


def test_workers_end_at_once_when_their_answers_are_not_wanted_any_more(tiny_gguf: Path) -> None:
    class Unwanted(Exception):
        pass

    def refuse(step: Progress) -> None:
        raise Unwanted

    problems = [evaluate.Problem("sum", f"What is {number} + 1?", "1") for number in range(4000)]
    with pytest.raises(Unwanted):
        answering.answer_all(tiny_gguf, problems, processes=1, progress=refuse)
    children = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    assert "spawn_main" not in children.stdout


def test_what_a_killed_run_left_goes_though_it_is_never_finished(tiny: Source, tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from mimo_mobile.quantize.pipeline import quantize_checkpoint\n"
        "def kill(step):\n"
        "    if step.stage.startswith('write') and step.done: os.kill(os.getpid(), 9)\n"
        "quantize_checkpoint(sys.argv[1], sys.argv[2], [sys.argv[3]], progress=kill)\n"
    )
    out, before = tmp_path / "out", set[Path]()
    for recipe in ("q8_0", "int4_b32"):
        command = [sys.executable, "-c", script, str(tiny.path), str(out), recipe]
        assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == -9
        left = set(out.glob(".*.partial"))
        assert len(left) == 1
        assert not left & before, "what the run before left is gone"
        before = left
    quantize_checkpoint(Source(tiny.path, "checkpoint"), out, ["q4_0"])
    found = manifest.read(out)
    assert found and [entry.recipe for entry in found.entries] == ["q4_0"]
    ours = {".lock", "manifest.json", "calibrated-on.json", "importance.imatrix", "report.json", "report.html"}
    assert {path.name for path in out.iterdir()} == ours | {"checkpoint-q4_0.gguf", "checkpoint-q4_0-mtp.gguf"}


LIMITED = """if True:
    import os, resource, sys
    from pathlib import Path
    from mimo_mobile.convert.model import convert_checkpoint
    from mimo_mobile.convert.synthetic import write_synthetic
    from mimo_mobile.errors import MimoMobileError
    from mimo_mobile.quantize.pipeline import quantize_checkpoint

    checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
    works = {
        "gguf": lambda place: convert_checkpoint(checkpoint, place, to="gguf", force=True),
        "onnx": lambda place: convert_checkpoint(checkpoint, place, to="onnx", force=True),
        "quantize": lambda place: quantize_checkpoint(checkpoint, place, ["q8_0", "int4_b32"], force=True),
        "synth": lambda place: write_synthetic(place, layers=1, tokenizer=checkpoint, force=True),
    }
    for name in works.keys() - {"synth"}:
        works[name](out / name)  # all that is imported is there then, for those who may read less
    LIMIT
    for name, work in works.items():
        try:
            work(out / name)
            print(name, "works")
        except (MimoMobileError, OSError) as error:
            print(name, type(error).__name__, str(error).replace(chr(10), " "))
"""


def limited(limit: str, checkpoint: Path, out: Path) -> dict[str, str]:
    """What four kinds of work come to in a process with a limit, after each but the last has worked without."""
    command = [sys.executable, "-c", LIMITED.replace("LIMIT", limit), str(checkpoint), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines}


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_is_named_and_the_earlier_files_stay(tiny: Source, tmp_path: Path) -> None:
    said = limited("resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2)", tiny.path, tmp_path)
    assert said.keys() == {"gguf", "onnx", "quantize", "synth"}
    for name, text in said.items():
        assert text.startswith(f"DiskFullError {tmp_path / name}") and "make room" in text, text
    assert not [path.name for path in tmp_path.rglob("*") if path.name.endswith(".partial")]
    assert not (tmp_path / "synth").exists()
    kept = state(tmp_path)
    assert {"gguf", "gguf-mtp.gguf", "onnx/model.onnx", "quantize/manifest.json"} <= kept.keys()
    found = manifest.read(tmp_path / "quantize")
    assert found and [entry.recipe for entry in found.entries] == ["int4_b32"], "what was to be replaced is struck out"


@pytest.mark.parametrize(
    "limit", ["RLIMIT_NOFILE, (40,) * 2", pytest.param("RLIMIT_AS, (4_000_000_000,) * 2", marks=pytest.mark.slow)]
)
def test_few_open_files_and_little_memory_are_enough(limit: str, tiny: Source, tmp_path: Path) -> None:
    said = limited(f"del works['synth']; resource.setrlimit(resource.{limit})", tiny.path, tmp_path)
    assert said == dict.fromkeys(("gguf", "onnx", "quantize"), "works")


def test_a_folder_that_may_not_be_written_is_named_and_stays(tiny: Source) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own is for nobody else
        folder = Path(place)
        folder.chmod(0o755)
        checkpoint = Path(shutil.copytree(tiny.path, folder / "checkpoint"))
        before = "for path in [out, *out.rglob('*')]: path.chmod(path.stat().st_mode & ~0o222)\n"
        before += "    os.geteuid() or (os.setgroups([]), os.setuid(65534))"
        said = limited(before, checkpoint, folder)
        assert said.keys() == {"gguf", "onnx", "quantize", "synth"}
        assert all(text.startswith("PermissionError") and place in text for text in said.values()), said
        assert not [path.name for path in folder.rglob("*") if path.name.endswith(".partial")]
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
