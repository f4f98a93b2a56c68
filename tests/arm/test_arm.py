"""Our runtime on ARM CPUs: real aarch64 builds of both libraries under QEMU, this machine as the oracle.

int8 kernels differ from CPU to CPU by what they round; the tolerances are of nano's logits, whose spread is about 10.
"""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from mimo_mobile.hub import resolve
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import load
from tests.arm.emulator import CPUS, Machine
from tests.arm.inside import Report, Task

pytestmark = pytest.mark.arm

QUESTIONS = [each.question for each in read_problems(resolve("nano").path)[::160]]
WITHOUT_KLEIDIAI = {"mlas.disable_kleidiai": "1"}

FEWEST_AND_MOST = ["a53", "sve2"]
"""CPUs with the fewest instructions and with the most, for what does not depend on each."""

LACKING = {"a53": {"sdot", "smmla"}, "a76": {"smmla"}, "i8mm": set[str](), "sve2": set[str]()}
KERNELS = {
    "a53": "android_armv8.0_1",
    "a76": "android_armv8.2_2",
    "i8mm": "android_armv8.6_1",
    "sve2": "android_armv9.0_1",
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("arm")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32", "q4_0", "q4_k_m", "q8_0"], problems=0)
    int4 = out / "mimo-nano-int4_b32-onnx"
    exact = Path(shutil.copytree(int4, out / "exact"))
    for file in exact.glob("*.onnx"):
        graph = onnx.load(str(file), load_external_data=False)
        for node in graph.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1  # float32
        onnx.save(graph, str(file))
    ggufs = {name: out / f"mimo-nano-{name}.gguf" for name in ("q4_0", "q4_k_m", "q8_0")}
    return {"int4": int4, "exact": exact, "product": product(int4, out / "product.onnx"), **ggufs}


def product(folder: Path, out: Path) -> Path:
    """A graph of MiMo-nano's products that read hidden states: the first layer's three of int4, the head's of int8."""
    graph = onnx.load(str(folder / "model.onnx")).graph
    width = onnx.helper.make_attribute("K", 256)
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits" and width in node.attribute]
    nodes = [*nodes[:3], nodes[-1]]
    names = {name for node in nodes for name in node.input[1:]}
    for node in nodes:
        node.input[0] = "x"
    joined = onnx.helper.make_node("Concat", [node.output[0] for node in nodes], ["y"], axis=1)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", None]) for name in "xy")
    weights = [each for each in graph.initializer if each.name in names]
    made = onnx.helper.make_graph([*nodes, joined], "product", [x], [y], weights)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(made, opset_imports=opsets, ir_version=10), str(out))
    return out


def exact_product(file: Path, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The products with the weights that the graph's integers and scales stand for, in float64."""
    graph = onnx.load(str(file)).graph
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    made = []
    for node in graph.node[:-1]:
        levels, scales = tensors[node.input[1]], tensors[node.input[2]]
        bits = next(each.i for each in node.attribute if each.name == "bits")
        if bits == 4:
            levels = np.stack([levels & 15, levels >> 4], axis=-1).reshape(*levels.shape[:2], -1)
        weights = (levels.astype(np.float64) - (1 << bits - 1)) * scales.reshape(*levels.shape[:2], 1)
        made.append(x.astype(np.float64) @ weights.reshape(len(weights), -1).T)
    return np.concatenate(made, axis=1)


HEAD = 1088
"""Rows of MiMo-nano's head."""

ROWS = {rows: np.random.Generator(np.random.PCG64(rows)).normal(size=(rows, 256)).astype(np.float32) for rows in (1, 8)}


@pytest.fixture(scope="session")
def onnx_tasks(models: dict[str, Path]) -> dict[str, Task]:
    with load(models["int4"], speculate="off") as session:
        ids = session.tokenizer.encode("".join(QUESTIONS[:2]))
    both = Task(model=str(models["int4"]), ids=ids)
    tasks = {
        "default": replace(both, questions=QUESTIONS[:2]),
        "without KleidiAI": replace(both, ort=WITHOUT_KLEIDIAI),
        "exact": Task(model=str(models["exact"]), ids=ids),
        "exact, int8 cache": Task(model=str(models["exact"]), ids=ids, load={"kv_dtype": "int8"}),
        "int8 cache": Task(model=str(models["int4"]), questions=QUESTIONS[:1], load={"kv_dtype": "int8"}),
    }
    for rows, x in ROWS.items():
        tasks[f"product {rows}"] = Task(model=str(models["product"]), x=x.tolist())
        tasks[f"product {rows} without KleidiAI"] = replace(tasks[f"product {rows}"], ort=WITHOUT_KLEIDIAI)
    return tasks


@pytest.fixture(scope="session")
def gguf_tasks(models: dict[str, Path], onnx_tasks: dict[str, Task]) -> dict[str, Task]:
    ids = onnx_tasks["default"].ids
    return {
        name: Task(
            model=str(models[name]),
            ids=ids,
            questions=QUESTIONS[:1],
            load={"threads": 1},  # ggml's threads wait actively for each other, for long when others use the cores
        )
        for name in ("q4_0", "q4_k_m", "q8_0")
    }


@pytest.fixture(scope="session", params=CPUS)
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="session")
def here_onnx(onnx_tasks: dict[str, Task], folder: Path) -> Report:
    return Machine().run(folder, onnx_tasks)


