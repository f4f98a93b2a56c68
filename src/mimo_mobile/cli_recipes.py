"""The command ``mimo recipes``: every recipe with its size and loss, and the choice of one by size or phone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mimo_mobile.cli_options import limit_of, limit_options

if TYPE_CHECKING:
    from mimo_mobile.entries import Effort
    from mimo_mobile.hub import Source
    from mimo_mobile.phones import Device
    from mimo_mobile.quantize.choice import Limit


@click.command()
@limit_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recipes(target_size: int | None, phone: Device | None, as_json: bool) -> None:
    """List the recipes: bits, the size of MiMo-7B, what they lose, and which kernels of phones take them.

    KLD is the mean KL divergence from bf16 for each effort, on the model that the title names; – was not measured.
    """
    from mimo_mobile import terminal
    from mimo_mobile.mimo7b import MIMO_7B
    from mimo_mobile.quantize import catalog, choice, report

    limit, found = limit_of(target_size, phone), catalog.described()
    choices = choice.choose(found, limit, MIMO_7B) if limit else []
    if as_json:
        made: dict[str, Any] = {"model": "MiMo-7B", "recipes": [each.to_json() for each in found]}
        made |= {"limit_bytes": limit.most_bytes, "chosen": [each.recipe for each in choices]} if limit else {}
        terminal.print_json(made)
        return
    needed = {each.recipe.name: limit.needed(each, MIMO_7B) for each in found} if limit else None
    terminal.table(report.recipes_title(found), *report.recipe_table(found, needed), left=2)
    for each in choices:
        click.echo(each.reason)


def chosen(source: Source, limit: Limit, single_file: bool, effort: Effort) -> Sequence[str]:
    """The recipes that are best for a checkpoint within a limit; why is said on stderr."""
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.quantize import catalog, choice

    config = Checkpoint.open(source.path).config
    choices = choice.choose(catalog.described(config, single_file=single_file), limit, config, effort)
    click.echo(f"chosen for {limit}:", err=True)
    for each in choices:
        click.echo(f"  {each.reason}", err=True)
    return [each.recipe for each in choices]
