"""The command ``mimo npu-plan``, and the same plan on stderr before ``mimo quantize`` compiles anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mimo_mobile.cli_options import Phone
from mimo_mobile.errors import BadArgumentError

if TYPE_CHECKING:
    from mimo_mobile.hub import Source
    from mimo_mobile.quantize.choice import Device
    from mimo_mobile.quantize.npu_plan import Plan
    from mimo_mobile.quantize.pipeline import NpuTarget
    from mimo_mobile.quantize.recipes import Recipe


@click.command("npu-plan")
@click.argument("model", required=False)
@click.option("--recipe", default="int4_b32", show_default=True, help="The ONNX recipe to plan for.")
@click.option(
    "--context", type=click.IntRange(min=65), help="Tokens of prompt and answer [default: the model's, at most 4096]."
)
@click.option("--device", "phone", type=Phone(), help="Plan the longest context that fits a phone, e.g. phone-12gb.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def npu_plan(model: str | None, recipe: str, context: int | None, phone: Device | None, as_json: bool) -> None:
    """Tell what MODEL takes on an NPU: pieces, sessions, memory, and on which phones it fits.

    Nothing is compiled. MODEL is nano, a folder or a hub id; without it the plan is MiMo-7B's.
    """
    from mimo_mobile import terminal
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.hub import resolve
    from mimo_mobile.mimo7b import MIMO_7B
    from mimo_mobile.quantize import npu_plan as planning
    from mimo_mobile.quantize.recipes import recipe_named

    found = recipe_named(recipe)
    if found.target != "onnx":
        raise BadArgumentError(f"--recipe {recipe}: an ONNX recipe such as int4_b32 expected, NPUs run no GGUF")
    config = Checkpoint.open(resolve(model).path).config if model is not None else MIMO_7B
    try:
        chosen = planning.choose(found, config, phone, context) if phone else None
    except BadArgumentError:
        show(planning.plans(found, config, context), err=True)
        raise
    plans = planning.plans(found, config, chosen.context_length if chosen else context)
    if as_json:
        terminal.print_json({"plans": [each.to_json() for each in plans]})
    else:
        show(plans)


def tell_plans(source: Source, names: Sequence[str], context: int | None) -> None:
    """Print the plans of a checkpoint's ONNX recipes on stderr."""
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.quantize import npu_plan as planning

    config = Checkpoint.open(source.path).config
    for recipe in _onnx(names):
        show(planning.plans(recipe, config, context), err=True)


def fitted(source: Source, names: Sequence[str], npu: NpuTarget, phone: Device, shared: bool) -> NpuTarget:
    """The target with the longest context that fits on a phone; which that is goes to stderr."""
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.quantize import npu_plan as planning

    config = Checkpoint.open(source.path).config
    for recipe in _onnx(names):
        found = planning.choose(recipe, config, phone, npu.context_length, shared)
        click.echo(
            f"chosen for the NPU of {phone.name}: {recipe.name} in {len(found.pieces)} pieces, windows of"
            f" {', '.join(map(str, found.pieces[0].windows))} tokens with {'one copy' if shared else 'a copy each'} of"
            f" the weights, {found.context_length} tokens of context",
            err=True,
        )
        npu = dataclasses.replace(npu, context_length=found.context_length, shared=shared)
    return npu


def _onnx(names: Sequence[str]) -> list[Recipe]:
    from mimo_mobile.quantize.recipes import recipe_named

    return [recipe for name in names if (recipe := recipe_named(name)).target == "onnx"]


def show(plans: Sequence[Plan], *, err: bool = False) -> None:
    """Print a table of plans, and one of the pieces, on stdout or stderr."""
    from mimo_mobile import terminal
    from mimo_mobile.quantize import npu_plan as planning

    first = plans[0]
    title = f"NPU plan for {first.recipe}, {first.context_length} tokens of context (assumed, not measured on a phone)"
    terminal.table(title, planning.COLUMNS, planning.rows(plans), left=2, err=err)
    title = f"its pieces; the embedding, {terminal.size(first.embedding_bytes)}, stays with the CPU"
    terminal.table(title, planning.PIECE_COLUMNS, planning.piece_rows(first), err=err)
