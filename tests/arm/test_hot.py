"""Models whose numbers leave float16, on ARM CPUs that compute in float16: real builds under QEMU, x86 as the oracle.

One checkpoint has all of it: a residual stream and MLP products far beyond 65,504, and q·k of 160,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mimo_mobile.hub import resolve
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests.arm.emulator import Machine
from tests.arm.inside import Done, Task
from tests.hot import write_hot

pytestmark = pytest.mark.arm

RECIPES = {"q4_0": "hot-activations-scores-q4_0.gguf", "int4_b32": "hot-activations-scores-int4_b32-onnx"}
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def questions() -> Sequence[str]:
    return [each.question for each in read_problems(resolve("nano").path)[::320]][:2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hot")
    source = write_hot(root / "checkpoint", "activations", "scores")
    quantize_checkpoint(source, root / "out", list(RECIPES), problems=0)
    return root


@pytest.fixture(scope="module")
def tasks(folder: Path, questions: Sequence[str]) -> dict[str, Task]:
    return {
        recipe: Task(
            model=str(folder / "out" / name), questions=questions, max_tokens=MAX_TOKENS, load={"threads": 1}
        )
        for recipe, name in RECIPES.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def here(folder: Path, tasks: dict[str, Task]) -> dict[str, Done]:
    return Machine().run(folder, tasks).done


@pytest.fixture(scope="module", params=["a76", "i8mm"])
def machine(request: pytest.FixtureRequest) -> Machine:
    """A CPU that adds halves, without int8 matrix products and with them."""
    return Machine(request.param)


def test_hot_models_answer_as_on_this_machine_and_draft(
    machine: Machine, folder: Path, tasks: dict[str, Task], here: dict[str, Done]
) -> None:
    found = machine.run(folder, tasks).done
    for recipe, expected in here.items():
        assert all(len(answer) == MAX_TOKENS for answer in expected.answers), recipe
        assert found[recipe].answers == expected.answers, recipe
        assert found[recipe].drafted_answers == expected.answers, recipe
        assert found[recipe].accepted > 0.85 * found[recipe].drafts > 0, recipe


def test_a_float16_cache_in_llama_cpp_would_be_wrong_and_is_refused(
    machine: Machine, tasks: dict[str, Task], questions: Sequence[str], tmp_path: Path
) -> None:
    options = "--kv-dtype", "f16", "--threads", "1", "--max-tokens", "1", "--trust"
    ended = machine.python(tmp_path, "-m", "mimo_mobile.cli", "run", tasks["q4_0"].model, questions[0], *options)
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert "too large for kv_dtype f16; take f32, or leave kv_dtype out" in ended.stderr
    assert "computes wrong numbers on this CPU" in ended.stderr
