"""How much the form of SmolLM2-135M for NPUs with quantized activations loses, and which part of it loses how much.

Run ``python -m benchmarks.npu_quality``. The model has random channel scales, as in ``quantization_quality``, whose
texts are read. What is compiled is run as it is, on the CPU; nothing is compiled.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import onnx_ir as ir

from benchmarks.quantization_quality import TEXTS, Yardstick
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.npu.qdq_graph import ActivationTape, QdqTape, Range
from mimo_mobile.convert.npu.ranges_file import Form
from mimo_mobile.entries import EFFORTS, Effort
from mimo_mobile.quantize.calibrator import Calibrator
from mimo_mobile.quantize.given import Given, texts_for
from mimo_mobile.quantize.measures import Divergence
from mimo_mobile.quantize.npu_form import load_form
from mimo_mobile.quantize.npu_ranges import activation_ranges
from mimo_mobile.quantize.recipe_file import write_model
from mimo_mobile.quantize.recipes import recipe_named
from mimo_mobile.runtime import load
from tests import smollm

CONTEXT = 512


class FloatWeights(QdqTape):
    """Quantized activations, and weights as the CPU has them."""

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], *arguments: Any, **options: Any) -> ir.Value:
        """One node, and the nodes that quantize its activations."""
        if op_type != "MatMulNBits":
            return super().op(op_type, inputs, *arguments, **options)
        x, *weights = inputs
        return ActivationTape.op(self, op_type, [x, *weights], *arguments, **options)

    def _read(self, value: ir.Value | None) -> ir.Value | None:
        scales = value is not None and str(value.name).endswith(".scales")
        return value if scales else super()._read(value)


class FloatActivations(QdqTape):
    """Quantized weights and constants, and activations as they are."""

    def _activation(self, value: ir.Value, found: Range) -> ir.Value:
        return value


PARTS: Mapping[str, Callable[[Sequence[Range]], ActivationTape]] = {
    "what is compiled": QdqTape,
    "activations in floating point": FloatActivations,
    "weights in floating point": FloatWeights,
}
"""What a piece is recorded on, in words."""


def rows(checkpoint: Checkpoint, yardstick: Yardstick, effort: Effort, work: Path) -> Iterator[tuple[str, Divergence]]:
    """What each form loses, with its name."""
    given = Given(effort, texts_for(checkpoint, TEXTS / "calibration.txt"), ours=False)
    for name, in_units in (("int4_b32", False), ("int4_b32, scales in units", True)):
        recipe = dataclasses.replace(recipe_named("int4_b32"), in_units=in_units)
        found = Calibrator(checkpoint, given, [recipe], work / "kept").calibrated(recipe)
        folder = work / f"{effort}-{in_units}-onnx"
        write_model(checkpoint, folder, recipe, {}, calibrated=found)
        with load(folder, ep="cpu", speculate="off", cache=False) as model:
            yield f"{name}, on the CPU", yardstick.read(model)
    form = Form(activation_ranges(folder, given.texts), CONTEXT)
    for name, recorder in PARTS.items():
        with load_form(folder, form, recorder) as model:
            yield f"NPU: {name}", yardstick.read(model)


@click.command()
@click.option("--effort", "efforts", default=",".join(EFFORTS), show_default=True)
@click.option("--texts", type=int, help="Measure on so many of the 12 texts.")
def main(efforts: str, texts: int | None) -> None:
    """Print a table of losses for each effort."""
    with tempfile.TemporaryDirectory() as work:
        checkpoint = Checkpoint.open(smollm.write_smollm(Path(work) / "checkpoint", scaled=True))
        yardstick = Yardstick(checkpoint, texts)
        click.echo("| effort | | mean KLD | same top |\n|---|---|---|---|")
        for effort in (each for each in EFFORTS if each in efforts.split(",")):
            for name, found in rows(checkpoint, yardstick, effort, Path(work)):
                kld = f"{found.mean_kld:.3f} ± {found.mean_kld_error:.3f}"
                click.echo(f"| {effort} | {name} | {kld} | {found.same_top:.1%} |")


if __name__ == "__main__":
    main()
