"""The command ``mimo plan``: what a model takes of memory, and with which settings it fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimo_mobile.cli_options import load_config, memory_options

if TYPE_CHECKING:
    from mimo_mobile.phones import Device
    from mimo_mobile.runtime.devices.memory import MemoryNeed
    from mimo_mobile.runtime.planning import Plan

COLUMNS = ("way", "copies", "KV cache", "buffers", "private", "mapped", "needed", "idle pages")


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@memory_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(model: Path, phone: Device | None, as_json: bool, **options: Any) -> None:
    """Tell what MODEL takes of memory before it is loaded, and with which settings it fits.

    MODEL is a .gguf file, an ONNX folder or a quantized folder. The exit status is 1 when it fits in no way.
    """
    from mimo_mobile import terminal
    from mimo_mobile.runtime import plan as make

    found = make(model, load_config(options), device=phone.name if phone else None)
    if as_json:
        terminal.print_json(dataclasses.asdict(found))
    else:
        show(found)
    if found.verdict == "refused":
        raise click.exceptions.Exit(1)


def show(found: Plan) -> None:
    """Print the table of a plan, and its verdict."""
    from mimo_mobile import terminal

    where = found.device or "this machine"
    room = "unknown" if found.available_bytes is None else terminal.size(found.available_bytes)
    ways = list(found.ways) if found.need in found.ways else [*found.ways, found.need]
    terminal.table(f"{found.model}: memory on {where}, {room} available", COLUMNS, [_cells(each) for each in ways])
    words = ", ".join(f"{name}={value}" for name, value in found.settings.items())
    tokens = f"{found.context_length:,} tokens of context"
    click.echo(
        {
            "fits": f"fits with {tokens}: {found.need.way}",
            "fits with other settings": f"fits with other settings, and {tokens}: {words} ({found.need.way})",
            "refused": f"does not fit: {terminal.size(found.need.total_bytes)} needed at least with {tokens}",
        }[found.verdict]
    )


def _cells(need: MemoryNeed) -> tuple[str, ...]:
    from mimo_mobile import terminal

    numbers = (
        need.copied_bytes, need.kv_bytes, need.activation_bytes, need.private_bytes, need.mapped_bytes,
        need.total_bytes, need.idle_bytes,
    )  # fmt: skip
    return need.way, *map(terminal.size, numbers)
