"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import click
from click.core import ParameterSource

from mimo_mobile import byte_size
from mimo_mobile.arguments import read_text
from mimo_mobile.errors import MimoMobileError

Command = TypeVar("Command", bound=Callable[..., Any])
Config = TypeVar("Config")

if TYPE_CHECKING:
    from click import ParamType as ParamType

    from mimo_mobile.phones import Device
    from mimo_mobile.quantize.choice import Limit
    from mimo_mobile.runtime import LoadConfig, Structure
else:

    class ParamType(click.ParamType):
        """click's own type, which may be subscripted here; before version 8.4 click itself does not allow it."""

        def __class_getitem__(cls, converted: object) -> type[ParamType]:
            """This class: only type checkers ask what it converts to."""
            return cls


class Recipes(ParamType[Sequence[str]]):
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


class Tokens(ParamType["int | str"]):
    """A number of tokens, or auto."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number, or the word."""
        try:
            return value if value == "auto" else int(value)
        except ValueError:
            self.fail(f"{value!r} found, a number of tokens or auto expected", param, ctx)


class Bias(ParamType[tuple[int, float]]):
    """A token and what is added to its logits."""

    name = "bias"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        """The token's id, and the number."""
        token, _, bias = str(value).partition("=")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(f"{value!r} found, a token's id and a number expected, such as 1234=-5", param, ctx)


class Output(click.Path):
    """A path that has a name, so that something new can be there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(value)
        if not path.name:
            self.fail(f"{str(value)!r} found, the name of a new file or folder expected", param, ctx)
        return path


class Size(ParamType[int]):
    """A size such as 4.3GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes."""
        found = byte_size.parse(str(value))
        if not found:
            self.fail(f"{value!r} found, a size such as 4.3GB or 500MB expected", param, ctx)
        return found


class Windows(ParamType[tuple[int, ...]]):
    """Numbers of tokens with commas between them, such as 64,2,1."""

    name = "windows"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers."""
        try:
            return tuple(int(each) for each in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} found, numbers of tokens such as 64,2,1 expected", param, ctx)


class Phone(ParamType["Device"]):
    """A kind of phone."""

    name = "phone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Device:
        """The phone, which must be a known one."""
        from mimo_mobile.phones import DEVICES

        if value not in DEVICES:
            self.fail(f"{value!r} found, one of {', '.join(DEVICES)} expected", param, ctx)
        return DEVICES[value]


class RecipeCommand(click.Command):
    """A command whose help lists the recipes, out of their own table."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list."""
        from mimo_mobile.quantize.recipes import RECIPES

        with formatter.section("Recipes"):
            formatter.write_dl([(name, f"{each.target.upper()}: {each.summary}") for name, each in RECIPES.items()])


