"""An answer that was cut goes on as it was asked for, also from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mimo_mobile.errors import ConversationError
from mimo_mobile.runtime import Model
from tests.runtime.decode.test_conversation import GREEDY, PRODUCT, SUM, fresh, ids_of
from tests.runtime.decode.test_conversation_file import field, forged
from tools.hostile_conversations import parts_of

PLAIN = replace(GREEDY, thinking=False)


def test_a_fork_of_as_many_turns_as_there_are_resumes_and_one_of_fewer_does_not(model: Model) -> None:
    talk = model.conversation(config=GREEDY)
    list(talk.send(SUM))
    begun = list(talk.send(PRODUCT, replace(PLAIN, max_tokens=1)))
    shorter, branch = talk.fork(1), talk.fork(2)
    rest = ids_of(list(talk.resume()))
    assert ids_of(begun) + rest == fresh(model, PLAIN, SUM, talk.turns[0].answer, PRODUCT)
    assert ids_of(list(branch.resume())) == rest and branch.turns == talk.turns
    list(shorter.resume())
    assert [turn.question for turn in shorter.turns] == [SUM]


def test_thinking_that_was_cut_goes_on_where_the_own_answers_have_no_budget_for_any(model: Model) -> None:
    talk = model.conversation(config=replace(GREEDY, thinking_budget=0))
    begun = list(talk.send(PRODUCT, replace(GREEDY, max_tokens=9)))
    assert ids_of(begun) + ids_of(list(talk.resume())) == fresh(model, GREEDY, PRODUCT)


@pytest.mark.parametrize("thinks", [False, True])
def test_an_answer_that_was_cut_goes_on_after_a_load_as_it_was_asked_for_and_is_saved_again_as_it_was(
    model: Model, tmp_path: Path, thinks: bool
) -> None:
    asked, other = (GREEDY, PLAIN) if thinks else (PLAIN, GREEDY)
    expected = fresh(model, asked, PRODUCT)
    talk = model.conversation(config=other)
    begun = list(talk.send(PRODUCT, replace(asked, max_tokens=len(expected) - 1 if thinks else 1)))
    assert len(talk.turns) == 1, "cut in its answer"
    talk.save(tmp_path / "cut.mimo")
    assert parts_of((tmp_path / "cut.mimo").read_bytes())[0]["cut_thinks"] is thinks
    loaded = model.load_conversation(tmp_path / "cut.mimo", other)
    loaded.save(tmp_path / "again.mimo")
    assert (tmp_path / "again.mimo").read_bytes() == (tmp_path / "cut.mimo").read_bytes()
    for each in (loaded, loaded.fork(), model.load_conversation(tmp_path / "cut.mimo", other, text_only=True)):
        assert ids_of(begun) + ids_of(list(each.resume())) == expected and len(each.turns) == 1


def test_a_file_says_nothing_of_answers_that_were_not_cut_or_that_it_does_not_hold(
    model: Model, tmp_path: Path
) -> None:
    talk, file = model.conversation(config=GREEDY), tmp_path / "talk.mimo"
    list(talk.send(SUM))
    talk.save(file)
    assert "cut_thinks" not in parts_of(file.read_bytes())[0]
    list(talk.send(PRODUCT, replace(GREEDY, max_tokens=9)))
    talk.save(file)
    assert len(talk.turns) == 1 and "cut_thinks" not in parts_of(file.read_bytes())[0], "cut in its thinking"


def test_another_value_than_true_and_false_or_one_without_a_turn_is_refused(model: Model, tmp_path: Path) -> None:
    model.conversation(config=GREEDY).save(tmp_path / "new.mimo")
    talk = model.conversation(config=GREEDY)
    list(talk.send(SUM))
    talk.save(tmp_path / "talk.mimo")
    for file, value in [("talk", 1), ("talk", "true"), ("talk", []), ("new", True), ("new", False)]:
        for text_only in (False, True):
            with pytest.raises(ConversationError, match="cut_thinks"):
                made = forged(tmp_path / f"{file}.mimo", tmp_path / "forged", field("cut_thinks", value))
                model.load_conversation(made, text_only=text_only)
    nothing = forged(tmp_path / "talk.mimo", tmp_path / "forged", field("cut_thinks", None))
    assert model.load_conversation(nothing).turns == talk.turns, "null is nothing"
