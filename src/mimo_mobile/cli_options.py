"""Options that several commands share, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from mimo_mobile.errors import MimoMobileError

Command = TypeVar("Command", bound=Callable[..., Any])


class Recipes(click.ParamType[Sequence[str]]):
    """A comma-separated list of recipe names."""

    name = "recipes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sequence[str]:
        """The names, each of a known recipe."""
        from mimo_mobile.quantize.recipes import recipe_named

        if not isinstance(value, str):
            return tuple(value)
        try:
            names = [recipe_named(name.strip()).name for name in value.split(",") if name.strip()]
        except MimoMobileError as error:
            self.fail(str(error), param, ctx)
        if not names:
            self.fail("no recipe named", param, ctx)
        return names


class RecipeCommand(click.Command):
    """A command whose help lists the recipes, out of their own table."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list."""
        from mimo_mobile.quantize.recipes import RECIPES

        with formatter.section("Recipes"):
            formatter.write_dl([(name, f"{each.target.upper()}: {each.summary}") for name, each in RECIPES.items()])


def _decorated(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):  # the last decorator is the first in --help
        command = option(command)
    return command


def generation_options(command: Command) -> Command:
    """The sampling options that run and chat share."""
    options = (
        click.option("--temperature", type=float, default=0.6, show_default=True, help="0 is greedy."),
        click.option("--top-p", type=float, default=0.95, show_default=True),
        click.option("--top-k", type=int, default=0, show_default=True, help="0 is off."),
        click.option("--min-p", type=float, default=0.0, show_default=True),
        click.option("--seed", type=int, help="Same seed, same text."),
        click.option("--max-tokens", type=int, default=2048, show_default=True, help="Thinking and answer together."),
        click.option("--stop", multiple=True, help="End before this text; may be given more than once."),
        click.option("--thinking/--no-thinking", default=True, show_default=True),
        click.option(
            "--thinking-budget", type=int, help="Tokens after which thinking is closed and the answer follows."
        ),
    )
    return _decorated(command, options)


def load_options(command: Command) -> Command:
    """The options on how a model is loaded that run, chat and bench share."""
    options = (
        click.option("--recipe", help="Which file of a folder that `mimo quantize` wrote."),
        click.option(
            "--context-length", type=int, help="Tokens of prompt and answer [default: the model's, at most 4096]."
        ),
        click.option("--threads", type=int, help="[default: physical cores]"),
        click.option(
            "--kv-dtype", type=click.Choice(["f32", "f16", "int8"]), help="KV cache [default: f16, or the graph's]."
        ),
        click.option(
            "--repack/--no-repack",
            default=None,
            help="Copy weights into the CPU's order [default: if they fit]; llama.cpp.",
        ),
        click.option("--cache/--no-cache", default=True, help="Keep prepacked weights, and what runs cost, on disk."),
        click.option(
            "--speculate",
            type=click.Choice(["auto", "mtp", "ngram", "off"]),
            default="auto",
            show_default=True,
            help="What drafts tokens; the text stays the same.",
        ),
        click.option(
            "--mtp-drafts",
            type=click.IntRange(1, 7),
            default=1,
            show_default=True,
            help="In a row by the MTP layer, trained for one; ONNX.",
        ),
        click.option("--spin/--no-spin", default=True, help="Idle threads wait actively [default], or save power."),
        click.option(
            "--ep",
            type=click.Choice(["auto", "cpu", "qnn", "webgpu", "xnnpack", "nnapi", "coreml"]),
            default="auto",
            show_default=True,
            help="ONNX: where to compute.",
        ),
        click.option("--ep-option", "ep_options", multiple=True, metavar="NAME=VALUE", help="Of the --ep."),
        click.option("--strict", is_flag=True, help="Fail where --ep leaves work to the CPU or is wrong."),
    )
    return _decorated(command, options)


def npu_options(command: Command) -> Command:
    """The options on NPUs that convert and quantize share."""
    options = (
        click.option(
            "--target",
            "device",
            type=click.Choice(["cpu", "qnn", "qdq"]),
            default="cpu",
            show_default=True,
            help="qnn: compile ONNX for Snapdragon NPUs, too; qdq: with uint16 activations.",
        ),
        click.option("--soc", "socs", help="Chips, e.g. SM8750,SM8650; `adb shell getprop ro.soc.model` says yours."),
        click.option(
            "--context", type=click.IntRange(min=65), help="Of what is compiled [default: the model's, at most 4096]."
        ),
    )
    return _decorated(command, options)


single_file = click.option(
    "--single-file", is_flag=True, help="GGUF with trunk and MTP layer in one file, for llama.cpp's draft-mtp."
)