def decorated(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """A command with several options, in this order in its help."""
    for option in reversed(options):  # the last decorator is the first in --help
        command = option(command)
    return command


def generation_options(command: Command) -> Command:
    """The options that GenerationConfig has, for run and chat; whether to speculate is LoadConfig's there."""
    from mimo_mobile.runtime.generation_config import GenerationConfig

    others = ("logprobs", "speculate", "structure", "tools", "tool_choice", "parallel_tool_calls")
    return decorated(command, [made for name, made in _options_of(GenerationConfig).items() if name not in others])


def structure_options(command: Command) -> Command:
    """The options that say what an answer must be, for run; ``structure_of`` reads them."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    options = (
        click.option("--schema", type=file, metavar="FILE", help="The answer is JSON of the JSON schema in FILE."),
        click.option(
            "--regex", metavar="EXPRESSION", help="The answer matches a regular expression, in Rust's syntax."
        ),
        click.option("--choice", metavar="TEXT,TEXT…", help="The answer is one of some texts."),
        click.option(
            "--grammar", type=file, metavar="FILE", help="The answer follows the grammar in FILE, in Lark or GBNF."
        ),
    )
    return decorated(command, options)


def structure_of(options: dict[str, Any]) -> Structure | None:
    """What the command line says that an answer must be, which is taken out of ``options``.

    Raises:
        BadArgumentError: It is no structure, or a file cannot be read.
        UsageError: There are several.
    """
    from mimo_mobile.runtime.structure import Structure

    given = {name: options.pop(name) for name in ("schema", "regex", "choice", "grammar")}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in given)} exclude each other; give one of them")
    makers: dict[str, Callable[[Any], Structure]] = {
        "schema": lambda file: Structure.schema(read_text(file)),
        "regex": Structure.regex,
        "choice": lambda texts: Structure.choice(texts.split(",")),
        "grammar": lambda file: Structure.grammar(read_text(file)),
    }
    return next((makers[name](value) for name, value in given.items()), None)


def load_options(command: Command) -> Command:
    """The options that LoadConfig has, for run, chat and bench."""
    from mimo_mobile.runtime.load_config import LoadConfig

    return decorated(command, list(_options_of(LoadConfig).values()))


def memory_options(command: Command) -> Command:
    """The options that LoadConfig has and memory depends on, and the phone to plan for, for plan."""
    from mimo_mobile.runtime.load_config import LoadConfig

    names = ("recipe", "context_length", "kv_dtype", "repack", "cache", "speculate")
    what = "Plan for a phone, e.g. phone-12gb [default: this machine]."
    phone = click.option("--device", "phone", type=Phone(), help=what)
    return decorated(command, [*(_options_of(LoadConfig)[name] for name in names), phone])


def server_options(command: Command) -> Command:
    """The options that ServerConfig has, for serve."""
    from mimo_mobile.runtime.server.config import ServerConfig

    return decorated(command, list(_options_of(ServerConfig).values()))


def load_config(options: dict[str, Any]) -> LoadConfig:
    """What the command line says of loading. It is taken out first, as GenerationConfig has a ``speculate``, too."""
    from mimo_mobile.providers import parse_options
    from mimo_mobile.runtime import LoadConfig

    if pairs := options.pop("ep_options", None):
        options["ep_options"] = parse_options(options["ep"], pairs)
    return built(LoadConfig, options)


def built(config: Callable[..., Config], options: dict[str, Any]) -> Config:
    """A config of its attributes among ``options``, which are taken out."""
    return config(**{name: options.pop(name) for name in inspect.signature(config).parameters if name in options})


def reading_options(command: Command) -> Command:
    """The options that LoadConfig has for those who read with a model and draft nothing, for eval."""
    from mimo_mobile.runtime.load_config import LoadConfig

    drafting = ("speculate", "mtp_drafts")
    return decorated(command, [made for name, made in _options_of(LoadConfig).items() if name not in drafting])


def _options_of(config: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """An option for every attribute of a config; its description in the docstring is the help.

    ``python -OO`` takes docstrings away; options are without help there.
    """
    described, hints = _described(config), get_type_hints(config)
    return {
        field.name: _option(field, hints[field.name], described.get(field.name)) for field in dataclasses.fields(config)
    }


def _option(field: dataclasses.Field[Any], hint: Any, described: str | None) -> Callable[[Any], Any]:
    name = field.name.replace("_", "-")
    settings: dict[str, Any] = {"default": field.default, "help": described}
    kinds = [each for each in get_args(hint) if each is not NoneType] if NoneType in get_args(hint) else [hint]
    if field.name == "ep_options":
        return click.option("--ep-option", "ep_options", multiple=True, metavar="NAME=VALUE", help=described)
    if field.name == "logit_bias":
        return click.option(
            "--logit-bias",
            type=Bias(),
            multiple=True,
            metavar="ID=NUMBER",
            help=described,
            callback=lambda _context, _option, pairs: dict(pairs) or None,
        )
    if field.default == ():
        return click.option(f"--{name}", multiple=True, help=described)
    if kinds == [bool]:
        return click.option(
            f"--{name}" if field.default is False else f"--{name}/--no-{name}", is_flag=True, **settings
        )
    if len(kinds) == 2 and int in kinds:
        return click.option(f"--{name}", type=Tokens(), metavar="N|auto", **settings)
    kind = click.Choice(get_args(kinds[0])) if get_args(kinds[0]) else kinds[0]
    return click.option(f"--{name}", type=kind, show_default=field.default is not None, **settings)


def _described(config: type[Any]) -> dict[str, str]:
    """What a docstring's section on attributes says of each."""
    section = inspect.cleandoc(config.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def limit_options(command: Command) -> Command:
    """The options that say what a recipe must not exceed, for quantize and recipes; ``limit_of`` reads them."""
    options = (
        click.option(
            "--target-size",
            type=Size(),
            help="Choose the best recipe of each format whose file to load is at most so large, e.g. 4.3GB.",
        ),
        click.option(
            "--device",
            "phone",
            type=Phone(),
            help="Choose the best recipe of each format that fits in a phone's memory, e.g. phone-12gb.",
        ),
    )
    return decorated(command, options)


def limit_of(target_size: int | None, phone: Device | None) -> Limit | None:
    """What the options say; None when they were not given."""
    from mimo_mobile.quantize.choice import Limit

    if target_size is not None and phone is not None:
        raise click.UsageError("--target-size and --device both choose a recipe; give one of them")
    return None if target_size is None and phone is None else Limit(target_size, phone)


def cut_options(command: Command) -> Command:
    """The options that decide how a model is cut for an NPU."""
    options = (
        click.option(
            "--windows",
            type=Windows(),
            help="Tokens of one run: 64,2,1 for prompts, drafts that are verified, and tokens; 64 for prompts alone,"
            " while the CPU computes tokens [default: 64,2,1].",
        ),
        click.option(
            "--compile-memory",
            type=Size(),
            help="What compiling may take of memory, such as 16GB: with less of it there are more and smaller pieces"
            " [default: three quarters of this machine's].",
        ),
    )
    return decorated(command, options)


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
            help="The compiled model's context, in tokens [default: the model's, at most 4096, or what fits --device].",
        ),
        click.option(
            "--shared/--no-shared",
            default=None,
            help="One copy of the weights for all windows of a piece, which phones load and a PC's simulator does not"
            " [default: shared with --device, else not].",
        ),
    )
    return decorated(cut_options(command), options)


single_file = click.option(
    "--single-file", is_flag=True, help="GGUF: write trunk and MTP layer to one file, for llama.cpp's draft-mtp."
)


def show_log() -> None:
    """Let what the library logs, such as warnings, come out on stderr, a line each."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mimo_mobile").setLevel(logging.INFO)


def named(context: click.Context, parameter: str) -> bool:
    """Whether the command line says what a parameter is."""
    return context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE
