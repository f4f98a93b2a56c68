"""How much the form of SmolLM2-135M for NPUs with quantized activations loses, and which part of it loses how much.

Run ``python -m benchmarks.npu_quality``. The model has random channel scales, as in ``quantization_quality``, whose
texts are read. What is compiled is run as it is, on the CPU; nothing is compiled.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
from mimo_mobile.quantize.npu_form import Recorder, load_form
from mimo_mobile.quantize.npu_ranges import activation_ranges
from mimo_mobile.quantize.recipe_file import write_model
from mimo_mobile.quantize.recipes import recipe_named
from mimo_mobile.runtime import load
from tests import smollm

CALIBRATION = TEXTS / "calibration.txt"

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


CPU = "int4_b32"
FORMS: Mapping[str, tuple[bool, Recorder | None]] = {
    CPU: (False, None),
    "the same, with an NPU's activations": (False, FloatWeights),
    "its scales in units": (True, None),
    "the same, with an NPU's head": (True, FloatActivations),
    "what NPUs get": (True, QdqTape),
}
"""By name, whether scales are in units, and what pieces are recorded on; what is on none is the ONNX folder itself."""


def rows(
    checkpoint: Checkpoint, yardstick: Yardstick, effort: Effort, work: Path, calibration: Path = CALIBRATION
) -> Iterator[tuple[str, Divergence]]:
    """What each form loses, with its name."""
    given = Given(effort, texts_for(checkpoint, calibration), ours=False)
    recipes = [dataclasses.replace(recipe_named("int4_b32"), in_units=each) for each in (False, True)]
    calibrator = Calibrator(checkpoint, given, recipes, work / "kept")
    folders, forms = [], []
    for recipe in recipes:
        folders.append(work / f"{effort}-{recipe.in_units}-onnx")
        write_model(checkpoint, folders[-1], recipe, {}, calibrated=calibrator.calibrated(recipe))
        forms.append(Form(activation_ranges(folders[-1], given.texts), CONTEXT))
    for name, (in_units, recorder) in FORMS.items():
        folder = folders[in_units]
        if recorder is None:
            opened = load(folder, ep="cpu", speculate="off", cache=False)
        else:
            opened = load_form(folder, forms[in_units], recorder)
        with opened as model:
            yield name, yardstick.read(model)


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
