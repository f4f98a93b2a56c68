"""Answers that are JSON of a schema, match an expression, are one of some texts, or follow a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from mimo_mobile import untrusted
from mimo_mobile.errors import BadArgumentError, SessionError
from mimo_mobile.hub import Source
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message, Model, Structure, load
from mimo_mobile.runtime.decode import speculator
from mimo_mobile.runtime.decode.generation import Generation
from mimo_mobile.runtime.decode.pace import MOST_ROWS, Costs
from mimo_mobile.runtime.decode.structured import Structures
from mimo_mobile.runtime.structure import MOST_CHARACTERS
from mimo_mobile.runtime.text.thinking import ThinkingSplitter
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from mimo_mobile.tokenizer_file import AddedToken, read_tokenizer

QUESTION = [Message("user", "What is 348 + 27 * 6?")]
GREEDY = GenerationConfig(temperature=0, max_tokens=300)
SAMPLED = GenerationConfig(temperature=0.8, seed=3, max_tokens=300, thinking_budget=20)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "result": {"type": "integer", "minimum": 0, "maximum": 9999},
        "steps": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        "kind": {"enum": ["sum", "other"]},
    },
    "required": ["result", "kind"],
    "additionalProperties": False,
}

GBNF = 'root ::= "The answer is " digit digit? "."\ndigit ::= [0-9]'
LARK = 'start: "x=" NUMBER ("," NUMBER)*\nNUMBER: /[0-9]{1,3}/'


@pytest.fixture(scope="module", params=["nano_gguf", "nano_onnx"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """MiMo-nano in float32, which runs over drafts round so little that no token of these answers changes."""
    with load(request.getfixturevalue(request.param), threads=1, speculate="mtp", cache=False) as loaded:
        yield loaded


def is_json_of_the_schema(text: str) -> bool:
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


STRUCTURES = [
    (Structure.schema(SCHEMA), is_json_of_the_schema),
    (Structure.regex(r"\d{2,4} \(exactly\)"), lambda text: re.fullmatch(r"\d{2,4} \(exactly\)", text)),
    (Structure.choice(["five hundred", "510"]), lambda text: text in ("five hundred", "510")),
    (Structure.grammar(GBNF), lambda text: re.fullmatch(r"The answer is \d\d?\.", text)),
    (Structure.grammar(LARK), lambda text: re.fullmatch(r"x=\d{1,3}(,\d{1,3})*", text)),
]


def told(tokens: list[GeneratedToken], channel: str) -> str:
    return "".join(each.text for each in tokens if each.channel == channel)


def ids_of(tokens: list[GeneratedToken]) -> list[int]:
    return [each.token_id for each in tokens if each.token_id is not None]


@pytest.mark.parametrize(("structure", "holds"), STRUCTURES, ids=["schema", "regex", "choice", "gbnf", "lark"])
def test_an_answer_keeps_its_structure_and_drafts_change_no_token_of_it(
    model: Model, structure: Structure, holds: Any
) -> None:
    for config in (GREEDY, SAMPLED, replace(GREEDY, thinking=False)):
        config = replace(config, structure=structure)
        tokens = list(model.generate(QUESTION, config))
        assert tokens[-1].finish_reason == "stop" and holds(told(tokens, "answer"))
        assert bool(told(tokens, "thinking")) == config.thinking
        assert ids_of(list(model.generate(QUESTION, replace(config, speculate=False)))) == ids_of(tokens)
        assert tokens[-1].stats is not None and tokens[-1].stats.drafted_tokens > 0


@pytest.mark.parametrize("file", ["nano_gguf", "nano_onnx"])
def test_text_that_a_structure_forces_is_computed_several_tokens_at_a_time(
    file: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows cost hardly anything: on a busy machine of two cores measured costs can say that they do."""
    costs = Costs(tuple(1 + 0.01 * row for row in range(MOST_ROWS)), 0.0)
    monkeypatch.setattr(speculator, "remembered", lambda *_: costs)
    structure = Structure.regex("The result of this sum, which I was asked for, is [0-9]")
    config = replace(GREEDY, thinking=False, structure=structure)
    with load(request.getfixturevalue(file), threads=1, speculate="mtp", cache=False) as model:
        tokens = list(model.generate(QUESTION, config))
        stats = tokens[-1].stats
        assert stats is not None and 0.9 * stats.drafted_tokens < stats.accepted_tokens > 0.6 * len(ids_of(tokens))
        assert ids_of(list(model.generate(QUESTION, replace(config, speculate=False)))) == ids_of(tokens)


