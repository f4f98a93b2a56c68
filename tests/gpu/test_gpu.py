"""Our runtime on WebGPU over Mesa's lavapipe, a Vulkan driver with float16 that needs no GPU; the CPU is the oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.hub import resolve
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import load
from tests.arm import inside
from tests.arm.inside import Report, Task
from tests.gpu import machine
from tests.hot import write_hot

pytestmark = pytest.mark.gpu

QUESTIONS = [each.question for each in read_problems(resolve("nano").path)[::66]]
MODEL = "mimo-nano-int4_b32_f16-onnx"
WEBGPU = {"ep": "webgpu", "strict": True}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32_f16"], problems=0)
    return out


@pytest.fixture(scope="session")
def task(folder: Path) -> Task:
    with load(folder / MODEL, speculate="off") as model:
        ids = model.tokenizer.encode("".join(QUESTIONS[:6]))
    return Task(model=MODEL, questions=QUESTIONS, ids=ids)


@pytest.fixture(scope="session")
def there(folder: Path, task: Task) -> Report:
    return machine.run(folder, {"nano": replace(task, load=WEBGPU)})


@pytest.fixture(scope="session")
def here(folder: Path, task: Task) -> inside.Done:
    return inside.do(replace(task, model=str(folder / MODEL)))


def test_ten_problems_get_the_cpus_tokens(there: Report, here: inside.Done) -> None:
    assert len(here.answers) == 10
    assert there.done["nano"].answers == here.answers


def test_drafts_by_the_mtp_layer_change_no_token(there: Report, here: inside.Done) -> None:
    done = there.done["nano"]
    assert done.drafted_answers == here.answers
    assert done.accepted / done.drafts > 0.7


def test_logits_are_the_cpus_as_far_as_float16_goes(there: Report, here: inside.Done) -> None:
    found, expected = np.array(there.done["nano"].logits), np.array(here.logits)
    assert len(expected) > 64  # more than one step of any attention kernel
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_all_weights_are_on_the_device(folder: Path) -> None:
    code = f"""
import json
from mimo_mobile.runtime import load
with load("{machine.FOLDER / MODEL}", ep="webgpu", strict=True) as model:
    shares = model.placement.shares
    print(json.dumps({{share.provider: [share.weight_share, sorted(share.operators)] for share in shares}}))
"""
    shares = json.loads(machine.output(folder, "-c", code).splitlines()[-1])
    assert shares["webgpu"][0] == 1
    assert shares["cpu"] == [0, ["Cast", "Gather", "ReduceSum", "Shape", "Sub"]]


@pytest.mark.parametrize("kind", ["residual", "product", "scores"])
def test_models_with_numbers_beyond_float16_get_nanos_tokens(
    tmp_path: Path, task: Task, here: inside.Done, kind: str
) -> None:
    made = quantize_checkpoint(write_hot(tmp_path / "checkpoint", kind), tmp_path / "out", ["int4_b32_f16"], problems=0)
    hot = replace(task, model=f"out/{made.entries[0].path}", questions=QUESTIONS[:3], ids=(), load=WEBGPU)
    done = machine.run(tmp_path, {"hot": hot}).done["hot"]
    assert done.answers == done.drafted_answers == here.answers[:3]
    assert done.accepted / done.drafts > 0.7


def test_two_conversations_take_turns_on_the_devices_cache(folder: Path) -> None:
    code = f"""
import json
from mimo_mobile.runtime import GenerationConfig, Message, load
config = GenerationConfig(temperature=0, max_tokens=12)
first, second = ([Message("user", question)] for question in {QUESTIONS[:2]!r})
with load("{machine.FOLDER / MODEL}", ep="webgpu", strict=True, speculate="mtp") as model:
    def ids(session, prompt):
        return [token.token_id for token in session.generate(prompt, config)]
    alone = [ids(model.session(), prompt) for prompt in (first, second)]
    one, two = model.session(), model.session()
    print(json.dumps([alone, [ids(one, first), ids(two, second)], [ids(one, first), ids(two, second)]]))
"""
    alone, turns, again = json.loads(machine.output(folder, "-c", code).splitlines()[-1])
    assert alone == turns == again


def test_a_cache_that_it_has_no_kernel_for_is_refused(folder: Path) -> None:
    arguments = ["run", str(machine.FOLDER / MODEL), "2 + 2", "--ep", "webgpu", "--strict", "--kv-dtype", "int8"]
    ended = machine.python(folder, "-m", "mimo_mobile", *arguments)
    assert ended.returncode == 1
    assert "--ep webgpu --strict" in ended.stderr
