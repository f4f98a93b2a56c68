"""Saves conversations with MiMo-nano on both engines, for Kotlin to go on with, and says how Python went on.

`python -m tools.conversation_fixture MODEL FOLDER`; MODEL is what `mimo quantize nano` wrote.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import click

from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Model, load
from tools import hostile_conversations

RECIPES = ("int4_b32", "q4_0")
"""One for each engine."""

SPECULATE: tuple[Literal["off", "mtp"], ...] = ("off", "mtp")
"""Without drafts and with the MTP layer's: llama.cpp's copies differ."""

GREEDY = GenerationConfig(temperature=0, max_tokens=300, seed=7)
CUT = replace(GREEDY, thinking=False, max_tokens=1)
"""How an answer is asked for without thinking, and cut."""

FIRST, SECOND, THIRD = "What is 12 + 30?", "What is 25 + 17 * 3?", "What is 9 * 8?"


def write(model: Path, folder: Path) -> None:
    """Write conversations of all, whole and cut, and expected.json, into ``folder``, which is emptied.

    They are `python-RECIPE-SPECULATE.conversation` and `python-RECIPE-SPECULATE-cut.conversation`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    expected = []
    for recipe, speculate in product(RECIPES, SPECULATE):
        with load(model, recipe=recipe, cache=False, threads=1, speculate=speculate) as session:
            talk = session.conversation('Be "brief".\n', GREEDY)
            list(talk.send(FIRST))
            talk.save(folder / f"python-{recipe}-{speculate}.conversation")
            if speculate == "mtp":
                _write_hostile(session, folder / f"python-{recipe}-mtp.conversation", folder / f"hostile-{recipe}")
            tokens = list(talk.send(SECOND))
            cut = session.conversation(config=GREEDY)
            list(cut.send(SECOND, CUT))
            cut.save(folder / f"python-{recipe}-{speculate}-cut.conversation")
            rest = list(cut.resume())
        stats = tokens[-1].stats
        assert stats is not None
        expected.append({
            "model": str(model.absolute()), "recipe": recipe, "speculate": speculate, "question": SECOND,
            "ids": _ids(tokens), "prompt_tokens": stats.prompt_tokens, "rest": _ids(rest),
        })  # fmt: skip
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


def _ids(tokens: list[GeneratedToken]) -> list[int]:
    return [token.token_id for token in tokens if token.token_id is not None]


def _write_hostile(model: Model, good: Path, folder: Path) -> None:
    """Write what becomes of a good file, and verdicts.json with what Python says of each, into a new folder."""
    folder.mkdir()
    told = []
    for number, content in enumerate(hostile_conversations.cases(good.read_bytes())):
        file = folder / f"{number}.conversation"
        file.write_bytes(content)
        told.append({"file": file.name, **hostile_conversations.verdicts(model, file)})
    (folder / "verdicts.json").write_text(json.dumps(told), encoding="utf-8")


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(model: Path, folder: Path) -> None:
    """Write conversations with MODEL into FOLDER."""
    write(model, folder)
    click.echo(folder)


if __name__ == "__main__":
    main()
