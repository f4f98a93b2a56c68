"""Compare the direct ONNX graph with the one that optimum exports through PyTorch: ``python -m tools.verify_optimum``.

Needs ``.venv-verify``; ``make verify-optimum`` creates it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mimo_mobile import onnxruntime_library
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import resolve
from mimo_mobile.runtime import GenerationConfig, Message, load

TOLERANCE = 1e-3
QUESTION = "What is 348 + 27 * 6?"


def compare(model: str, folder: Path) -> tuple[float, dict[str, int]]:
    """(largest difference of logits over a question, optimum's operators with their number)."""
    import onnx

    source = resolve(model)
    theirs = convert_checkpoint(source, folder / "optimum", to="onnx", exporter="optimum")[0] / "model.onnx"
    with load(convert_checkpoint(source, folder / "direct", to="onnx")[0]) as session:
        ids = session.encode_prompt([Message("user", QUESTION)], GenerationConfig())
        ours = session.logits(ids)
    nodes = [node.op_type for node in onnx.load(str(theirs), load_external_data=False).graph.node]
    return float(np.abs(ours - optimum_logits(theirs, ids)).max()), {
        name: nodes.count(name) for name in sorted(set(nodes))
    }


def optimum_logits(path: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    """The logits [T, V] of optimum's graph over ``ids`` from position 0."""
    session = onnxruntime_library.load().InferenceSession(path, providers=["CPUExecutionProvider"])
    known: dict[str, NDArray[Any]] = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
    }
    feed = {}
    for each in session.get_inputs():
        # Past keys and values: batch 1 and no tokens yet in place of the names of dimensions.
        empty = [size if isinstance(size, int) else int("batch" in size) for size in each.shape]
        feed[each.name] = known[each.name] if each.name in known else np.zeros(empty, np.float32)
    logits: NDArray[np.float32] = session.run(["logits"], feed)[0][0]
    return logits


@click.command()
@click.argument("model", default="nano")
def main(model: str) -> None:
    """Compare both graphs of MODEL (nano or a folder)."""
    with tempfile.TemporaryDirectory() as folder:
        difference, operators = compare(model, Path(folder))
    click.echo("optimum's graph: " + ", ".join(f"{name} {count}" for name, count in operators.items()))
    click.echo(f"largest difference of logits {difference:.1e}, at most {TOLERANCE:.0e} allowed")
    sys.exit(difference > TOLERANCE)


if __name__ == "__main__":
    main()
