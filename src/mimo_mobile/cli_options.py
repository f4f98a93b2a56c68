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
            return [recipe_named(name.strip()).name for name in value.split(",") if name.strip()]
        except MimoMobileError as error:
            self.fail(str(error), param, ctx)


def _decorated(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):  # the last decorator is the first in --help
        command = option(command)
    return command


def generation_options(command: Command) -> Command:
    """The sampling options that run and chat share."""
    options = (
        click.option(
            "--temperature",
            type=float,
            default=0.6,
            show_default=True,
            help="How freely tokens are chosen; 0 always takes the likeliest.",
        ),
        click.option(
            "--top-p",
            type=float,
            default=0.95,
            show_default=True,
            help="Choose among the likeliest tokens that have this probability together; 1 is off.",
        ),
        click.option(
            "--top-k",
            type=int,
            default=0,
            show_default=True,
            help="Choose among so many of the likeliest tokens; 0 is off.",
        ),
        click.option(
            "--min-p",
            type=float,
            default=0.0,
            show_default=True,
            help="Leave out tokens less likely than this share of the likeliest one; 0 is off.",
        ),
        click.option("--seed", type=int, help="The same seed gives the same text [default: a random one]."),
        click.option(
            "--max-tokens",
            type=int,
            default=2048,
            show_default=True,
            help="The most tokens of thinking and answer together.",
        ),
        click.option("--stop", multiple=True, help="End the answer before this text. Can be given several times."),
        click.option(
            "--thinking/--no-thinking",
            default=True,
            show_default=True,
            help="Let the model think before it answers.",
        ),
        click.option("--thinking-budget", type=int, help="End the thinking after so many tokens; the answer follows."),
    )
    return _decorated(command, options)


def load_options(command: Command) -> Command:
    """The options on how a model is loaded that run, chat and bench share."""
    options = (
        click.option("--recipe", help="Which recipe's file to take from a folder that `mimo quantize` wrote."),
        click.option(
            "--context-length",
            type=int,
            help="Tokens of prompt and answer to make room for [default: the model's, at most 4096].",
        ),
        click.option("--threads", type=int, help="How many threads compute [default: one for each physical core]."),
        click.option(
            "--kv-dtype",
            type=click.Choice(["f32", "f16", "int8"]),
            help="Type of the KV cache [default: f16, or what the graph has].",
        ),
        click.option(
            "--repack/--no-repack",
            default=None,
            help="GGUF: copy the weights into the order that this CPU reads fastest [default: when the copy fits].",
        ),
        click.option(
            "--cache/--no-cache",
            default=True,
            help="Keep prepacked weights and the measured costs of runs on disk [default: keep].",
        ),
        click.option(
            "--speculate",
            type=click.Choice(["auto", "mtp", "ngram", "off"]),
            default="auto",
            show_default=True,
            help="What drafts tokens; the text stays the same. auto drafts where that is faster.",
        ),
        click.option(
            "--mtp-drafts",
            type=click.IntRange(1, 7),
            default=1,
            show_default=True,
            help="ONNX: the most drafts in a row by the MTP layer, which was trained for one.",
        ),
        click.option(
            "--spin/--no-spin",
            default=True,
            help="Let idle threads wait actively [default], which is faster, or sleep, which saves power.",
        ),
        click.option(
            "--ep",
            type=click.Choice(["auto", "cpu", "qnn", "webgpu", "xnnpack", "nnapi", "coreml"]),
            default="auto",
            show_default=True,
            help="ONNX: the execution provider that computes.",
        ),
        click.option(
            "--ep-option",
            "ep_options",
            multiple=True,
            metavar="NAME=VALUE",
            help="An option of the execution provider. Can be given several times.",
        ),
        click.option("--strict", is_flag=True, help="Fail when --ep leaves work to the CPU or computes wrong numbers."),
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
            help="qnn: also compile the ONNX folder for Snapdragon NPUs; qdq: the same with uint16 activations.",
        ),
        click.option(
            "--soc",
            "socs",
            help="Chips to compile for, e.g. SM8750,SM8650. `adb shell getprop ro.soc.model` tells a phone's chip.",
        ),
        click.option(
            "--context",
            type=click.IntRange(min=65),
            help="The compiled model's context, in tokens [default: the model's, at most 4096].",
        ),
    )
    return _decorated(command, options)


single_file = click.option(
    "--single-file", is_flag=True, help="GGUF: write trunk and MTP layer to one file, for llama.cpp's draft-mtp."
)
