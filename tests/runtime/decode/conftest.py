"""What the tests of conversations have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_mobile.runtime import Model, load


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def path(request: pytest.FixtureRequest, nano_q4: dict[str, Path]) -> Path:
    """MiMo-nano in four bits, for one engine after the other."""
    return nano_q4[request.param]


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    """That model with drafts, on one thread, which sums in one order."""
    with load(path, threads=1, speculate="mtp") as loaded:
        yield loaded
