"""The command ``mimo npu-plan``, and the same plan on stderr before ``mimo quantize`` compiles anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mimo_mobile.cli_options import Phone, cut_options
from mimo_mobile.errors import BadArgumentError

if TYPE_CHECKING:
    from mimo_mobile.hub import Source
    from mimo_mobile.npu_memory import Plan
    from mimo_mobile.phones import Device
    from mimo_mobile.quantize.npu_plan import Asked
    from mimo_mobile.quantize.pipeline import NpuTarget
    from mimo_mobile.quantize.recipes import Recipe


@click.command("npu-plan")
@click.argument("model", required=False)
@click.option("--recipe", default="int4_b32", show_default=True, help="The ONNX recipe to plan for.")
@click.option(
    "--context", type=click.IntRange(min=65), help="Tokens of prompt and answer [default: the model's, at most 4096]."
)
@click.option("--device", "phone", type=Phone(), help="Plan the longest context that fits a phone, e.g. phone-12gb.")
@cut_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def npu_plan(
    model: str | None,
    recipe: str,
    context: int | None,
    phone: Device | None,
    windows: tuple[int, ...] | None,
    compile_memory: int | None,
    as_json: bool,
) -> None:
    """Tell what MODEL takes on an NPU: pieces, sessions, memory, and on which phones it fits.

    Nothing is compiled. MODEL is nano, a folder or a hub id; without it the plan is MiMo-7B's.
    """
    from mimo_mobile import terminal
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.convert.npu.pieces import WINDOWS
    from mimo_mobile.hub import resolve
    from mimo_mobile.mimo7b import MIMO_7B
    from mimo_mobile.quantize import npu_plan as planning
    from mimo_mobile.quantize.recipes import recipe_named

    found = recipe_named(recipe)
    if found.target != "onnx":
        raise BadArgumentError(f"--recipe {recipe}: an ONNX recipe such as int4_b32 expected, NPUs run no GGUF")
    config = Checkpoint.open(resolve(model).path).config if model is not None else MIMO_7B
    asked = planning.Asked(context, windows or WINDOWS, memory_bytes=compile_memory)
    try:
        chosen = planning.choose(found, config, phone, asked) if phone else None
    except BadArgumentError:
        show(found, planning.plans(found, config, asked), err=True)
        raise
    if chosen:
        asked = dataclasses.replace(asked, context_length=chosen.context_length)
    plans = planning.plans(found, config, asked)
    if as_json:
        terminal.print_json({"plans": [planning.to_json(found, each) for each in plans]})
    else:
        show(found, plans)


def target_of(options: dict[str, Any], phone: Device | None = None) -> NpuTarget | None:
    """What the options on NPUs, which are taken out, say; options that come to nothing are an error."""
    from mimo_mobile.quantize.pipeline import NpuTarget
    from mimo_mobile.socs import soc_named

    device, socs, context, shared, windows, memory = (
        options.pop(name) for name in ("device", "socs", "context", "shared", "windows", "compile_memory")
    )
    if device == "cpu":
        if socs or windows or any(each is not None for each in (context, shared, memory)):
            raise click.UsageError(
                "--soc, --context, --windows, --shared and --compile-memory are for --target qnn or qdq"
            )
        return None
    if not socs:
        raise click.UsageError(f"--target {device} compiles for a chip: --soc SM8750, for instance")
    chips = tuple(soc_named(name) for name in socs.split(","))
    copies = phone is not None if shared is None else shared
    found = NpuTarget(chips, context, quantized=device == "qdq", shared=copies, memory_bytes=memory)
    return dataclasses.replace(found, windows=windows) if windows else found


def tell_plans(source: Source, recipes: Sequence[Recipe], npu: NpuTarget) -> None:
    """Print the plans of a checkpoint's recipes on stderr.

    Raises:
        BadArgumentError: No session of an NPU holds a piece of the model.
        QuantizationError: Context or windows do not fit the model, or compiling takes more memory than there is.
    """
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.quantize import npu_plan as planning

    config = Checkpoint.open(source.path).config
    for recipe in recipes:
        plans = planning.plans(recipe, config, _asked(npu))
        show(recipe, plans, err=True)
        planning.check(recipe, plans[0])


def planned(source: Source, dtype: str | None, npu: NpuTarget, phone: Device | None) -> NpuTarget:
    """What ``mimo convert`` compiles for, with its plan told on stderr; ``dtype`` is that of its weights.

    Raises:
        BadArgumentError: The model does not fit on the phone, or a piece of it in no session.
        QuantizationError: Context or windows do not fit the model, or compiling takes more memory than there is.
    """
    from mimo_mobile.convert.formats import F16, F32
    from mimo_mobile.quantize.recipes import unquantized

    recipes = [unquantized(F16 if dtype == "f16" else F32)]
    tell_plans(source, recipes, npu)
    return fitted(source, recipes, npu, phone) if phone else npu


def fitted(source: Source, recipes: Sequence[Recipe], npu: NpuTarget, phone: Device) -> NpuTarget:
    """The target with the longest context that fits on a phone; which that is goes to stderr.

    Raises:
        BadArgumentError: None fits.
    """
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.quantize import npu_plan as planning

    config = Checkpoint.open(source.path).config
    for recipe in recipes:
        found = planning.choose(recipe, config, phone, _asked(npu))
        click.echo(
            f"chosen for the NPU of {phone.name}: {recipe.name} in {len(found.pieces)} pieces, windows of"
            f" {', '.join(map(str, found.pieces[0].windows))} tokens with"
            f" {'one copy' if npu.shared else 'a copy each'} of the weights, {found.context_length} tokens of context",
            err=True,
        )
        npu = dataclasses.replace(npu, context_length=found.context_length)
    return npu


def _asked(npu: NpuTarget) -> Asked:
    from mimo_mobile.quantize.npu_plan import Asked

    return Asked(npu.context_length, npu.windows, npu.shared, npu.memory_bytes)


def onnx_recipes(names: Sequence[str]) -> list[Recipe]:
    """Those of the named recipes that NPUs can run."""
    from mimo_mobile.quantize.recipes import recipe_named

    return [recipe for name in names if (recipe := recipe_named(name)).target == "onnx"]


def show(recipe: Recipe, plans: Sequence[Plan], *, err: bool = False) -> None:
    """Print a table of plans, and one of the pieces, on stdout or stderr."""
    from mimo_mobile import terminal
    from mimo_mobile.quantize import npu_plan as planning

    first = plans[0]
    title = f"NPU plan for {recipe.name}, {first.context_length} tokens of context (assumed, not measured on a phone)"
    terminal.table(title, planning.COLUMNS, planning.rows(plans), left=2, err=err)
    click.echo("staged has one piece at a time on the NPU; it is planned only, nothing here runs it so far", err=err)
    title = f"its pieces; the embedding, {terminal.size(first.embedding_bytes)}, stays with the CPU"
    terminal.table(title, planning.PIECE_COLUMNS, planning.piece_rows(first), err=err)
