"""Models of one process share their weights: one copy, however many are open, and each computes what it would alone."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.runtime import GenerationConfig, Model, load
from mimo_mobile.runtime.shared import Shared

GREEDY = GenerationConfig(temperature=0, max_tokens=16)
IDS = [[3, 50, 99, 200, 17, 41, 8, 301], [9, 8, 7, 6, 5]]


@pytest.fixture(params=["gguf", "onnx"])
def path(request: pytest.FixtureRequest, nano_q4: dict[str, Path]) -> Path:
    return nano_q4[request.param]


def weights_of(model: Model) -> Any:
    with model.exclusive() as backend:
        found: Any = backend
        return found.weights.thing if hasattr(found, "weights") else found._graph._session


def answer(model: Model, ids: list[int]) -> list[int | None]:
    return [each.token_id for each in model.generate(ids, GREEDY)]


def test_models_that_are_loaded_in_the_same_way_share_weights_and_others_do_not(path: Path) -> None:
    with load(path, threads=1) as one, load(path, threads=1, context_length=512) as other:
        assert weights_of(one) is weights_of(other)
        alone = [answer(one, ids) for ids in IDS]
        one.close()
        one.close()
        assert [answer(other, ids) for ids in IDS] == alone
        changes: Any = {"repack": False} if path.suffix else {"threads": 2}
        with load(path, **{"threads": 1, **changes}) as different:
            assert weights_of(different) is not weights_of(other)


def test_two_models_on_the_same_weights_compute_at_once(path: Path) -> None:
    with load(path, threads=1, speculate="mtp") as one, load(path, threads=1, speculate="mtp") as other:
        alone = [answer(one, ids) for ids in IDS]
        found: dict[int, list[list[int | None]]] = {0: [], 1: []}

        def ask(place: int, model: Model) -> None:
            for _ in range(6):
                found[place].append(answer(model, IDS[place]))

        threads = [threading.Thread(target=ask, args=each) for each in ((0, one), (1, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {place: [alone[place]] * 6 for place in (0, 1)}


def test_a_copy_of_a_file_is_another_model(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    (shutil.copytree if path.is_dir() else shutil.copyfile)(path, copy)  # type: ignore[operator]
    with load(path, threads=1, speculate="off") as one, load(copy, threads=1, speculate="off") as other:
        assert weights_of(one) is not weights_of(other)


def test_what_is_shared_is_made_once_and_freed_after_the_last_use() -> None:
    made, freed = list[str](), list[str]()
    shared = Shared[str](freed.append)

    def make() -> str:
        made.append("x")
        return "x"

    first, second = shared.use("key", make), shared.use("key", make)
    assert made == ["x"] and shared.has("key") and not shared.has("other")
    first.end()
    first.end()
    assert freed == []
    second.end()
    assert freed == ["x"] and not shared.has("key")


def test_what_cannot_be_made_leaves_nothing_behind() -> None:
    shared = Shared[int](lambda _: None)
    with pytest.raises(ZeroDivisionError):
        shared.use("key", lambda: 1 // 0)
    assert not shared.has("key")
    shared.use("key", lambda: 1).end()
