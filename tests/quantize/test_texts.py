"""What is measured on is never calibrated on: our prompts, the model's answers to them, and texts of users."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import evaluate, texts
from mimo_mobile.quantize.texts import calibration_texts, cut, evaluation_texts, prompts
from mimo_mobile.runtime import Model, load
from mimo_mobile.runtime.text.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer(nano: Source) -> TextTokenizer:
    return TextTokenizer.from_file(nano.path / "tokenizer.json")


@pytest.fixture(scope="module")
def model(nano_q4: dict[str, Path]) -> Model:
    return load(nano_q4["gguf"], speculate="off")


def test_both_halves_have_prompts_of_every_kind_and_none_in_common() -> None:
    halves = prompts("calibration"), prompts("evaluation")
    for half in halves:
        assert len(half) == 20 and {each.kind for each in half} == set(texts.KINDS)
        assert [each.kind for each in half[:5]] == list(texts.KINDS)
    said = [each.text.casefold().strip() for each in itertools.chain(*halves)]
    assert len(set(said)) == 40 and all(said)


def test_what_calibrates_holds_no_prompt_that_measures_and_no_held_out_problem(nano: Source) -> None:
    ours = texts.TEXT.read_text(encoding="utf-8") + "\n".join(each.text for each in prompts("calibration"))
    measured = [each.text for each in prompts("evaluation")]
    measured += [each.question for each in evaluate.read_problems(nano.path)]
    assert len(measured) > 600 and not [each for each in measured if each in ours]


def test_a_text_is_cut_into_windows_whose_second_half_is_measured() -> None:
    made = cut(range(1050), 512)
    assert [(each.ids[0], len(each.ids), each.first) for each in made] == [(0, 512, 256), (512, 512, 256)]
    assert made[0].targets == tuple(range(257, 512))  # 255 of them, as llama-perplexity has
    assert [len(each.ids) for each in cut(range(100), 512)] == [100]
    assert cut(range(7), 512) == []


def test_our_text_calibrates_and_answers_follow_it(model: Model, tokenizer: TextTokenizer) -> None:
    ours = calibration_texts(tokenizer, length=100_000)
    assert ours == [tuple(tokenizer.encode(texts.TEXT.read_text(encoding="utf-8")))]
    more = calibration_texts(tokenizer, model=model, tokens=len(ours[0]) + 300)
    assert sum(map(len, more)) <= len(ours[0]) + 300 and max(map(len, more)) <= texts.WINDOW
    answered = tokenizer.decode([each for ids in more for each in ids][len(ours[0]) :])
    assert prompts("calibration")[0].text in answered and prompts("evaluation")[0].text not in answered


def test_a_users_text_calibrates_alone(model: Model, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("one two three four " * 40, encoding="utf-8")
    made = calibration_texts(tokenizer, file=tmp_path / "my.txt", model=model, tokens=100, length=64)
    assert list(map(len, made)) == [64, 36]


def test_the_model_answers_held_out_problems_to_be_measured(model: Model, nano: Source) -> None:
    heldout = [texts.Prompt(each.kind, each.question) for each in evaluate.read_problems(nano.path)[::60]]
    seen: list[Progress] = []
    made = evaluation_texts(model, heldout=heldout, tokens=500, progress=seen.append)
    assert 300 < sum(len(each.ids) for each in made) <= 500
    for window, problem in zip(made, heldout, strict=False):
        asked, answered = window.ids[: window.first + 1], window.targets
        assert problem.text in model.tokenizer.decode(asked)
        assert model.tokenizer.decode(answered).lstrip().startswith("<think>")
    assert made == evaluation_texts(model, heldout=heldout, tokens=500)
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (500, 500, "tokens")


def test_too_few_tokens_for_any_answer_are_an_error(model: Model) -> None:
    with pytest.raises(BadArgumentError, match="no answers to measure on within 20 tokens; give more --tokens"):
        evaluation_texts(model, tokens=20)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"x", "fewer than 8 tokens"), (b"\xff\xfe" * 50, "not UTF-8"), (None, "cannot be read: No such file")],
)
def test_a_text_that_cannot_be_measured_on_is_an_error(
    content: bytes | None, said: str, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadArgumentError, match=said):
        texts.file_windows(tmp_path / "x", tokenizer)


def test_a_pipe_is_refused_without_waiting(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadArgumentError, match="a pipe found"):
        texts.file_windows(tmp_path / "pipe", tokenizer)


def test_of_a_large_file_only_the_beginning_is_cut_into_tokens(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("one two 12 " * 200_000, encoding="utf-8")
    expected = tuple(tokenizer.encode("one two 12 " * 100)[:64])
    start = time.process_time()
    assert calibration_texts(tokenizer, file=tmp_path / "large.txt", tokens=64) == [expected]
    assert [each.ids for each in texts.file_windows(tmp_path / "large.txt", tokenizer, 64)] == [expected]
    assert time.process_time() - start < 0.5
