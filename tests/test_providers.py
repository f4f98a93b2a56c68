"""Execution providers: what is here, what was asked for, and that nothing lands on the CPU unsaid."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.tape import Tape

from mimo_mobile import providers
from mimo_mobile.errors import BackendUnavailableError, MissingDependencyError
from mimo_mobile.providers import (
    PROVIDERS,
    CoreMlOptions,
    CpuOptions,
    QnnOptions,
    WebGpuOptions,
    XnnpackOptions,
)
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.runtime.devices.placement import joined, placement


def test_names_are_onnx_runtimes() -> None:
    known = {*ort.get_all_providers(), "WebGpuExecutionProvider"}
    assert {each.ort_name for each in PROVIDERS.values()} <= known


def test_options_are_typed() -> None:
    found = providers.parse_options("qnn", ["vtcm_mb=8", "htp_performance_mode=balanced", "soc=SM8650"])
    assert found == QnnOptions(vtcm_mb=8, htp_performance_mode="balanced", soc="SM8650")
    assert providers.parse_options("xnnpack", ["intra_op_num_threads=4"]) == XnnpackOptions(intra_op_num_threads=4)
    assert providers.parse_options("auto", ["soc=SM8650"]) == QnnOptions(soc="SM8650")
    for pairs, message in (
        (["vtcm=8"], "qnn has no option 'vtcm'; it has soc, activations, htp_performance_mode"),
        (["vtcm_mb=much"], "vtcm_mb 'much'; a whole number expected"),
        (["htp_performance_mode=fast"], "burst, balanced"),
    ):
        with pytest.raises(ValueError, match=message):
            providers.parse_options("qnn", pairs)
    with pytest.raises(ValueError, match="cpu has no option 'x'; it has none"):
        providers.parse_options("cpu", ["x=1"])


def test_what_is_here_has_devices_and_what_is_not_says_why() -> None:
    found = providers.discover(ort)
    assert list(found) == list(PROVIDERS)
    cpu = found["cpu"]
    assert not isinstance(cpu, str) and cpu[0].kind == "CPU" and ort.__version__ in cpu[0].version
    assert "not in this build of ONNX Runtime" in str(found["nnapi"])


def test_the_cpu_has_all_of_a_model(nano_onnx: Path) -> None:
    with load(nano_onnx, speculate="off") as session:
        placed = session.placement
    assert placed is not None and placed.whole and placed.asked == "cpu"
    (share,) = placed.shares
    assert share.weight_share == 1 and share.operators["GroupQueryAttention"] == 4
    assert str(placed) == f"cpu {share.nodes} nodes, 100% of the weights"


def test_the_mtp_layer_is_placed_too(nano_onnx: Path) -> None:
    with load(nano_onnx, speculate="off") as trunk, load(nano_onnx, speculate="mtp") as both:
        assert trunk.placement is not None and both.placement is not None
        (alone,), (together,) = trunk.placement.shares, both.placement.shares
    assert together.operators["GroupQueryAttention"] == alone.operators["GroupQueryAttention"] + 1


def test_options_are_for_their_own_provider(nano_onnx: Path) -> None:
    with pytest.raises(ValueError, match="ep cpu takes CpuOptions, not QnnOptions"):
        load(nano_onnx, ep="cpu", ep_options=QnnOptions())
    with pytest.raises(ValueError, match="ep auto takes CpuOptions or QnnOptions"):
        load(nano_onnx, ep_options=XnnpackOptions())


@pytest.mark.needs("onnxruntime_qnn")
def test_options_reach_providers_as_they_spell_them() -> None:
    """Names from https://onnxruntime.ai/docs/execution-providers/ and the plug-ins' own strings."""
    for name, options, expected in (
        ("webgpu", WebGpuOptions(validation_mode="full"), {"validationMode": "full"}),
        ("coreml", CoreMlOptions(ml_compute_units="CPUOnly"), {"MLComputeUnits": "CPUOnly"}),
        ("xnnpack", XnnpackOptions(intra_op_num_threads=4), {"intra_op_num_threads": "4"}),
        ("cpu", CpuOptions(), {}),
    ):
        assert providers._settings(PROVIDERS[name], options) == expected
    found = providers._settings(PROVIDERS["qnn"], QnnOptions(vtcm_mb=8, soc="SM8650", activations="uint16"))
    assert set(found) == {"vtcm_mb", "backend_path", "op_affinity", "htp_performance_mode"}
    assert json.loads(Path(found["op_affinity"]).read_text()) == {"op_type": {"GroupQueryAttention": "htp"}}
    assert Path(found["backend_path"]).is_file()


@pytest.mark.parametrize("ep", ["nnapi", "xnnpack", *(["coreml"] if sys.platform != "darwin" else [])])
def test_a_provider_that_is_not_in_the_build_is_an_error(nano_onnx: Path, ep: str) -> None:
    with pytest.raises(BackendUnavailableError, match=rf"--ep {ep}: not in this build of ONNX Runtime; here are cpu"):
        load(nano_onnx, ep=ep)  # type: ignore[arg-type]


