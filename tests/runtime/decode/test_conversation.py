"""Conversations on both engines, with MTP drafts: every answer is what a fresh session gives to the whole prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mimo_mobile.errors import BadArgumentError, ContextFullError, SessionError
from mimo_mobile.runtime import Conversation, GeneratedToken, GenerationConfig, Message, Model, Turn, load
from mimo_mobile.runtime.generation_config import GenerationStats

GREEDY = GenerationConfig(temperature=0)
SUM, PRODUCT, DIFFERENCE = "What is 12 + 30?", "What is 25 + 17 * 3?", "What is 779 - 343?"


def ids_of(tokens: Sequence[GeneratedToken]) -> list[int]:
    return [token.token_id for token in tokens if token.token_id is not None]


def stats_of(tokens: Sequence[GeneratedToken]) -> GenerationStats:
    assert tokens[-1].stats is not None
    return tokens[-1].stats


def fresh(model: Model, config: GenerationConfig, *said: str, system: str = "") -> list[int]:
    """What a session that knows nothing answers when it is given the whole prompt: questions and answers in turns."""
    roles = ("user", "assistant") * len(said)
    messages = [Message("system", system), *(Message(role, text) for role, text in zip(roles, said, strict=False))]  # type: ignore[arg-type]
    return ids_of(list(model.session().generate(messages, config)))


def answer(conversation: Conversation, question: str) -> tuple[list[int], str]:
    tokens = list(conversation.send(question))
    return ids_of(tokens), conversation.turns[-1].answer


def test_turns_edits_and_forks_are_what_a_fresh_session_answers_to_the_whole_prompt(model: Model) -> None:
    talk = model.conversation("Be brief.", GREEDY)
    first, one = answer(talk, SUM)
    second, two = answer(talk, PRODUCT)
    third, _ = answer(talk, DIFFERENCE)
    assert first == fresh(model, GREEDY, SUM, system="Be brief.")
    assert second == fresh(model, GREEDY, SUM, one, PRODUCT, system="Be brief.")
    assert third == fresh(model, GREEDY, SUM, one, PRODUCT, two, DIFFERENCE, system="Be brief.")
    branch = talk.fork(1)
    assert answer(branch, DIFFERENCE)[0] == fresh(model, GREEDY, SUM, one, DIFFERENCE, system="Be brief.")
    edited = list(talk.edit(1, "What is 9 * 8?"))
    assert ids_of(edited) == fresh(model, GREEDY, SUM, one, "What is 9 * 8?", system="Be brief.")
    assert [turn.question for turn in talk.turns] == [SUM, "What is 9 * 8?"]
    assert [turn.question for turn in branch.turns] == [SUM, DIFFERENCE]
    assert [each.content for each in branch.messages()[:3]] == ["Be brief.", SUM, one]
    again = list(talk.regenerate())
    assert ids_of(again) == ids_of(edited) and stats_of(again).cached_tokens >= stats_of(again).prompt_tokens - 2


def test_conversations_that_alternate_on_one_session_reuse_what_they_have_in_common(model: Model) -> None:
    session, system = model.session(), "You are asked sums, and nothing else than sums. " * 3
    one, two = session.conversation(system, GREEDY), session.conversation(system, GREEDY)
    said = [answer(each, question) for question in (SUM, PRODUCT) for each in (one, two)]
    assert said[0] == said[1] and said[2] == said[3]
    assert said[2][0] == fresh(model, GREEDY, SUM, said[0][1], PRODUCT, system=system)
    tokens = list(one.send(DIFFERENCE))
    common = len(model.encode_prompt([Message("system", system), Message("user", "")], GREEDY)) - 10
    assert stats_of(tokens).cached_tokens >= common


def test_conversations_on_sessions_of_their_own_recompute_nothing_but_the_last_answer(model: Model) -> None:
    one, two = model.conversation(config=GREEDY), model.conversation(config=GREEDY)
    for question in (SUM, PRODUCT):
        for each in (one, two):
            before = each.prompt(question)
            tokens = list(each.send(question))
    new = len(model.tokenizer.encode(f"{one.turns[0].answer}{PRODUCT}")) + 12
    assert stats_of(tokens).prompt_tokens == len(before)
    assert stats_of(tokens).cached_tokens >= len(before) - new


def test_each_answer_has_random_numbers_of_its_own_that_come_of_the_seed(model: Model) -> None:
    config = GenerationConfig(temperature=1.5, top_p=1.0, seed=7, max_tokens=40, thinking=False)
    talk, twin = model.conversation(config=config), model.conversation(config=config)
    first = ids_of(list(talk.send(SUM)))
    assert first == fresh(model, config, SUM)
    others = [ids_of(list(talk.regenerate())) for _ in range(3)]
    assert others[0] == fresh(model, replace(config, seed=8), SUM) and len({*map(tuple, [first, *others])}) > 1
    assert ids_of(list(twin.send(SUM))) == first
    assert ids_of(list(twin.regenerate(replace(config, seed=7)))) == first, "a seed that is given is taken as it is"


def test_thinking_is_left_out_of_later_prompts_unless_it_is_to_be_kept(model: Model) -> None:
    talk, keeping = model.conversation(config=GREEDY), model.conversation(config=GREEDY, keep_thinking=True)
    for each in (talk, keeping):
        list(each.send(SUM))
    thought = f"<think>\n{talk.turns[0].thinking}\n</think>\n\n{talk.turns[0].answer}"
    assert talk.turns == keeping.turns and talk.turns[0].thinking
    assert answer(talk, PRODUCT)[0] == fresh(model, GREEDY, SUM, talk.turns[0].answer, PRODUCT)
    tokens = list(keeping.send(PRODUCT))
    assert ids_of(tokens) == fresh(model, GREEDY, SUM, thought, PRODUCT)
    assert stats_of(tokens).prompt_tokens > len(talk.prompt(PRODUCT))


def test_a_question_without_an_answer_changes_nothing(model: Model) -> None:
    talk = model.conversation(config=GREEDY)
    list(talk.send(SUM))
    before = talk.turns
    list(talk.send(PRODUCT, replace(GREEDY, max_tokens=6)))
    talk.send(PRODUCT)
    unfinished = talk.edit(0, PRODUCT)
    next(unfinished)
    unfinished.close()
    assert talk.turns is before
    assert answer(talk, PRODUCT)[0] == fresh(model, GREEDY, SUM, before[0].answer, PRODUCT)


def test_an_answer_that_is_broken_off_is_kept_and_one_that_was_overtaken_is_refused(model: Model) -> None:
    talk = model.conversation(config=replace(GREEDY, thinking=False))
    stream, late = talk.send(SUM), talk.send(PRODUCT)
    while not next(stream).text:
        pass
    stream.close()
    assert len(talk.turns) == 1 and talk.turns[0].answer
    with pytest.raises(SessionError, match="was changed after this question was put; ask it again"):
        next(late)
    assert len(talk.turns) == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_answer_that_a_signal_interrupts_while_the_model_computes_is_kept(
    model: Model, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    expected = fresh(model, GREEDY, SUM)
    talk = model.conversation(config=GREEDY)
    stream, seen = talk.send(SUM), list[GeneratedToken]()
    with pytest.raises(interruption), monkeypatch.context() as patch:
        while len(seen) < 5:
            seen.append(next(stream))
        with model.turns.running() as backend:
            decode = type(backend)

        def interrupted(*_: object, **__: object) -> None:
            raise interruption

        patch.setattr(decode, "decode", interrupted)
        for token in stream:
            seen.append(token)
    assert talk.turns == ()
    assert ids_of(seen) + ids_of(list(talk.resume())) == expected and len(talk.turns) == 1


def test_a_cut_answer_goes_on_in_a_fork_and_as_it_was_asked_for(model: Model) -> None:
    plain = replace(GREEDY, thinking=False)
    talk = model.conversation(config=replace(GREEDY, thinking_budget=64, seed=3))
    begun = list(talk.send(SUM, replace(plain, max_tokens=1)))
    branch = talk.fork()
    expected = fresh(model, plain, SUM)
    assert ids_of(begun) + ids_of(list(talk.resume())) == expected, "without thinking"
    assert ids_of(begun) + ids_of(list(branch.resume())) == expected
    thought = list(talk.send(PRODUCT, replace(GREEDY, max_tokens=9)))
    assert len(talk.turns) == 1 and len(thought) > 1
    branch = talk.fork()
    assert ids_of(list(branch.resume())) == ids_of(list(talk.resume()))
    assert branch.turns == talk.turns and len(talk.turns) == 2


def test_old_turns_that_no_prompt_has_room_for_are_dropped(nano_q4: dict[str, Path]) -> None:
    with load(nano_q4["gguf"], threads=1, context_length=512) as small:
        talk = small.conversation(config=replace(GREEDY, max_tokens=2, thinking=False), when_full="drop")
        talk.restore([Turn(SUM, "", "1 2 " * 4000), Turn(SUM, "", "42")])
        tokens = list(talk.send(PRODUCT))
        assert [each.notice for each in tokens if each.notice] == ["turns_dropped"]
        assert (talk.dropped, len(talk.turns)) == (1, 3)
        with pytest.raises(ContextFullError, match="shorten it"):
            talk.send("1 2 " * 4000)


def test_a_text_that_no_prompt_has_room_for_ends_the_answer_where_that_was_chosen(nano_q4: dict[str, Path]) -> None:
    with load(nano_q4["gguf"], threads=1, context_length=512) as small:
        talk, long = small.conversation(config=GREEDY, when_full="stop"), "1 2 " * 4000
        for turns, question in [([Turn(SUM, "", long), Turn(SUM, "", "42")], PRODUCT), ([], long)]:
            talk.restore(turns)
            tokens = list(talk.send(question))
            assert [(each.notice, each.finish_reason) for each in tokens] == [("context_full", "length")]
            assert stats_of(tokens).prompt_tokens >= 512 and talk.turns == tuple(turns)


@pytest.mark.parametrize("when_full", ["error", "stop", "drop"])
def test_a_full_context_is_told_by_the_way_that_was_chosen(nano_q4: dict[str, Path], when_full: str) -> None:
    config = replace(GREEDY, max_tokens=24, thinking=False)
    with load(nano_q4["onnx"], threads=1, context_length=128) as small:
        talk = small.conversation(config=config, when_full=when_full)  # type: ignore[arg-type]
        tokens = list[GeneratedToken]()
        for number in range(10):
            question = f"What is {number} + 30?"
            if when_full == "error" and len(talk.prompt(question)) >= 128:
                with pytest.raises(ContextFullError, match="the context holds 128"):
                    talk.send(question)
                return
            before = talk.turns
            tokens = list(talk.send(question))
            if tokens[0].notice or tokens[-1].notice:
                break
        if when_full == "stop":
            while tokens[0].notice is None:
                before, tokens = talk.turns, list(talk.send(question))
            assert [(each.notice, each.finish_reason) for each in tokens] == [("context_full", "length")]
            assert stats_of(tokens).prompt_tokens >= 128 and talk.turns is before
        elif when_full == "drop":
            assert tokens[0].notice == "turns_dropped" and tokens[0].token_id is None and tokens[0].text == ""
            assert 0 < talk.dropped < len(talk.turns) and len(talk.prompt("")) <= 64 + 24
            left = [text for turn in talk.turns[talk.dropped : -1] for text in (turn.question, turn.answer)]
            assert ids_of(tokens) == fresh(small, config, *left, question)
            assert all(token.notice is None for token in talk.send("What is 1 + 1?"))
            with pytest.raises(ContextFullError):
                talk.send("word " * 200)


def test_the_end_of_the_context_within_an_answer_is_told(nano_q4: dict[str, Path]) -> None:
    with load(nano_q4["onnx"], threads=1) as large:
        room = len(large.conversation(config=GREEDY).prompt(SUM)) + 3
    with load(nano_q4["onnx"], threads=1, context_length=room) as small:
        last = list(small.conversation(config=GREEDY).send(SUM))[-1]
        assert (last.finish_reason, last.notice) == ("length", "context_full")
        short = list(small.conversation(config=replace(GREEDY, max_tokens=2)).send(SUM))[-1]
        assert (short.finish_reason, short.notice) == ("length", None)


def test_bad_arguments_say_what_was_expected(model: Model, tiny_gguf: Path) -> None:
    talk = model.conversation(config=GREEDY)
    for call, problem in (
        (lambda: talk.regenerate(), "turn -1 found; the conversation has 0 turns"),
        (lambda: talk.edit(3, "x"), "turn 3 found"),
        (lambda: talk.fork(1), "turns 1 found; from 0 to 0 expected"),
        (lambda: talk.restore([], begun="x"), "begun is 'x', of type str; a Turn"),  # type: ignore[arg-type]
        (lambda: talk.send(3), "question is 3, of type int; a text expected"),  # type: ignore[arg-type]
        (lambda: model.conversation(when_full="x"), "when_full 'x' is unknown; one of error, stop, drop"),  # type: ignore[arg-type]
    ):
        with pytest.raises(BadArgumentError, match=problem):
            call()
