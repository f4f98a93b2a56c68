"""The command ``mimo cache``: what is kept of this machine, and how to get the room back."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimo_mobile.untrusted import printable

if TYPE_CHECKING:
    from mimo_mobile.cache import CacheEntry


@click.group()
def cache() -> None:
    """Show or clear what is kept on disk: prepacked models, eval's references, costs of runs, self-tests, checksums."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_entries(as_json: bool) -> None:
    """List what is kept, with sizes, and the model of each prepacked copy.

    What mimo did not make is listed as unknown; it is neither used nor removed. The empty files called .lock are not
    listed. They keep two processes from writing the same at once.
    """
    from mimo_mobile import cache as kept
    from mimo_mobile import terminal

    found = kept.entries()
    total, limit = sum(each.size_bytes for each in found), kept.limit_bytes()
    if as_json:
        rows = [
            {"kind": each.kind, "path": str(each.path), "size_bytes": each.size_bytes, "last_used_s": each.last_used_s,
             "model": each.model, "unused": each.unused}
            for each in found
        ]  # fmt: skip
        terminal.print_json({"folder": _folder(), "size_bytes": total, "limit_bytes": limit, "entries": rows})
        return
    sizes = f"{terminal.size(total)}; prepacked models and references may take {terminal.size(limit)}"
    title = f"{printable(_folder() or 'no folder')}  ({sizes})"
    told = [(each.kind, _model(each), terminal.size(each.size_bytes), _day(each.last_used_s)) for each in found]
    terminal.table(title, ("kind", "of", "size", "last used"), told, left=2)


@cache.command()
@click.option("--unused", is_flag=True, help="Only remove copies of models that are gone or have changed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clear(unused: bool, as_json: bool) -> None:
    """Remove what is kept; it is made anew when a model is loaded. What mimo did not make stays."""
    from mimo_mobile import cache as kept
    from mimo_mobile import terminal

    freed = kept.clear(unused_only=unused)
    if as_json:
        terminal.print_json({"folder": _folder(), "freed_bytes": freed})
    else:
        click.echo(f"{terminal.size(freed)} freed in {printable(_folder() or 'no folder')}")


def _folder() -> str | None:
    from mimo_mobile import cache_folder

    found = cache_folder.root()
    return None if found is None else str(found)


def _model(entry: CacheEntry) -> str:
    """The folder of the model in short; its whole path is in the JSON."""
    name = printable(Path(entry.model).parent.name or entry.path.name)
    return name + (" (gone or changed)" if entry.unused else "")


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):  # what somebody's clock or touch(1) said
        return "unknown"
