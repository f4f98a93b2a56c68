"""MiMo-nano in int4 with numbers that are too large for float16, for tests that compare engines with Python's.

`python -m tools.hot_fixture FOLDER` writes it; its residual stream, MLP product and q·k are large (tests/hot.py).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from mimo_mobile.hub import Source
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests.hot import write_hot

RECIPE = "int4_b32"


def write(out: Path) -> Path:
    """Write the model folder ``out``, in place of what is there; the ONNX folder in it."""
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        hot = write_hot(Path(work) / "hot", "activations", "scores")
        # Without effort the bytes depend on no sums, so that they are the same on every machine.
        made = quantize_checkpoint(Source(hot.path, "mimo-nano-hot"), out, [RECIPE], problems=0, effort="none")
    return out / made.entries[0].path


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write the model to OUT."""
    click.echo(write(out))


if __name__ == "__main__":
    main()
