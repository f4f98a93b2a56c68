"""What fuzzing found, and what it starts from, goes through every target without atheris: only our own errors come."""

from __future__ import annotations

import importlib
from itertools import islice
from random import Random
from types import ModuleType

import pytest

from mimo_mobile.errors import MimoMobileError
from tests.fuzz.__main__ import CORPUS, MOST_KEPT_BYTES, TARGETS

MUTATIONS = 60


def read(target: ModuleType, data: bytes) -> None:
    try:
        target.check(data)
    except MimoMobileError as error:
        assert str(error)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.{request.param}")


def corpus(target: ModuleType) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target.__name__.split(".")[-1]).iterdir())]


def test_every_target_accepts_the_good_files_that_it_starts_from(target: ModuleType) -> None:
    target.check(next(target.seeds()))


def test_the_kept_corpus_raises_our_own_errors_only(target: ModuleType) -> None:
    inputs = corpus(target)
    assert inputs and sum(map(len, inputs)) <= MOST_KEPT_BYTES
    for data in inputs:
        read(target, data)


def test_seeded_mutations_raise_our_own_errors_only(target: ModuleType) -> None:
    inputs = [*corpus(target), *islice(target.seeds(), 3)]
    for seed in range(MUTATIONS):
        random = Random(seed)
        changed = target.mutate(random.choice(inputs), random)
        if changed is not None:
            read(target, changed)