@pytest.fixture(scope="session")
def arm_onnx(machine: Machine, onnx_tasks: dict[str, Task], folder: Path) -> Report:
    return machine.run(folder, onnx_tasks)


@pytest.fixture(scope="session")
def here_gguf(gguf_tasks: dict[str, Task], folder: Path) -> Report:
    return Machine().run(folder, gguf_tasks)


@pytest.fixture(scope="session")
def arm_gguf(machine: Machine, gguf_tasks: dict[str, Task], folder: Path) -> Report:
    return machine.run(folder, gguf_tasks)


def difference(found: object, expected: object) -> float:
    """Relative, of the whole arrays: ‖a − b‖ / ‖b‖."""
    a, b = np.array(found, np.float64), np.array(expected, np.float64)
    assert a.shape == b.shape and np.isfinite(a).all()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", ["nop", "sdot", "smmla"])
def test_the_emulator_ends_a_program_at_an_instruction_that_the_cpu_lacks(
    machine: Machine, name: str, tmp_path: Path
) -> None:
    ended = machine.python(tmp_path, "-m", "tests.arm.instruction", name)
    assert machine.cpu is not None
    expected = (-signal.SIGILL, "") if name in LACKING[machine.cpu] else (0, "executed\n")
    assert (ended.returncode, ended.stdout) == expected


def test_products_are_float32_on_a53_and_int8_elsewhere(
    arm_onnx: Report, here_onnx: Report, machine: Machine, models: dict[str, Path]
) -> None:
    assert arm_onnx.machine == "aarch64" and here_onnx.machine == "x86_64"
    for rows, x in ROWS.items():
        exact = exact_product(models["product"], x)
        names = f"product {rows}", f"product {rows} without KleidiAI"
        default, plain = (np.array(arm_onnx.done[name].y) for name in names)
        here = np.array(here_onnx.done[names[0]].y)
        int4, int8 = slice(None, -HEAD), slice(-HEAD, None)
        for part in (int4, int8):
            errors = [difference(found[:, part], exact[:, part]) for found in (default, plain)]
            if machine.cpu == "a53":
                assert max(errors) < 1e-6
            else:
                assert all(1e-3 < error < 2e-2 for error in errors)
        if machine.cpu != "a53":
            assert difference(default[:, int4], here[:, int4]) > 1e-3  # KleidiAI rounds activations in another way
            assert difference(plain[:, int4], here[:, int4]) < 1e-6
            assert (default[:, int8] == plain[:, int8]).all()  # it has no product of int8 weights
            assert difference(plain[:, int8], here[:, int8]) < 1e-5