def test_the_thinking_is_what_it_is_without_a_structure(model: Model) -> None:
    free = list(model.generate(QUESTION, GREEDY))
    tokens = list(model.generate(QUESTION, replace(GREEDY, structure=Structure.choice(["yes", "no"]))))
    assert told(tokens, "thinking") == told(free, "thinking")
    assert told(tokens, "answer") in ("yes", "no") and told(free, "answer") == "510"
    count = next(place for place, each in enumerate(free) if each.channel == "answer" and each.text)
    assert ids_of(tokens)[:count] == ids_of(free)[:count]


def test_a_text_as_a_prompt_is_followed_by_the_structure_at_once(model: Model) -> None:
    tokens = list(model.generate("348 + 162 =", replace(GREEDY, structure=Structure.regex("[0-9]{3}"))))
    assert {each.channel for each in tokens} == {"answer"} and re.fullmatch("[0-9]{3}", told(tokens, "answer"))


def test_turns_of_a_conversation_may_have_structures_and_no_tools(model: Model) -> None:
    conversation = model.conversation(config=GREEDY)
    for structure in (Structure.choice(["yes", "no"]), Structure.regex("[0-9]{2}")):
        list(conversation.send("What is 7 + 8?", replace(GREEDY, structure=structure)))
    first, second = (turn.answer for turn in conversation.turns)
    assert first in ("yes", "no") and re.fullmatch("[0-9]{2}", second)
    tool = {"type": "function", "function": {"name": "add"}}
    with pytest.raises(BadArgumentError, match="turns hold no tool calls"):
        conversation.send("What is 7 + 8?", replace(GREEDY, tools=[tool]))


def test_an_answer_that_is_cut_off_says_so_and_one_that_is_whole_needs_no_end_token(model: Model) -> None:
    structure = Structure.regex("[0-9]{8}")
    config = replace(GREEDY, thinking=False, structure=structure)
    whole = list(model.generate(QUESTION, config))
    assert (len(told(whole, "answer")), whole[-1].finish_reason) == (8, "stop")
    assert ids_of(whole)[-1] not in model.tokenizer.stop_ids
    cut = list(model.generate(QUESTION, replace(config, max_tokens=5)))
    assert (told(cut, "answer"), cut[-1].finish_reason) == (told(whole, "answer")[:5], "length")


def test_a_constraint_of_ones_own_restricts_it_further(model: Model) -> None:
    class NoFives:
        def mask(self, logits: Any) -> Any:
            return np.where(np.arange(len(logits)) == model.tokenizer.encode("5")[0], -np.inf, logits)

        def accept(self, token: int) -> None: ...

    config = replace(GREEDY, thinking=False, structure=Structure.choice(["510", "47"]))
    assert told(list(model.generate(QUESTION, config)), "answer") == "510"
    assert told(list(model.generate(QUESTION, config, constraint=NoFives())), "answer") == "47"
    with pytest.raises(SessionError, match="allows no token at all"):
        config = replace(config, structure=Structure.choice(["5"]))
        list(model.generate(QUESTION, config, constraint=NoFives()))


@pytest.mark.parametrize(
    "text", ['say "a"', "two\nlines", "日本 é 🙂", "\\d+ [a](b)*.", "tab\t\x01\x7f", "/a/ | b", "1" * 300]
)
def test_a_choice_may_hold_any_characters_and_many_texts(nano: Source, text: str) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    others = [f"{text[0]}{place}" for place in range(1000)]
    answer = Structures(tokenizer).answer(Structure.choice([*others, text]), thinks=False)
    for token in tokenizer.encode(text):
        assert answer.mask(np.zeros(tokenizer.size, np.float32))[token] == 0
        answer.accept(token)
    assert answer.over