def test_a_plug_in_that_is_missing_or_broken_is_an_error(nano_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = providers.Provider("qnn", "OtherExecutionProvider", QnnOptions, "not_there_at_all", "qnn")
    with pytest.raises(MissingDependencyError, match=r"not-there-at-all is not installed.*mimo-mobile\[qnn\]"):
        providers.register(ort, provider)
    broken = providers.Provider("qnn", "OtherExecutionProvider", QnnOptions, "json", "qnn")
    with pytest.raises(BackendUnavailableError, match="qnn: its plug-in cannot be loaded"):
        providers.register(ort, broken)


def test_gguf_has_no_providers(nano_gguf: Path) -> None:
    for options in ({"ep": "qnn"}, {"strict": True}, {"ep_options": CpuOptions()}):
        with pytest.raises(BackendUnavailableError, match="--strict are ONNX Runtime's"):
            load(nano_gguf, **options)
    with load(nano_gguf, ep="cpu") as session:
        assert session.placement is None
        assert len(list(session.generate("1 + 1", GenerationConfig(max_tokens=3, temperature=0)))) > 1


def partly_refused(path: Path) -> None:
    """A graph of which QNN takes the MatMul and leaves the fused norm."""
    tape, size = Tape(), 64
    random = np.random.Generator(np.random.PCG64(0))

    def weight(name: str, *shape: int) -> ir.Value:
        values = random.standard_normal(shape, dtype=np.float32) / 8
        tensor = ir.tensor(values, name=name)
        return tape.initializer(tensor)

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 4, size]))
    y = tape.op("MatMul", [x, weight("w", size, size)])
    z = tape.op(
        "SkipSimplifiedLayerNormalization", [y, x, weight("n", size)], {"epsilon": 1e-5}, domain="com.microsoft"
    )
    z.name, z.type, z.shape = "z", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 4, size])
    for number, node in enumerate(tape.nodes):
        node.name = f"node_{number}"
    graph = ir.Graph(
        [x], [z], nodes=tape.nodes, initializers=tape.initializers,
        opset_imports={"": 21, "com.microsoft": 1}, name="partly",
    )  # fmt: skip
    ir.save(ir.Model(graph, ir_version=10), path, external_data="model.onnx.data", size_threshold_bytes=0)


def options_for_qnn(**entries: str) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for key, value in {providers.RECORD: "1", **entries}.items():
        options.add_session_config_entry(key, value)
    providers.attach(ort, options, "qnn", QnnOptions(), soc_model="69")
    return options


@pytest.mark.needs("onnxruntime_qnn")
def test_what_falls_back_to_the_cpu_is_told_with_its_weights(tmp_path: Path) -> None:
    partly_refused(tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), options_for_qnn())
    placed = placement({tmp_path / "model.onnx": session}, "qnn")
    assert not placed.whole
    weights = {share.provider: share.weight_share for share in placed.shares}
    assert weights == {"qnn": pytest.approx(64 / 65), "cpu": pytest.approx(1 / 65)}
    assert placed.reasons == {"SkipSimplifiedLayerNormalization": "refused by qnn, or between operators that are"}
    assert "cpu 1 nodes, 2% of the weights" in str(placed)


@pytest.mark.needs("onnxruntime_qnn")
def test_onnx_runtime_itself_refuses_a_fallback_that_is_not_allowed(tmp_path: Path) -> None:
    """What our compiled pieces rely on."""
    partly_refused(tmp_path / "model.onnx")
    with pytest.raises(Exception, match="fallback"):
        ort.InferenceSession(str(tmp_path / "model.onnx"), options_for_qnn(**{providers.NO_FALLBACK: "1"}))


def test_known_gaps_of_a_provider_are_the_reason_given() -> None:
    nodes = {
        "nnapi": [SimpleNamespace(name="a", op_type="MatMul")],
        "cpu": [SimpleNamespace(name="b", op_type="MatMulNBits"), SimpleNamespace(name="c", op_type="Concat")],
    }
    placed = joined("nnapi", nodes, {"a": 1, "b": 99})
    assert placed.shares[0].provider == "cpu" and placed.shares[0].weight_share == 0.99
    assert "nnapi has no kernel for it (https://" in placed.reasons["MatMulNBits"]
    assert placed.reasons["Concat"] == "refused by nnapi, or between operators that are"


class BuiltIn:
    """An onnxruntime that was built with QNN and WebGPU: no package of a plug-in is installed."""

    __version__ = "1.99"

    class SessionOptions:
        def __init__(self) -> None:
            self.added: list[tuple[str, dict[str, str]]] = []

        def add_provider(self, name: str, settings: dict[str, str]) -> None:
            self.added.append((name, settings))

    def get_ep_devices(self) -> list[object]:
        return []

    def get_available_providers(self) -> list[str]:
        return ["QNNExecutionProvider", "WebGpuExecutionProvider", "CPUExecutionProvider"]


def test_a_provider_that_is_built_into_onnxruntime_needs_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "find_spec", lambda _: None)
    built = BuiltIn()
    for name in ("qnn", "webgpu"):
        assert providers.register(built, PROVIDERS[name]) == []
        assert "onnxruntime 1.99" in providers.versions(built, PROVIDERS[name])
        options = built.SessionOptions()
        providers.attach(built, options, name, PROVIDERS[name].options())
        ((added, settings),) = options.added
        assert added == PROVIDERS[name].ort_name and "backend_path" not in settings
        assert not isinstance(providers.discover(built)[name], str)
