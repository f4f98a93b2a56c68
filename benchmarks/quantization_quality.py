"""How much each recipe and effort loses on SmolLM2-135M, beside other quantizers of the same bits.

Run ``python -m benchmarks.quantization_quality``; ``--write`` keeps our figures for ``mimo recipes``. MiMo-nano was
trained with the noise of int4, so that it would show nothing. SmolLM2 comes in Q4_1: ``scaled`` is the same function
with random channel scales, in which no quantizer finds the old levels. Every file is read back and run in float32 by
``quantize/forward.py``, so that no engine's rounding of activations is among the figures.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.peers.weights import PEERS, Array, Peer, ggml_weights, rounded
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import Importance
from mimo_mobile.convert.tensors import HEAD
from mimo_mobile.entries import EFFORTS, Effort
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import ignore
from mimo_mobile.quantize import forward, measures, references
from mimo_mobile.quantize.calibrate import calibrate
from mimo_mobile.quantize.catalog import MEASURED
from mimo_mobile.quantize.forward import Rows
from mimo_mobile.quantize.given import texts_for
from mimo_mobile.quantize.measures import Divergence, RowMeasures, TopRows
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.quality import Told, read_windows
from mimo_mobile.quantize.texts import Window
from mimo_mobile.quantize.written import read_written
from mimo_mobile.runtime import Model
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests import smollm

TEXTS = Path(__file__).with_name("texts")
"""Answers of SmolLM2 to questions of ours: those in calibration.txt to others than those in evaluation.txt."""

BEGIN = "<|im_start|>user"

MODELS = {"plain": "SmolLM2-135M", "scaled": "SmolLM2-135M, random channel scales"}

ROWS_AT_A_TIME = 256


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: who quantized how, and what came of it."""

    recipe: str
    effort: str
    bits: float
    divergence: Divergence

    def __str__(self) -> str:
        """The line in Markdown."""
        found = self.divergence
        return (
            f"| {self.recipe} | {self.effort} | {self.bits:.2f} | {found.mean_kld:.3f} ± {found.mean_kld_error:.3f} |"
            f" {found.same_top:.1%} |"
        )


@dataclass(frozen=True, slots=True)
class _Weights:
    """A tensor in memory."""

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def float32(self, start: int = 0, stop: int | None = None) -> Array:
        return self.values[start:stop].copy()


class Yardstick:
    """Compares weights with a checkpoint, on the predictions of every token of some texts."""

    def __init__(self, checkpoint: Checkpoint, texts: int | None = None) -> None:
        """Compute what ``checkpoint`` predicts for so many of the texts, or all."""
        tokenizer = TextTokenizer.from_file(checkpoint.path / "tokenizer.json")
        parts = (TEXTS / "evaluation.txt").read_text(encoding="utf-8").split(BEGIN)[1:]
        self._windows = [Window(tuple(tokenizer.encode(BEGIN + part)), 0) for part in parts[:texts]]
        self._reference = references.of_checkpoint(checkpoint, self._windows)

    def measure(self, config: MimoConfig, tensors: Mapping[str, Rows]) -> Divergence:
        """How far other weights are from the checkpoint's."""
        states = forward.run(config, tensors, [each.ids for each in self._windows])
        rows = np.concatenate([state[:-1] for state in states])
        normed = forward.rms_norm(rows, tensors["model.norm.weight"].float32(), config.rms_norm_eps)
        head = tensors["lm_head.weight"].float32().T
        return measures.summary(self._reference, RowMeasures.joined(list(_compared(self._reference, normed, head))))

    def read(self, model: Model) -> Divergence:
        """How far a loaded model's predictions are from the checkpoint's."""
        _, measured = read_windows(model, Told(self._windows, self._reference), ignore)
        assert measured is not None
        return measures.summary(self._reference, measured)


def _compared(reference: TopRows, normed: Array, head: Array) -> Iterator[RowMeasures]:
    for start in range(0, len(normed), ROWS_AT_A_TIME):
        stop = start + ROWS_AT_A_TIME
        yield measures.compare(reference.rows(start, stop), normed[start:stop] @ head)