WRONG: list[tuple[Structure, str]] = [
    (Structure.schema({"type": "object", "properties": {"x": {"items": {"type": "strin"}}}}), "#/properties/x/items: "),
    (Structure.schema({"anyOf": [{"type": "string"}, {"type": "string", "pattern": "(a"}]}), "#/anyOf/1: .*unclosed"),
    (Structure.schema({"$ref": "#/$defs/a~b", "$defs": {"a~b": {"not": {}}}}), r"#/\$defs/a~0b: .*not"),
    (Structure.schema({"type": "integer", "minimum": 5, "maximum": 1}), "at #: .*minimum"),
    (Structure.schema({"$ref": "https://example.com/schema"}), "at #: .*example.com"),
    (Structure.schema({"$ref": "#"}), "no text at all keeps"),
    (Structure.regex("(a"), "regex: .*unclosed group"),
    (Structure.grammar("start: foo"), "grammar: .*foo"),
    (Structure.grammar('root ::= "a" | b'), "grammar: .*'b'"),
    (Structure.grammar("?"), "grammar: "),
]


@pytest.mark.parametrize(("structure", "message"), WRONG)
def test_a_wrong_structure_is_an_error_before_anything_is_generated_and_says_where(
    nano: Source, structure: Structure, message: str
) -> None:
    structures = Structures(TextTokenizer.from_file(nano.path / "tokenizer.json"))
    with pytest.raises(BadArgumentError, match=message) as error:
        structures.answer(structure, thinks=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Structure.schema('{"type": 1'), "schema: no JSON"),
        (lambda: Structure.schema("[]"), "schema: list found"),
        (lambda: Structure.schema({"const": float("nan")}), "schema: it cannot be written"),
        (lambda: Structure.schema({"const": {1, 2}}), "schema: it cannot be written"),
        (lambda: Structure.schema('{"items":' * 100 + "{}" + "}" * 100), "nested more than 64 deep"),
        (lambda: Structure.choice([]), "choice: a list of texts"),
        (lambda: Structure.choice(["a", ""]), "choice: a list of texts"),
        (lambda: Structure.regex(""), "regex: 0 characters"),
        (lambda: Structure.regex("\ud800"), "regex: U\\+D800"),
        (lambda: Structure.grammar("a" * (MOST_CHARACTERS + 1)), "grammar: 65537 characters"),
        (lambda: Structure("lark", "start:"), "kind 'lark' is unknown"),  # type: ignore[arg-type]
        (lambda: GenerationConfig(structure="a+"), "a Structure expected"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_structure_is_an_error_at_once(make: Any, message: str) -> None:
    with pytest.raises(BadArgumentError, match=message):
        make()


def chain(link: str, count: int) -> str:
    return "".join(link.format(this=each, next=each + 1) for each in range(count))


HOSTILE = {
    "rules": Structure.grammar("start: r0\n" + chain("r{this}:r{next}\n", 4500) + 'r4500: "a"'),
    "terminals": Structure.grammar("start: R0\n" + chain("R{this}:R{next}\n", 4500) + 'R4500: "a"'),
    "references": Structure.schema(
        '{"$ref":"#/$defs/0","$defs":{'
        + chain('"{this}":{{"items":{{"$ref":"#/$defs/{next}"}}}},', 1500)
        + '"1500":{}}}'
    ),
    "brackets": Structure.grammar("start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
    "repetitions": Structure.regex("((a{1000}){1000}){100}"),
    "large numbers": Structure.schema('{"type": "string", "minLength": 1000000000}'),
    "combinations": Structure.schema(
        {"allOf": [{"anyOf": [{"properties": {f"p{i}": {}, f"q{j}": {}}} for i in range(6)]} for j in range(12)]}
    ),
    "ambiguities": Structure.grammar('start: a a a a a\na: a a | "a" | ""'),
    "large sets": Structure.grammar("start: " + " | ".join(f'"{each}x"' for each in range(6000))),
    "states": Structure.regex(".*a.{400}"),
    "quantifiers of GBNF": Structure.grammar("root ::= [a-z]{1000000000000,}"),
    "brackets of GBNF": Structure.grammar("root ::= " + "(" * 20_000),
}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.slow] if each == "repetitions" else []) for each in HOSTILE]
)
def test_a_hostile_structure_works_or_is_an_error_and_never_a_crash(nano: Source, name: str) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    dice = np.random.default_rng(0)
    try:
        answer = Structures(tokenizer).answer(HOSTILE[name], thinks=False)
        for _ in range(50):
            logits = answer.mask(dice.random(tokenizer.size, np.float32))
            if (token := int(logits.argmax())) in tokenizer.stop_ids:
                break
            answer.accept(token)
    except BadArgumentError as error:
        assert len(str(error)) < 700


