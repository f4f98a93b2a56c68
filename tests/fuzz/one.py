"""Fuzzes one target with atheris: `python -m tests.fuzz.one TARGET [libFuzzer's options] [corpus folders]`.

Only errors of our own kinds may come out of a target; anything else is a finding, as are much memory and long waits.
"""

from __future__ import annotations

import importlib
import logging
import shlex
import sys
from random import Random
from types import ModuleType

import atheris


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["mimo_mobile"]):
        target = importlib.import_module(f"tests.fuzz.{name}")
        errors = importlib.import_module("mimo_mobile.errors")
    logging.disable()

    def test(data: bytes) -> None:
        try:
            target.check(data)
        except errors.MimoMobileError:
            pass

    again = shlex.join([sys.executable, "-m", "tests.fuzz.one", name])  # how libFuzzer starts this again to merge
    atheris.Setup([again, *options], test, custom_mutator=_mutator(target))
    atheris.Fuzz()


def _mutator(target: ModuleType) -> object:
    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        changed = target.mutate(data, random) if random.random() < 0.7 else None
        if changed is None or len(changed) > max_size:
            changed = atheris.Mutate(data, max_size)
        return bytes(changed)

    return mutator


if __name__ == "__main__":
    main()