def measure_recipes(
    checkpoint: Checkpoint,
    yardstick: Yardstick,
    recipes: Sequence[str],
    effort: Effort,
    calibration: Path | None,
    folder: Path,
) -> Iterator[Row]:
    """Quantize a checkpoint by recipes of ours into ``folder``, and measure the files."""
    source = Source(checkpoint.path, "smollm")
    text = None if effort == "none" else calibration
    made = quantize_checkpoint(source, folder, recipes, problems=0, effort=effort, calibration=text, tokens=0)
    for recipe in recipes:
        entry = made.entry(recipe)
        assert entry is not None
        found = yardstick.measure(*read_written(folder / entry.path, checkpoint.config))
        yield Row(recipe, effort, entry.bits_per_weight, found)


def mean_squares(checkpoint: Checkpoint, calibration: Path) -> Importance:
    """What peers may know of a checkpoint: how large the inputs of its matrices are over a text."""
    return calibrate(checkpoint.config, checkpoint.tensors, texts_for(checkpoint, calibration)).mean_squares


def measure_peer(checkpoint: Checkpoint, yardstick: Yardstick, peer: Peer, squares: Importance) -> Row:
    """Let a peer quantize the matrices that have 4 bits in the recipe that it stands beside."""
    tensors: dict[str, Rows] = dict(checkpoint.tensors)
    taken, weights = 0, 0
    for name, view in checkpoint.tensors.items():
        if len(view.shape) == 1:
            continue
        if name in squares and not (name == HEAD and peer.head_has_8_bits):
            values, size = peer.quantized(view.float32(), squares[name])
            taken, weights = taken + 8 * size, weights + view.size
        elif peer.head_has_8_bits:
            values = rounded(view.float32(), 8 if name == HEAD else 4)
        else:
            values, _ = ggml_weights("Q4_0", view.float32(), None)
        tensors[name] = _Weights(values)
    return Row(peer.name, "", taken / weights, yardstick.measure(checkpoint.config, tensors))


@click.command()
@click.option("--model", "models", default="plain,scaled", show_default=True)
@click.option("--recipe", "recipes", default="int4_b32,int4_b32_plus,q4_0,q4_0_plus", show_default=True)
@click.option("--effort", "efforts", default=",".join(EFFORTS), show_default=True)
@click.option("--peer", "peers", default=",".join(PEERS), show_default=True, help="Empty for none.")
@click.option("--calibration", type=click.Path(path_type=Path, exists=True), default=TEXTS / "calibration.txt")
@click.option("--texts", type=int, help="Measure on so many of the 12 texts.")
@click.option("--write", is_flag=True, help="Keep the figures of our recipes on the scaled model for `mimo recipes`.")
def main(
    models: str, recipes: str, efforts: str, peers: str, calibration: Path, texts: int | None, write: bool
) -> None:
    """Print a table of losses for each model."""
    for model in models.split(","):
        with tempfile.TemporaryDirectory() as work:
            folder = smollm.write_smollm(Path(work) / "checkpoint", scaled=model == "scaled")
            checkpoint = Checkpoint.open(folder)
            yardstick = Yardstick(checkpoint, texts)
            click.echo(f"\n{MODELS[model]}\n\n| | effort | bits | mean KLD | same top |\n|---|---|---|---|---|")
            rows = list(_rows(checkpoint, yardstick, recipes, efforts, peers, calibration, Path(work)))
        if write and model == "scaled":
            kept = [
                {
                    "recipe": each.recipe,
                    "effort": each.effort,
                    "model": MODELS["plain"],
                    "kld": each.divergence.mean_kld,
                }
                for each in rows
                if each.effort
            ]
            MEASURED.write_text(json.dumps({"rows": kept}, indent=2) + "\n", encoding="utf-8")


def _rows(
    checkpoint: Checkpoint, yardstick: Yardstick, recipes: str, efforts: str, peers: str, calibration: Path, work: Path
) -> Iterator[Row]:
    """Measure everything, and print each row as it comes."""
    for word in efforts.split(","):
        effort = next(each for each in EFFORTS if each == word)
        chosen = [*filter(None, recipes.split(","))]
        for row in measure_recipes(checkpoint, yardstick, chosen, effort, calibration, work / effort):
            yield _printed(row)
    if peers:
        squares = mean_squares(checkpoint, calibration)
        for name in peers.split(","):
            yield _printed(measure_peer(checkpoint, yardstick, PEERS[name], squares))


def _printed(row: Row) -> Row:
    click.echo(row)
    return row


if __name__ == "__main__":
    main()
