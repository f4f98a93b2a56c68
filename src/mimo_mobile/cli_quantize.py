"""The command ``mimo quantize``, and what it shares with ``mimo convert``: the table of what was compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimo_mobile.cli_endpoint import endpoint_of, endpoint_options
from mimo_mobile.cli_npu import fitted, onnx_recipes, target_of, tell_plans
from mimo_mobile.cli_options import (
    RecipeCommand,
    Recipes,
    limit_of,
    limit_options,
    named,
    npu_options,
    single_file,
)
from mimo_mobile.cli_recipes import chosen
from mimo_mobile.entries import EFFORTS
from mimo_mobile.errors import MimoMobileError

if TYPE_CHECKING:
    from mimo_mobile.manifest import Manifest
    from mimo_mobile.phones import Device

TOKENS = 2048
"""Tokens that are read to compare with bf16."""

FIRST_QUESTION = "What is 348 + 27 * 6?"


def report_compiled(folder: Path) -> None:
    """Print a table of the binaries in an ONNX folder, for each chip."""
    from mimo_mobile import terminal
    from mimo_mobile.layout import read_npu_settings

    for file in sorted(folder.glob("q??-*/npu.json")):
        found = read_npu_settings(file.parent)
        rows = [
            (each.name, f"{each.seconds or 0:.1f} s", f"{each.size_bytes / 1e6:.1f} MB",
             f"{(each.peak_rss_bytes or 0) / 1e9:.2f} GB")
            for each in found.graphs
        ]  # fmt: skip
        title = f"{file.parent}  (context {found.context_length}, windows {list(found.windows)})"
        terminal.table(title, ("graph", "compiled in", "size", "peak memory"), rows)


@click.command(cls=RecipeCommand)
@click.argument("model", default="nano")
@click.option(
    "--recipe",
    "recipes",
    type=Recipes(),
    default="q8_0,q4_k_m,q4_0,int4_b32",
    show_default=True,
    help="Names of recipes, with commas between them.",
)
@limit_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Files go to OUT/<model name>/.",
)
@click.option(
    "--problems",
    type=click.IntRange(min=0),
    help="How many held-out problems to score with; 0 is none [default: all that the checkpoint brings].",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=0),
    help="How many tokens are read to compare predictions with bf16's; 0 is none"
    " [default: 2048, or 0 with --problems 0].",
)
@single_file
@npu_options
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="A text that the checkpoint is run over instead of ours: some thousand words of what it will be used for.",
)
@click.option(
    "--importance",
    type=click.Path(path_type=Path),
    help="An importance matrix of llama.cpp's tools, by which errors are weighed instead of by a text.",
)
@click.option(
    "--effort",
    type=click.Choice(EFFORTS),
    default="normal",
    show_default=True,
    help="How much to do for accuracy: none rounds each weight to the nearest level; normal runs the checkpoint over a"
    " text first, to see which weights matter most; high also lets later weights make good what earlier ones lost.",
)
@click.option(
    "--thresholds",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file that says what each recipe may lose at most, instead of the defaults.",
)
@endpoint_options("Let a server with OpenAI's API, which runs MODEL, give the answers that --effort high calibrates on")
@click.option("--force", is_flag=True, help="Write these recipes' files anew, and remove those of another checkpoint.")
@click.option(
    "--answer/--no-answer", default=True, show_default=True, help="Let one file of each format answer a first question."
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of the table and the answers.")
def quantize(
    model: str,
    recipes: Sequence[str],
    target_size: int | None,
    phone: Device | None,
    thresholds: Path | None,
    out: Path,
    tokens: int | None,
    answer: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Quantize MODEL to GGUF and ONNX, score it and ask a first question. MODEL is nano, a folder or a hub id."""
    from mimo_mobile import terminal
    from mimo_mobile.hub import resolve
    from mimo_mobile.quantize import gate, given, pipeline, report_file
    from mimo_mobile.quantize.recipes import RECIPES

    npu = target_of(options, phone)
    limit = limit_of(target_size, phone)
    if limit and named(click.get_current_context(), "recipes"):
        raise click.UsageError("--recipe names recipes, --target-size and --device choose them; give one of them")
    known = list(RECIPES) if limit else recipes  # before anything is downloaded
    options["endpoint"] = endpoint_of(options)
    given.check_effects(known, options["effort"], options["calibration"], options["importance"], options["endpoint"])
    if not limit:
        pipeline.check_options(recipes, options["single_file"], npu)
    limits = gate.read_thresholds(thresholds) if thresholds else gate.DEFAULTS
    source = resolve(model)
    if npu:
        tell_plans(source, onnx_recipes(["int4_b32"] if limit else recipes), npu)
    if limit:
        recipes = chosen(source, limit, options["single_file"], options["effort"])
    if npu and phone:
        npu = fitted(source, onnx_recipes(recipes), npu, phone)
    folder = out / source.name
    tokens = (0 if options["problems"] == 0 else TOKENS) if tokens is None else tokens
    with terminal.progress_shown() as progress:
        made = pipeline.quantize_checkpoint(
            source, folder, recipes, npu=npu, limits=limits, tokens=tokens, progress=progress, **options
        )
    if as_json:
        terminal.print_json(made.to_json())
    else:
        _show(made, folder, recipes, npu is not None, answer)
        click.echo(f"report: {folder / report_file.PAGE}")
    gate.require_passed(made, recipes)


def _show(made: Manifest, folder: Path, recipes: Sequence[str], compiled: bool, answer: bool) -> None:
    """Print the table, what was compiled, and first answers."""
    from mimo_mobile import terminal
    from mimo_mobile.quantize import report

    title = f"{folder}" + (f"  ({made.baseline.problems} held-out problems, greedy)" if made.baseline else "")
    terminal.table(title, report.COLUMNS, report.rows(made))
    if compiled:
        for entry in made.entries:
            report_compiled(folder / entry.path)
    if answer:
        firsts: dict[str, str] = {}
        for entry in made.entries:
            if entry.recipe in recipes:
                firsts.setdefault(entry.format, entry.path)
        for path in firsts.values():
            _first_answer(folder / path)


def _first_answer(path: Path) -> None:
    """Prints an answer; when there is none, the files are whole all the same, and stderr says why."""
    from mimo_mobile.runtime import GenerationConfig, Message, load

    config = GenerationConfig(temperature=0.0, max_tokens=768, thinking_budget=512)
    try:
        with load(path) as loaded:
            tokens = list(loaded.generate([Message("user", FIRST_QUESTION)], config))
    except MimoMobileError as error:
        click.echo(f"{path.name}: the file is written, but cannot answer a first question here: {error}", err=True)
        return
    answer = "".join(token.text for token in tokens if token.channel == "answer").strip()
    speed = f"{tokens[-1].stats.decode_tps:.0f} tokens/s" if tokens[-1].stats else ""
    click.echo(f"{path.name}: {FIRST_QUESTION} → {answer}   ({speed})")
