"""Speculation changes speed and no token: greedy and sampled, with every drafter, up to every border."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.errors import BackendUnavailableError
from mimo_mobile.hub import resolve
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message, Model, load
from mimo_mobile.runtime.decode import pace
from mimo_mobile.runtime.decode.sampling import distribution
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.from_file(resolve("nano").path / "tokenizer.json")
GREEDY = GenerationConfig(temperature=0, max_tokens=200)
QUESTIONS = [each.question for each in read_problems(resolve("nano").path)[::3]]
FEW = QUESTIONS[::10]
MANY = [each for each in QUESTIONS if each not in FEW]

SIMILAR = ["int4_b128", "int8", "q4_k_m", "q5_k_m", "q6_k"]

DRAFTING = [("onnx", "mtp"), ("onnx", "ngram"), ("gguf", "mtp"), ("gguf", "ngram"), ("onnx", "auto"), ("gguf", "auto")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("speculation")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32", "q8_0"], problems=0)
    return {"onnx": out / "mimo-nano-int4_b32-onnx", "gguf": out / "mimo-nano-q8_0.gguf"}


def session_of(models: dict[str, Path], backend: str, mode: str, **options: object) -> Model:
    return load(models[backend], speculate=mode, cache=False, **options)  # type: ignore[arg-type]


def ids_of(tokens: Iterator[GeneratedToken]) -> list[int]:
    return [token.token_id for token in tokens if token.token_id is not None]


@pytest.fixture(scope="module")
def without_drafts(models: dict[str, Path]) -> Callable[[str, Sequence[str]], list[list[int]]]:
    """The answers of a backend to questions; each is asked once."""
    answers: dict[tuple[str, str], list[int]] = {}

    def answers_to(backend: str, questions: Sequence[str]) -> list[list[int]]:
        if any((backend, each) not in answers for each in questions):
            with session_of(models, backend, "off") as plain:
                for each in questions:
                    answers[backend, each] = ids_of(plain.generate([Message("user", each)], GREEDY))
        return [answers[backend, each] for each in questions]

    return answers_to


@pytest.mark.parametrize(("backend", "mode"), DRAFTING)
@pytest.mark.parametrize("questions", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_greedy_answers_to_questions_are_those_without(
    models: dict[str, Path],
    without_drafts: Callable[[str, Sequence[str]], list[list[int]]],
    questions: Sequence[str],
    backend: str,
    mode: str,
) -> None:
    assert len(FEW) + len(MANY) == len(QUESTIONS) >= 200
    with session_of(models, backend, mode) as drafting:
        drafted = accepted = 0
        for question, expected in zip(questions, without_drafts(backend, questions), strict=True):
            tokens = list(drafting.generate([Message("user", question)], GREEDY))
            assert ids_of(iter(tokens)) == expected, question
            assert tokens[-1].stats is not None
            drafted += tokens[-1].stats.drafted_tokens
            accepted += tokens[-1].stats.accepted_tokens
    assert mode == "auto" or drafted > 300
    if mode == "mtp":
        assert accepted > 0.85 * drafted


@pytest.mark.parametrize(("backend", "mode"), DRAFTING[:4])
def test_an_int8_kv_cache_and_prompts_of_several_runs_change_nothing(
    models: dict[str, Path], backend: str, mode: str
) -> None:
    long = " ".join(QUESTIONS[:24])
    options = {"kv_dtype": "int8"}
    with (
        session_of(models, backend, "off", **options) as plain,
        session_of(models, backend, mode, **options) as drafting,
    ):
        for question in [long, *QUESTIONS[:20]]:
            messages = [Message("user", question)]
            config = replace(GREEDY, max_tokens=120)
            tokens = list(drafting.generate(messages, config))
            assert ids_of(iter(tokens)) == ids_of(plain.generate(messages, config)), question
            if question is long:
                assert tokens[-1].stats is not None and tokens[-1].stats.prompt_tokens > 300


@pytest.mark.parametrize(
    "recipe",
    ["int4_b64", "q4_0", *(pytest.param(each, marks=pytest.mark.slow) for each in SIMILAR)],
)
def test_every_recipe_drafts_and_changes_no_token(tmp_path: Path, recipe: str) -> None:
    quantize_checkpoint(resolve("nano"), tmp_path, [recipe], problems=0)
    with load(tmp_path, speculate="off") as plain, load(tmp_path, speculate="mtp", cache=False) as drafting:
        drafted = accepted = 0
        for question in QUESTIONS[:15]:
            tokens = list(drafting.generate([Message("user", question)], GREEDY))
            assert ids_of(iter(tokens)) == ids_of(plain.generate([Message("user", question)], GREEDY))
            assert tokens[-1].stats is not None
            drafted += tokens[-1].stats.drafted_tokens
            accepted += tokens[-1].stats.accepted_tokens
    assert accepted > 0.85 * drafted > 0


@pytest.mark.slow
def test_several_drafts_in_a_row_change_no_token(models: dict[str, Path]) -> None:
    with session_of(models, "onnx", "off") as plain, session_of(models, "onnx", "mtp", mtp_drafts=3) as drafting:
        for question in QUESTIONS[:40]:
            tokens = list(drafting.generate([Message("user", question)], GREEDY))
            assert ids_of(iter(tokens)) == ids_of(plain.generate([Message("user", question)], GREEDY))
        assert drafting.speculator is not None
        assert [verified > 0 for verified, _ in drafting.speculator.counts[:4]] == [True, True, True, False]
    with pytest.raises(BackendUnavailableError, match="leave mtp_drafts at 1"):
        session_of(models, "gguf", "mtp", mtp_drafts=2)


@pytest.mark.parametrize(("backend", "mode"), DRAFTING[:4])
def test_the_same_seed_gives_the_same_sampled_text(models: dict[str, Path], backend: str, mode: str) -> None:
    config = GenerationConfig(temperature=1.4, top_p=0.97, top_k=60, min_p=0.01, max_tokens=60)
    with session_of(models, backend, "off") as plain, session_of(models, backend, mode) as drafting:
        for seed, question in enumerate(QUESTIONS[:30]):
            seeded = replace(config, seed=seed)
            expected = ids_of(plain.generate([Message("user", question)], seeded))
            assert ids_of(drafting.generate([Message("user", question)], seeded)) == expected


@pytest.mark.slow
def test_sampled_tokens_are_distributed_as_the_models_say(models: dict[str, Path]) -> None:
    """Chi-square over pairs of tokens, of which the second is the verified draft or what came in its place."""
    draws = 20_000
    # So hot that nano is not certain of what comes first, and drafts are right about half of the time.
    config = GenerationConfig(temperature=6.0, top_p=0.9, top_k=12, min_p=0.02, max_tokens=3)
    filters = {"temperature": 6.0, "top_p": 0.9, "top_k": 12, "min_p": 0.02}
    with session_of(models, "onnx", "mtp") as session:
        ids = session.encode_prompt([Message("user", "Solve 7x + 12 = 3x + 52.")], config)
        found, accepted, drafted = Counter[tuple[int, ...]](), 0, 0
        for seed in range(draws):
            tokens = list(session.generate(ids, replace(config, seed=seed)))
            stats = tokens[-1].stats
            assert stats is not None
            accepted, drafted = accepted + stats.accepted_tokens, drafted + stats.drafted_tokens
            made = ids_of(iter(tokens))
            found[tuple(made[:2]) if len(made) > 1 else (made[0] if made else -1, -1)] += 1
        size, stops = session.tokenizer.size, session.tokenizer.stop_ids
        first = distribution(session.logits(ids)[-1, :size], **filters)  # type: ignore[arg-type]
        expected: dict[tuple[int, int], float] = {}
        for token in np.flatnonzero(first):
            if int(token) in stops:
                expected[-1, -1] = expected.get((-1, -1), 0.0) + first[token]
                continue
            second = distribution(session.logits([*ids, int(token)])[-1, :size], **filters)  # type: ignore[arg-type]
            for after in np.flatnonzero(second):
                pair = (int(token), -1 if int(after) in stops else int(after))
                expected[pair] = expected.get(pair, 0.0) + first[token] * second[after]
    assert drafted > draws / 2 and 0.1 * drafted < accepted < 0.9 * drafted
    assert set(found) <= set(expected)
    # Rare pairs together in one class, as the test wants at least five in each.
    frequent = [pair for pair, share in expected.items() if share * draws >= 5]
    classes = [(found[pair], expected[pair] * draws) for pair in frequent]
    classes.append((draws - sum(count for count, _ in classes), draws - sum(count for _, count in classes)))
    chi_square = sum((seen - wanted) ** 2 / wanted for seen, wanted in classes if wanted > 1e-6)
    degrees = len(frequent)
    assert degrees > 20
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations


@pytest.mark.parametrize(("backend", "mode"), DRAFTING[:4])
@pytest.mark.parametrize("room", [1, 2, 3, 5, 30])
def test_the_context_may_end_anywhere(models: dict[str, Path], backend: str, mode: str, room: int) -> None:
    with session_of(models, backend, "off") as plain:
        ids = plain.encode_prompt([Message("user", QUESTIONS[3])], GREEDY)
    options = {"context_length": len(ids) + room}
    ends = []
    for each in "off", mode:
        with session_of(models, backend, each, **options) as session:
            tokens = list(session.generate(ids, GREEDY))
            ends.append((ids_of(iter(tokens)), tokens[-1].finish_reason))
    assert ends[0] == ends[1] and ends[0][1] == "length"


@pytest.mark.parametrize(("backend", "mode"), DRAFTING[:4])
def test_limits_and_stop_strings_cut_at_the_same_token(models: dict[str, Path], backend: str, mode: str) -> None:
    configs = [replace(GREEDY, max_tokens=count) for count in (1, 2, 3, 4, 17)]
    configs += [replace(GREEDY, stop=(stop,)) for stop in ("+", "=1", "\n", "</think>")]
    configs += [replace(GREEDY, thinking_budget=budget) for budget in (0, 1, 6, 11)] + [replace(GREEDY, thinking=False)]
    with session_of(models, backend, "off") as plain, session_of(models, backend, mode) as drafting:
        for config in configs:
            expected, found = (
                [replace(token, stats=None) for token in each.generate([Message("user", QUESTIONS[5])], config)]
                for each in (plain, drafting)
            )
            assert found == expected


@pytest.mark.parametrize(("backend", "mode"), DRAFTING[:4])
def test_after_cancelling_and_closing_in_the_middle_the_next_answer_is_right(
    models: dict[str, Path], backend: str, mode: str
) -> None:
    messages = [Message("user", QUESTIONS[7])]
    with session_of(models, backend, "off") as plain, session_of(models, backend, mode) as drafting:
        expected = ids_of(plain.generate(messages, GREEDY))
        for count in range(1, 12):
            tokens = drafting.generate(messages, GREEDY)
            begun = [token for token in (next(tokens).token_id for _ in range(count)) if token is not None]
            if count % 2:
                tokens.close()
            else:
                drafting.cancel()
                rest = list(tokens)
                assert rest[-1].finish_reason == "cancelled"
            assert begun == expected[: len(begun)]
            assert ids_of(drafting.generate(messages, GREEDY)) == expected


@pytest.mark.parametrize("backend", ["onnx", "gguf"])
def test_long_prompts_without_a_common_beginning_draft_as_well_as_fresh_ones(
    models: dict[str, Path], backend: str
) -> None:
    prompts = [f"{' '.join(QUESTIONS[at : at + 5])} {QUESTIONS[at]}" for at in (0, 30, 60, 90)]

    def share(session: Model, prompt: str) -> tuple[int, int]:
        stats = list(session.generate([Message("user", prompt)], replace(GREEDY, max_tokens=60)))[-1].stats
        assert stats is not None and stats.prompt_tokens > 64
        return stats.drafted_tokens, stats.accepted_tokens

    fresh = []
    for prompt in prompts:
        with session_of(models, backend, "mtp") as session:
            fresh.append(share(session, prompt))
    with session_of(models, backend, "mtp") as session:
        assert [share(session, prompt) for prompt in prompts] == fresh
    assert sum(drafted for drafted, _ in fresh) > 40


def test_logits_and_generations_take_turns(models: dict[str, Path]) -> None:
    for backend in "onnx", "gguf":
        with session_of(models, backend, "mtp") as session:
            before = session.logits(list(range(40)))
            expected = ids_of(session.generate([Message("user", QUESTIONS[2])], GREEDY))
            np.testing.assert_array_equal(session.logits(list(range(40))), before)
            assert ids_of(session.generate([Message("user", QUESTIONS[2])], GREEDY)) == expected


@pytest.mark.parametrize("backend", ["onnx", "gguf"])
def test_costs_are_measured_at_load_and_that_is_told_when_it_takes_long(
    models: dict[str, Path], backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for least_s, told in ((60.0, False), (0.0, True)):
        caplog.clear()
        monkeypatch.setattr(pace, "WORTH_SAYING_S", least_s)
        with session_of(models, backend, "auto") as model:
            assert model.speculator is not None and all(each > 0 for each in model.speculator.costs.rows_s)
        assert ("measuring what runs of 1 to 8 tokens cost" in caplog.text) is told


def test_turns_that_share_a_beginning_draft_as_well_as_fresh_ones(models: dict[str, Path]) -> None:
    with session_of(models, "onnx", "off") as plain, session_of(models, "onnx", "mtp") as drafting:
        messages = []
        for question in QUESTIONS[:6]:
            messages.append(Message("user", question))
            expected = ids_of(plain.generate(messages, GREEDY))
            tokens = list(drafting.generate(messages, GREEDY))
            assert ids_of(iter(tokens)) == expected
            messages.append(Message("assistant", "".join(t.text for t in tokens if t.channel == "answer")))
        stats = tokens[-1].stats
        assert stats is not None and stats.cached_tokens > 20
        with session_of(models, "onnx", "mtp") as fresh:
            alone = list(fresh.generate(messages[:-1], GREEDY))[-1].stats
        assert alone is not None and (stats.drafted_tokens, stats.accepted_tokens) == (
            alone.drafted_tokens,
            alone.accepted_tokens,
        )


def test_what_runs_cost_is_measured_once_and_remembered(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path))
    with load(models["onnx"]) as session:
        list(session.generate("12 + 30", replace(GREEDY, max_tokens=2)))
    assert not list(tmp_path.glob("costs/*"))  # MiMo-nano's take no time
    monkeypatch.setattr(pace, "WORTH_KEEPING_S", 0)
    for _ in range(2):
        with load(models["onnx"]) as session:
            list(session.generate("12 + 30", replace(GREEDY, max_tokens=2)))
    (file,) = tmp_path.glob("costs/*.json")
    costs = json.loads(file.read_text())
    assert len(costs["rows_s"]) == 8 and all(each > 0 for each in [*costs["rows_s"], costs["draft_s"]])
    file.write_text("nonsense")
    with load(models["onnx"]) as session:
        list(session.generate("12 + 30", replace(GREEDY, max_tokens=2)))
    assert json.loads(file.read_text())["rows_s"]
