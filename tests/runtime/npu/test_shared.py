"""One copy of the weights for all windows of a piece: read back with QNN's System library, as no simulator loads it.

That the same graphs answer as the CPU is shown by test_npu.py, where each window has a copy.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from mimo_mobile import onnxruntime_library
from mimo_mobile.cli import main
from mimo_mobile.convert.npu import context_binary
from mimo_mobile.convert.npu.context_binary import Tensor
from mimo_mobile.convert.npu.file import compile_for_npu, is_compiled
from mimo_mobile.convert.npu.pieces import WINDOWS
from mimo_mobile.errors import BackendUnavailableError, DiskFullError
from mimo_mobile.layout import read_npu_settings
from mimo_mobile.providers import QnnOptions
from mimo_mobile.runtime import load
from mimo_mobile.runtime.npu.model import NpuModel, Piece
from mimo_mobile.runtime.onnx.kv_cache import KvCache
from mimo_mobile.socs import SOCS
from tests.commands import runner
from tests.runtime.npu.answers import CONTEXT, expected, ids_of

pytestmark = pytest.mark.needs("onnxruntime_qnn")

SM8750 = SOCS["SM8750"]
PIECES = {"layers-0": (64, 2, 1), "head": (2, 1), "mtp": (64, 2, 1)}


@pytest.fixture(scope="session")
def shared(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX folder whose windows share weights, beside the data of ``model``, which has a copy for each window."""
    folder = tmp_path_factory.mktemp("shared") / "model"
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file():
            (folder / file.name).hardlink_to(file)
    compile_for_npu(folder, SM8750, context_length=CONTEXT, shared=True)
    return folder


def said_by_onnx(model: Path) -> tuple[str, str, dict[str, Tensor], dict[str, Tensor]]:
    """Name, binary, inputs and outputs of a compiled graph, as the onnx package reads them."""
    graph = onnx.load(model).graph
    (node,) = graph.node
    (binary,) = (each.s.decode() for each in node.attribute if each.name == "ep_cache_context")

    def tensors(values: Any) -> dict[str, Tensor]:
        return {
            each.name: Tensor(
                onnx.TensorProto.DataType.Name(each.type.tensor_type.elem_type),
                tuple(size.dim_value for size in each.type.tensor_type.shape.dim),
            )
            for each in values
        }

    return node.name, binary, tensors(graph.input), tensors(graph.output)


def test_a_shared_binary_holds_every_window_and_is_hardly_larger_than_one(model: Path, shared: Path) -> None:
    made, own = shared / "qnn-SM8750", model / "qnn-SM8750"
    assert len(list(made.glob("*.bin"))) == len(PIECES) + 1, "and that of the draft head"
    for piece, windows in PIECES.items():
        file = made / f"{piece}.{windows[0]}_qnn.bin"
        found = context_binary.read(file)
        assert found.soc_model == SM8750.model
        assert 0.9 * file.stat().st_size < found.blob_bytes <= file.stat().st_size
        assert len(found.graphs) == len(windows)
        for window in windows:
            name, binary, inputs, outputs = said_by_onnx(made / f"{piece}.{window}.onnx")
            assert binary == file.name
            assert (found.graphs[name].inputs, found.graphs[name].outputs) == (inputs, outputs)
            assert said_by_onnx(own / f"{piece}.{window}.onnx")[2:] == (inputs, outputs), "the tensors do not change"
            assert inputs["x"].shape[1] == window
        assert file.stat().st_size <= 1.15 * (own / file.name).stat().st_size


def test_a_pc_refuses_a_shared_binary_instead_of_crashing_in_the_simulator(shared: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"layers-0\.64\.onnx: its windows have one copy .*--no-shared"):
        load(shared, ep="qnn", strict=True)
    with load(shared, ep="auto", speculate="off") as session:
        assert ids_of(session, "What is 12 + 30?") == expected(shared, "What is 12 + 30?"), "the CPU computes"