def test_logits_of_the_onnx_model_are_those_of_this_machine(
    arm_onnx: Report, here_onnx: Report, machine: Machine
) -> None:
    here, found = (
        {name: done.logits for name, done in report.done.items() if done.logits} for report in (here_onnx, arm_onnx)
    )
    assert difference(here["default"], here["exact"]) > 4e-3  # int8 and float32 products can be told apart
    # float32 but for the cache, where a value at a border may become the next integer.
    assert difference(found["exact, int8 cache"], here["exact, int8 cache"]) < 5e-4
    if machine.cpu == "a53":
        assert found["default"] == found["without KleidiAI"] == found["exact"]
        assert difference(found["exact"], here["exact"]) < 2e-4
    else:
        # Where the CPU can, attention over a float16 cache computes in float16; here in float32.
        assert 2e-4 < difference(found["exact"], here["exact"]) < 3e-3
        # The same kernels, but activations at a border become the next integer, as with int8 they do anyway.
        assert difference(found["without KleidiAI"], here["default"]) < 1.2e-2
        assert 4e-3 < difference(found["default"], here["exact"]) < 2e-2


@pytest.mark.parametrize("cache", ["default", "int8 cache"])
def test_the_onnx_model_answers_as_on_this_machine_and_drafts(arm_onnx: Report, here_onnx: Report, cache: str) -> None:
    found, expected = arm_onnx.done[cache], here_onnx.done[cache]
    assert found.text and found.answers == expected.answers
    assert found.drafted_answers == found.answers
    assert found.accepted > 0.85 * found.drafts > 0


@pytest.mark.parametrize("machine", FEWEST_AND_MOST, indirect=True)
def test_prepacked_weights_are_kept_for_this_cpu_and_change_nothing(
    machine: Machine, onnx_tasks: dict[str, Task], arm_onnx: Report, tmp_path: Path
) -> None:
    task = replace(onnx_tasks["default"], questions=(), load={"cache": True})
    made = machine.run(tmp_path, {"first": task, "second": task}, prepack_all=True).done
    (data,) = tmp_path.glob("cache-*/prepacked/*/*/model.onnx.data")
    assert data.stat().st_size > 1e6
    assert made["first"].logits == made["second"].logits == arm_onnx.done["default"].logits


def test_ggml_takes_the_best_kernels_that_the_cpu_has(arm_gguf: Report, machine: Machine) -> None:
    assert machine.cpu is not None and arm_gguf.kernels == [KERNELS[machine.cpu]]
    features = {name: f"{name} = 1" in arm_gguf.features for name in ("NEON", "DOTPROD", "MATMUL_INT8", "SVE")}
    matrix = machine.cpu in ("i8mm", "sve2")
    assert features == {
        "NEON": True, "DOTPROD": machine.cpu != "a53", "MATMUL_INT8": matrix, "SVE": machine.cpu == "sve2",
    }  # fmt: skip


@pytest.mark.parametrize("recipe", ["q4_0", "q4_k_m", "q8_0"])
def test_gguf_files_answer_as_on_this_machine_and_draft(arm_gguf: Report, here_gguf: Report, recipe: str) -> None:
    found, expected = arm_gguf.done[recipe], here_gguf.done[recipe]
    assert found.text and found.answers == expected.answers
    assert found.drafted_answers == found.answers
    assert found.accepted > 0.85 * found.drafts > 0
    assert difference(found.logits, expected.logits) < 3e-2


@pytest.mark.parametrize("machine", FEWEST_AND_MOST, indirect=True)
@pytest.mark.parametrize("model", ["int4", "q4_0"])
def test_the_command_line_answers(machine: Machine, models: dict[str, Path], model: str, tmp_path: Path) -> None:
    question = "What is 25 + 17 * 3?", "--temperature", "0", "--threads", "1", "--json"
    printed = machine.output(tmp_path, "-m", "mimo_mobile.cli", "run", str(models[model]), *question)
    answer = json.loads(printed)
    assert (answer["answer"], answer["finish_reason"]) == ("76", "stop")


def test_the_doctor_says_what_int4_is_computed_with(machine: Machine, tmp_path: Path) -> None:
    found = json.loads(machine.output(tmp_path, "-m", "mimo_mobile.cli", "doctor", "--json"))
    assert found["architecture"] == "aarch64"
    features = {name for name, there in found["features"].items() if there}
    expected = {"a53": set[str](), "a76": {"dotprod"}, "i8mm": {"dotprod", "i8mm"}, "sve2": {"dotprod", "i8mm", "sve2"}}
    assert machine.cpu is not None
    assert features & {"dotprod", "i8mm", "sve2", "sme"} == expected[machine.cpu]
    assert found["int4"].startswith("float32: no dotprod" if machine.cpu == "a53" else "int8 by KleidiAI")
