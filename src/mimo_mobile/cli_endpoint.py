"""How commands ask a server instead of a MODEL: ``--endpoint``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import click

from mimo_mobile.cli_options import Command, decorated, named, show_log

if TYPE_CHECKING:
    from mimo_mobile.runtime import Endpoint

OPTION = "--endpoint"

INSTEAD = "Ask a server with OpenAI's API instead of MODEL, which is left out"


class EndpointCommand(click.Command):
    """A command whose first argument, MODEL, is left out where ``--endpoint`` names a server."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for the option first, since it decides what the arguments are."""
        options = args[: args.index("--")] if "--" in args else args
        ctx.meta[OPTION] = any(each == OPTION or each.startswith(f"{OPTION}=") for each in options)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All parameters, without MODEL where a server is asked."""
        return [each for each in super().get_params(ctx) if each.name != "model" or not ctx.meta.get(OPTION)]


def endpoint_options(
    what: str = "Ask a server with OpenAI's API instead of MODEL, which is left out",
) -> Callable[[Command], Command]:
    """The options that name a server; ``endpoint_of`` reads them. ``what`` says what it is asked for."""
    options = (
        click.option(
            OPTION,
            metavar="URL",
            help=f"{what}: http://HOST:PORT. If it wants a key, that is taken from the environment variable"
            " MIMO_ENDPOINT_KEY.",
        ),
        click.option("--endpoint-model", metavar="NAME", help="The model's name there [default: the only one]."),
        click.option(
            "--endpoint-timeout",
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True),
            help="How long the server may be silent [default: 300].",
        ),
    )
    return lambda command: decorated(command, options)


def endpoint_of(options: dict[str, Any], meaningless: Collection[str] = ()) -> Endpoint | None:
    """The server that the command line names, if it names one; what it says of it is taken out of ``options``.

    Options that say how a MODEL is loaded, and ``meaningless`` ones, are an error beside it.
    """
    from mimo_mobile.runtime import Endpoint
    from mimo_mobile.runtime.endpoint import TIMEOUT_S

    url, model, timeout_s = (options.pop(name) for name in ("endpoint", "endpoint_model", "endpoint_timeout"))
    if url is None:
        if model is not None or timeout_s is not None:
            raise click.UsageError("--endpoint-model and --endpoint-timeout are for --endpoint")
        return None
    refuse({*loading_options(), *meaningless}, "is for a MODEL that is loaded here, and a server has its own settings")
    show_log()
    return Endpoint(url, model, timeout_s=timeout_s or TIMEOUT_S)


def refuse(parameters: Collection[str], why: str) -> None:
    """See that the command line says nothing of some parameters.

    Raises:
        UsageError: It does.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in parameters and named(context, parameter.name):
            raise click.UsageError(f"{parameter.opts[0]} {why}; leave it out")


def loading_options() -> set[str]:
    """The names of all options that say how a MODEL is loaded."""
    from mimo_mobile.runtime import LoadConfig

    return {each.name for each in dataclasses.fields(LoadConfig)}