def test_a_disk_without_room_is_told_before_anything_is_compiled(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(DiskFullError, match=r"qnn-SM8750: 0\.01 GB needed, 0\.00 GB free"):
        compile_for_npu(shared, SM8750, context_length=CONTEXT, force=True, progress=lambda _: pytest.fail("compiled"))


def test_folders_are_told_apart_by_their_copies(model: Path, shared: Path) -> None:
    assert is_compiled(model, SM8750, CONTEXT, WINDOWS) and not is_compiled(
        model, SM8750, CONTEXT, WINDOWS, shared=True
    )
    assert is_compiled(shared, SM8750, CONTEXT, WINDOWS, shared=True) and not is_compiled(
        shared, SM8750, CONTEXT, WINDOWS
    )
    sizes = {each.name: each.size_bytes for each in read_npu_settings(shared / "qnn-SM8750").graphs}
    on_disk = sum(file.stat().st_size for file in (shared / "qnn-SM8750").iterdir() if file.suffix in (".onnx", ".bin"))
    assert sum(sizes.values()) == on_disk, "a shared binary counts once"


def test_sessions_of_one_binary_are_made_first_window_first_and_closed_last(shared: Path) -> None:
    """On an NPU, which is not here: ORT is told to share, for these sessions and no others."""
    ort, opened = onnxruntime_library.load(), list[tuple[str, bool]]()

    def session(path: str, options: Any) -> str:
        try:
            told = options.get_session_config_entry("ep.share_ep_contexts") == "1"
        except RuntimeError:  # no such entry
            told = False
        opened.append((Path(path).name, told))
        return Path(path).stem

    model = object.__new__(NpuModel)
    npu = SimpleNamespace(ep_name="QNNExecutionProvider", device=SimpleNamespace(type=SimpleNamespace(name="NPU")))
    model._ort = SimpleNamespace(
        SessionOptions=ort.SessionOptions,
        InferenceSession=session,
        get_ep_devices=lambda: [npu],
        get_available_providers=list,
    )
    model._folder, model._options = shared / "qnn-SM8750", QnnOptions()
    model.settings = read_npu_settings(model._folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimo_mobile.providers.attach", lambda *_, **__: None)
        assert list(model._sessions("layers-0", [64, 2, 1])) == [64, 2, 1]
        model._sessions("draft_head", [1])
    assert opened == [
        ("layers-0.64.onnx", True), ("layers-0.2.onnx", True), ("layers-0.1.onnx", True), ("draft_head.1.onnx", False),
    ]  # fmt: skip


def test_the_session_that_loaded_a_binary_is_freed_last() -> None:
    freed = []

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

        def io_binding(self) -> None: ...

        def get_inputs(self) -> list[Any]:
            return []

        get_outputs = get_inputs

        def __del__(self) -> None:
            freed.append(self.name)

    piece = Piece({each: Session(str(each)) for each in (64, 2, 1)}, KvCache(None, {}), {})
    piece.close()
    assert freed == ["1", "2", "64"]


@pytest.mark.slow
def test_a_group_that_failed_half_way_is_no_part_of_the_next_binary(model: Path, tmp_path: Path) -> None:
    """QNN would add the next graphs to what it has; in a process of its own, as it keeps that to its end."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from mimo_mobile import onnxruntime_library, providers
        from mimo_mobile.convert.npu.compiler import Compiler
        from mimo_mobile.convert.npu.file import graphs_of, parts_of
        from mimo_mobile.convert.npu.pieces import Cut
        from mimo_mobile.convert.written_weights import WrittenWeights
        from mimo_mobile.socs import SOCS

        folder, out = map(Path, sys.argv[1:])
        ort = onnxruntime_library.load()
        providers.register(ort, providers.PROVIDERS["qnn"])
        weights, cut = WrittenWeights(folder), Cut(512)
        graphs = graphs_of(weights, cut, parts_of(weights, cut))
        compiler = Compiler(ort, folder, out, SOCS["SM8750"], quantized=False)
        next(iter(compiler.compiled({name: graphs[name] for name in ("head.2", "head.1")})))
        list(compiler.compiled({name: graphs[name] for name in ("mtp.2", "mtp.1")}))
    """)
    done = subprocess.run([sys.executable, "-c", script, model, tmp_path], capture_output=True, text=True, timeout=120)
    assert "QNN compiled 3 graphs, of which 2 were asked for with these inputs and outputs: mtp.2, mtp.1" in done.stderr


def test_what_is_no_binary_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"no context binary" * 100)
    with pytest.raises(BackendUnavailableError, match=r"x\.bin: QNN cannot read what it compiled: error 0x"):
        context_binary.read(tmp_path / "x.bin")


def test_quantize_tells_the_plan_first_and_compiles_what_fits_the_phone(tmp_path: Path) -> None:
    options = ["--problems", "0", "--no-answer", "--effort", "none", "--target", "qnn", "--soc", "SM8750"]
    done = runner().invoke(main, ["quantize", "nano", "--out", str(tmp_path), "--device", "phone-8gb", *options])
    assert done.exit_code == 0, done.output
    before = done.stderr.partition("chosen for the NPU of phone-8gb: int8 in 4 pieces, windows of 64, 2, 1 tokens")[0]
    assert "NPU plan for int4_b32" in before and "compile for SM8750" not in before
    (folder,) = tmp_path.glob("mimo-nano/*-onnx")
    assert is_compiled(folder, SM8750, read_npu_settings(folder / "qnn-SM8750").context_length, WINDOWS, shared=True)
