"""Which answers of tests/golden/answers.json another rounding could change: `python -m tools.answer_noise MODEL`.

Every answer is made again, some times, with noise in all logits. One that changes would differ between machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mimo_mobile.runtime import load
from mimo_mobile.runtime.llama.backend import LlamaBackend
from mimo_mobile.runtime.onnx.backend import OrtBackend
from tools.answer_cases import REQUESTS, answered
from tools.golden import GGUF_RECIPE, RECIPE


class Noise:
    """Adds uniform noise to what both engines compute, as long as ``size`` is not 0."""

    def __init__(self) -> None:
        self.size = 0.0
        self._random = np.random.Generator(np.random.PCG64(0))
        for backend in (LlamaBackend, OrtBackend):
            backend.decode = self._noisy(backend.decode)  # type: ignore[method-assign]

    def _noisy(self, decode: Any) -> Any:
        def noisy(backend: Any, ids: Sequence[int], *rest: Any, **named: Any) -> NDArray[np.float32]:
            logits: NDArray[np.float32] = decode(backend, ids, *rest, **named)
            if not self.size:
                return logits
            return logits + self._random.uniform(-self.size, self.size, logits.shape).astype(np.float32)

        return noisy


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--noise", default=0.025, show_default=True, help="The most that is added to a logit or taken from it.")
@click.option("--times", default=30, show_default=True, help="How often each answer is made.")
def main(model: Path, noise: float, times: int) -> None:
    """Count the answers that noise changes; MODEL is what `mimo quantize nano --recipe int4_b32,q4_0` wrote."""
    disturbance = Noise()
    for recipe in (RECIPE, GGUF_RECIPE):
        with load(model, recipe=recipe, cache=False, threads=1, speculate="off") as session:
            for index, changed in enumerate(REQUESTS):
                disturbance.size = 0.0
                expected = answered(session, changed)["ids"]
                disturbance.size = noise
                others = sum(answered(session, changed)["ids"] != expected for _ in range(times))
                click.echo(f"{recipe} {index}: {len(expected)} tokens, {others} of {times} answers are others")


if __name__ == "__main__":
    main()