def with_token(nano: Source, text: str) -> TextTokenizer:
    """MiMo-nano's tokenizer with one more token, as larger vocabularies have it."""
    data = read_tokenizer(untrusted.parse_json((nano.path / "tokenizer.json").read_text()))
    size = TextTokenizer(data).size
    return TextTokenizer(replace(data, added=[*data.added, AddedToken(text, size, special=False)]))


def generated(tokenizer: TextTokenizer, config: GenerationConfig, wanted: list[int]) -> list[GeneratedToken]:
    """The records of a generation whose model would say ``wanted``, and anything afterwards."""
    assert config.structure is not None
    structured = Structures(tokenizer).answer(config.structure, thinks=True)
    generation = Generation(tokenizer, config, ThinkingSplitter(), structured=structured)
    records, rest = list[GeneratedToken](), list(wanted)
    while not generation.stopped:
        logits = np.zeros(tokenizer.size, np.float32)
        if rest:
            logits[rest[0]] = 1
        token = generation.next(logits)
        assert token is not None and generation.count < 500
        if rest and token == rest[0]:
            del rest[0]
        records += generation.emit(token)
    return records


def test_the_token_that_closes_the_thinking_brings_nothing_of_the_answer(nano: Source) -> None:
    tokenizer = with_token(nano, ">no")
    config = GenerationConfig(temperature=0, structure=Structure.choice(["yes"]), thinking_budget=40)
    wanted = tokenizer.encode("<think>\n7 </think>no")
    assert tokenizer.token_bytes(wanted[-1]) == b">no"
    records = generated(tokenizer, config, wanted)
    assert told(records, "answer") == "yes" and "</think" in told(records, "thinking")
    inside = generated(tokenizer, config, [*tokenizer.encode("<think>\n7 "), wanted[-1], *tokenizer.encode("</think>")])
    assert (told(inside, "thinking"), told(inside, "answer")) == ("7 >no", "yes")


def test_a_turn_that_would_end_within_the_thinking_goes_on_with_the_answer(nano: Source) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    config = GenerationConfig(temperature=0, structure=Structure.choice(["yes"]))
    records = generated(tokenizer, config, [*tokenizer.encode("<think>\n7 + 8"), min(tokenizer.stop_ids)])
    assert (told(records, "thinking"), told(records, "answer")) == ("7 + 8", "yes")


@pytest.mark.parametrize("stop", [["</think>\n\nno"], ["</think>\n\nyesterday"]])
@pytest.mark.parametrize("budget", [5, 8, 9, 10, 11, 40])
def test_a_stop_string_that_begins_in_the_thinking_moves_nothing(nano: Source, stop: list[str], budget: int) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    config = GenerationConfig(
        temperature=0, structure=Structure.choice(["yes"]), stop=stop, thinking_budget=budget, max_tokens=400
    )
    wanted = tokenizer.encode("<think>\n7 + 8</think>")
    text = tokenizer.decode(ids_of(generated(tokenizer, config, wanted)))
    assert text.endswith("</think>\n\nyes") and text.count("</think>") == 1
