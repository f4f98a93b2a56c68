"""Compiling that was killed goes on with the next piece; what another work left is not taken."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mimo_mobile import files
from mimo_mobile.convert.npu.compiler import Compiled
from mimo_mobile.convert.npu.file import compile_for_npu
from mimo_mobile.convert.npu.kept_pieces import KeptPieces
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import OutputExistsError
from mimo_mobile.layout import ONNX_FOLDER
from mimo_mobile.progress import Progress
from mimo_mobile.socs import SOCS
from tests.runtime.npu.answers import CONTEXT

pytestmark = pytest.mark.needs("onnxruntime_qnn")

KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from mimo_mobile.convert.npu.file import compile_for_npu
    from mimo_mobile.socs import SOCS

    def progress(step):
        if step.name == "mtp.64":  # the first of three windows that become one binary
            os.kill(os.getpid(), signal.SIGKILL)

    compile_for_npu(Path(sys.argv[1]), SOCS["SM8750"], context_length=int(sys.argv[2]), shared=True, progress=progress)
""")


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_piece_that_is_not_finished(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("qnn-*"))
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, str(CONTEXT)], capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    kept = folder / ".qnn-SM8750.pieces"
    assert {path.name for path in kept.glob("*.bin")} == {"layers-0.64_qnn.bin", "head.2_qnn.bin"}
    assert not (folder / "qnn-SM8750").exists() and not ONNX_FOLDER.stranger(folder), "it may be replaced all the same"
    before = {path.name: path.stat().st_ino for path in kept.glob("*.bin")}

    steps: list[Progress] = []
    out, made = compile_for_npu(folder, SOCS["SM8750"], context_length=CONTEXT, shared=True, progress=steps.append)
    assert {name: (out / name).stat().st_ino for name in before} == before, "the files that were there"
    assert [each.name for each in made][-4:] == ["mtp.64", "mtp.2", "mtp.1", "draft_head.1"]
    assert {path.name for path in out.glob("*.bin")} == {*before, "mtp.64_qnn.bin", "draft_head.1_qnn.bin"}
    assert not list(folder.glob(".*"))
    # The time left is told by the weights that this run compiles: what it found tells nothing of its speed.
    assert [each.name for each in steps] == ["", "mtp.64", "mtp.2", "mtp.1", "draft_head.1"]
    assert 0 < steps[0].done and [each.total == steps[-1].done for each in steps] == [True] * 5
    written = WrittenWeights(folder)
    assert [each.done - steps[0].done for each in steps[1:4]] == [
        written.nbytes("model.mtp_layers.") * n for n in (1, 2, 3)
    ]


def finished(folder: Path, name: str = "head.2") -> list[Compiled]:
    (folder / f"{name}.onnx").write_bytes(b"graph")
    (folder / f"{name}_qnn.bin").write_bytes(b"binary")
    return [Compiled(name, 1.5, 11, 100)]


def test_only_whole_binaries_of_the_same_work_are_taken(tmp_path: Path) -> None:
    out = tmp_path / "qnn-SM8750"

    def killed(*work: object) -> None:
        with pytest.raises(KeyboardInterrupt), KeptPieces.beside(out, *work) as kept:
            kept.keep(finished(kept.folder))
            (kept.folder / "layers-0.64.onnx").write_bytes(b"not finished")
            raise KeyboardInterrupt

    killed("SM8750", 4096)
    with KeptPieces.beside(out, "SM8750", 4096) as kept:
        assert kept.of(["head.2"]) == [Compiled("head.2", 1.5, 11, 100)]
        assert not kept.of(["head.2", "head.1"]) and not kept.of(["layers-0.64"])
        assert not (kept.folder / "layers-0.64.onnx").exists()
    assert not list(tmp_path.iterdir()), "a run that ends well leaves nothing"

    killed("SM8750", 4096)
    with KeptPieces.beside(out, "SM8750", 2048) as kept:
        assert not kept.of(["head.2"]), "another context"
        assert {path.name for path in kept.folder.iterdir()} == {files.LOCK}

    killed("SM8750", 4096)
    (tmp_path / ".qnn-SM8750.pieces/head.2_qnn.bin").write_bytes(b"cut")
    with KeptPieces.beside(out, "SM8750", 4096) as kept:
        assert not kept.of(["head.2"]), "a binary of another size"


@pytest.mark.parametrize("record", [b"{", b"[]", b'{"key": 1}', b'{"key": "0", "graphs": []}'])
def test_a_damaged_record_is_as_good_as_none(record: bytes, tmp_path: Path) -> None:
    folder = tmp_path / ".qnn-SM8750.pieces"
    folder.mkdir()
    (folder / "head.2.json").write_bytes(record)
    with KeptPieces.beside(tmp_path / "qnn-SM8750") as kept:
        assert not kept.of(["head.2"]) and not (folder / "head.2.json").exists()


def test_two_processes_do_not_compile_the_same(tmp_path: Path) -> None:
    with KeptPieces.beside(tmp_path / "qnn-SM8750") as kept:
        kept.keep(finished(kept.folder))
        with pytest.raises(OutputExistsError, match="another mimo process"), KeptPieces.beside(tmp_path / "qnn-SM8750"):
            pass
        assert (kept.folder / "head.2_qnn.bin").exists()
