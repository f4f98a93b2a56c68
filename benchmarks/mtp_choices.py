"""How often MiMo-nano's MTP layer drafts right: in 16, 8 and 4 bits, and on the hidden state before or after the norm.

Run ``python -m benchmarks.mtp_choices``. With each variant the runtime answers held-out problems greedily with one
draft at a time. The trunk is the same in all of them, and so are the answers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import click

from mimo_mobile import terminal
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import F16, F32, MatMulFormat, PlainFormat
from mimo_mobile.convert.model import origin, write_onnx_model
from mimo_mobile.hub import Source, resolve
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.formats import NBitsFormat
from mimo_mobile.quantize.recipes import FORMATS, recipe_named
from mimo_mobile.runtime import GenerationConfig, Message, load

HEADS = {"16 bits": "F16", "8 bits": "int8_b32", "4 bits": "int4_b32"}


def write(source: Source, folder: Path, head: str, hidden_state: str) -> Path:
    """MiMo-nano in int4_b32 with an MTP layer and draft head in ``head``, reading ``hidden_state``."""
    copy = Path(shutil.copytree(source.path, folder / "checkpoint"))
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"mtp_hidden_state": hidden_state}), encoding="utf-8")
    checkpoint, recipe = Checkpoint.open(copy), recipe_named("int4_b32")

    def format_of(name: str) -> PlainFormat | MatMulFormat:
        chosen = recipe.format_of(name, checkpoint.config.num_hidden_layers)
        if "mtp_layers" in name or name == "lm_head.draft.weight":
            chosen = head if chosen != "F32" else chosen
        made = FORMATS[chosen]
        if made is F16:
            return F32  # the same values, which are bfloat16 in the checkpoint; this graph computes in float32
        assert isinstance(made, PlainFormat | NBitsFormat)
        return made

    write_onnx_model(checkpoint, folder / "model", format_of, F32, F16, origin(source))
    return folder / "model"


@click.command()
@click.option("--problems", default=120, show_default=True)
def main(problems: int) -> None:
    """Print the share of drafts that were right."""
    source = resolve("nano")
    questions = read_problems(source.path)[:: max(1, 660 // problems)]
    rows = []
    for name, head in HEADS.items():
        cells = [name]
        for hidden_state in ("pre_norm", "post_norm"):
            with tempfile.TemporaryDirectory() as folder:
                model = write(source, Path(folder), head, hidden_state)
                drafted = accepted = 0
                with load(model, speculate="mtp", cache=False) as session:
                    for each in questions:
                        config = GenerationConfig(temperature=0, max_tokens=512)
                        stats = list(session.generate([Message("user", each.question)], config))[-1].stats
                        assert stats is not None
                        drafted, accepted = drafted + stats.drafted_tokens, accepted + stats.accepted_tokens
            cells.append(f"{accepted / drafted:.2%} of {drafted}")
        rows.append(cells)
    terminal.table("drafts that were right", ("MTP layer and its head", "before the norm", "after it"), rows)


if __name__ == "__main__":
    main()
