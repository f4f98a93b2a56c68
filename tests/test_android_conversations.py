"""Conversations that the Kotlin library saved go on in Python without being computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from mimo_mobile.runtime import load
from tools.conversation_fixture import FIRST, GREEDY, RECIPES, SECOND, SPECULATE, THIRD

pytestmark = pytest.mark.android


@pytest.mark.parametrize("speculate", SPECULATE)
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_kotlin_saved_goes_on_without_being_computed_again(
    recipe: str, speculate: Literal["off", "mtp"], build: Path
) -> None:
    folder = build / "conversations"
    model = json.loads((folder / "expected.json").read_text(encoding="utf-8"))[0]["model"]
    saved = [folder / f"kotlin-{recipe}-{each}.conversation" for each in SPECULATE]
    with load(model, recipe=recipe, cache=False, threads=1, speculate=speculate) as session:
        anew = session.load_conversation(saved[0], GREEDY, text_only=True)
        list(anew.send(THIRD))
        for each in saved:
            talk = session.load_conversation(each, GREEDY)
            assert [turn.question for turn in talk.turns] == [FIRST, SECOND]
            stats = list(talk.send(THIRD))[-1].stats
            assert stats is not None
            assert stats.prompt_tokens / 2 < stats.cached_tokens < stats.prompt_tokens
            assert (stats.drafted_tokens > 0) == (speculate == "mtp")
            assert talk.turns == anew.turns


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_answer_that_was_cut_goes_on_as_it_was_asked_for_before_kotlin_saved_it(recipe: str, build: Path) -> None:
    folder = build / "conversations"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    mine = {tuple(each["rest"]) for each in expected if each["recipe"] == recipe}
    with load(expected[0]["model"], recipe=recipe, cache=False, threads=1) as session:
        for each in SPECULATE:
            talk = session.load_conversation(folder / f"kotlin-{recipe}-{each}-cut.conversation", GREEDY)
            assert [turn.question for turn in talk.turns] == [SECOND]
            rest = [token.token_id for token in talk.resume() if token.token_id is not None]
            assert {tuple(rest)} == mine and talk.turns[0].thinking == ""
