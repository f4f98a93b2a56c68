"""How tests run a click command within their own process."""

from __future__ import annotations

import inspect

from click.testing import CliRunner


def runner() -> CliRunner:
    """click's runner, with stdout and stderr kept apart: since version 8.2 it does nothing else."""
    kept_apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**kept_apart)
