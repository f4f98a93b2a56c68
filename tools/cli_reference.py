"""The command line's reference, from its own ``--help``: ``python -m tools.cli_reference docs/cli.md``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mimo_mobile.cli import main

HEAD = "# Command line\n\nWritten by `make docs` from `--help`.\n"


def reference() -> str:
    """The Markdown text."""
    sections = [HEAD, _section(main, "mimo")]
    sections += [_section(command, f"mimo {name}") for name, command in sorted(main.commands.items())]
    return "\n".join(sections)


def _section(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path, max_content_width=110, terminal_width=110)
    context.help_option_names = ["-h", "--help"]
    return f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    Path(sys.argv[1]).parent.mkdir(exist_ok=True)
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
