"""What can be measured of a server's model over its API, beside the same file measured here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.cli import main
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.entries import Entry
from mimo_mobile.errors import BadArgumentError, EndpointError
from mimo_mobile.hub import Source, resolve
from mimo_mobile.quantize import served as serving
from mimo_mobile.quantize.calibrator import Calibrator
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.given import Given, hash_of, texts_for
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.quality import Excerpt, Job, Quality, measure_endpoint, measure_quality
from mimo_mobile.quantize.recipes import recipe_named
from mimo_mobile.quantize.served import ServedModel
from mimo_mobile.quantize.texts import Window, prompts
from mimo_mobile.runtime import Endpoint, GenerationConfig, LoadConfig, Message, Model, load
from mimo_mobile.runtime.text.chat_template import encode_messages
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.commands import runner
from tests.llama_server import served
from tests.model_server import Form, model_server
from tests.served import chat, json_reply, server, stream

PLAIN = LoadConfig(speculate="off")
JOB = Job(PLAIN, against="nano", tokens=200, problems=4, seeds=2, max_tokens=160)


@pytest.fixture(scope="module")
def file(nano: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nano")
    quantize_checkpoint(nano, out, ["q4_0"], problems=0, effort="none")
    return out / "mimo-nano-q4_0.gguf"


@pytest.fixture(scope="module")
def model(file: Path) -> Iterator[Model]:
    with load(file, PLAIN) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def here(file: Path) -> Quality:
    return measure_quality(file, JOB)


def measured(model: Model, form: Form, job: Job = JOB) -> Quality:
    with model_server(model, form) as there, Endpoint(there.url) as endpoint:
        return measure_endpoint(endpoint, job)


@pytest.mark.parametrize("form", ["vllm", "llama"])
def test_a_server_is_measured_as_its_file_is(form: Form, model: Model, here: Quality, monkeypatch: Any) -> None:
    monkeypatch.setitem(serving.TOLD, "next", 20)
    there = measured(model, form)
    assert there.greedy == here.greedy and there.greedy is not None and there.greedy.share > 0.5
    assert there.sampled is not None and (there.sampled.problems, there.sampled.seeds) == (4, 2)
    assert there.thinking is not None and there.thinking.answers == 12 and there.thinking.unclosed < 0.2
    assert there.perplexity == pytest.approx(here.perplexity, rel=1e-5)
    assert there.tokens == here.tokens  # the checkpoint's text, which was kept
    ours, theirs = here.divergence, there.divergence
    assert ours is not None and theirs is not None and there.excerpt is not None and there.excerpt.likeliest == 20
    assert theirs.same_top == ours.same_top and theirs.reference_perplexity == ours.reference_perplexity
    assert 0.5 * ours.mean_kld < theirs.mean_kld <= ours.mean_kld + 1e-6
    assert theirs.kld_bound == float("inf")


def test_thinking_is_counted_in_the_checkpoints_tokens(model: Model, file: Path) -> None:
    job = Job(PLAIN, against="nano", tokens=0, problems=6, seeds=0, max_tokens=48)  # some are cut off
    there = measured(model, "llama", job)
    here = measure_quality(file, Job(PLAIN, against="nano", tokens=64, problems=6, seeds=0, max_tokens=48))
    assert there.thinking == here.thinking and there.perplexity is None and there.unavailable is None


def test_what_a_server_does_not_tell_is_said(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("words " * 100)
    with model_server(model, "plain") as there:
        words = ["eval", "--endpoint", there.url, "--against", "nano", "--problems", "2", "--seeds", "0"]
        found = runner().invoke(main, words)
        assert found.exit_code == 0, found.stderr
        assert "exact match, greedy" in found.stdout and "perplexity" not in found.stdout
        assert "There is no perplexity or KL divergence: the server tells the ids of likely tokens" in found.stderr
        found = runner().invoke(main, [*words, "--json"])
        assert json.loads(found.stdout)["perplexity"] is None
        found = runner().invoke(main, [*words, "--text", str(tmp_path / "text.txt")])
        assert found.exit_code == 2 and "--text: the server tells the ids" in found.stderr


def test_the_table_says_that_a_divergence_is_a_lower_bound(model: Model) -> None:
    with model_server(model, "vllm") as there:
        words = ["eval", "--endpoint", there.url, "--against", "nano", "--problems", "0", "--tokens", "300"]
        found = runner().invoke(main, words)
    assert found.exit_code == 0, found.stderr
    assert "mean KL divergence, at least (by 20 tokens)" in found.stdout and "99 %" not in found.stdout
    assert "mimo at http://127.0.0.1" in found.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--endpoint needs --against with the checkpoint"),
        (["--against", __file__ + ".gguf"], "--endpoint needs --against with the checkpoint"),
        (["--against", "nano", "--threads", "2"], "--threads is for a MODEL"),
        (["--against", "nano", "--tokens", "3"], "--tokens must be 64 or more, or 0"),
    ],
)
def test_eval_of_a_server_refuses_what_makes_no_sense(words: list[str], message: str) -> None:
    found = runner().invoke(main, ["eval", "--endpoint", "http://127.0.0.1:1", *words])
    assert found.exit_code == 2 and message in found.stderr, found.stderr


@pytest.fixture
def tiny_served(tiny_checkpoint: Checkpoint) -> Iterator[Any]:
    def made(answer: object) -> str | list[object]:
        with server(json_reply(answer)) as there, Endpoint(there.url) as endpoint:
            there_served = ServedModel(endpoint, tiny_checkpoint)
            way = there_served.way()
            if way not in ("prompt", "next"):
                return way
            return [*there_served.predictions(way, Window((1, 2), 0)).ids.tolist()]

    yield made


def test_another_model_is_found_out(tiny_served: Any) -> None:
    with pytest.raises(BadArgumentError, match="cuts a text into 3 tokens, the checkpoint into"):
        tiny_served({"choices": [{}], "usage": {"prompt_tokens": 3}})


@pytest.mark.parametrize(
    "told",
    [
        [None], [None, None], [None, {}], [None, {"-1": {"logprob": -1}}], [None, {"9999999": {"logprob": -1}}],
        [None, {"1": {"logprob": 2}}], [None, {"1": {"logprob": "x"}}], [None, {"1": {}}], 4,
    ],
)  # fmt: skip
def test_predictions_that_are_none_are_refused(told: object, tiny_served: Any) -> None:
    with pytest.raises(EndpointError, match="predictions have another form than expected"):
        tiny_served({"choices": [{"prompt_logprobs": told}]})


def test_another_chat_template_is_told(tiny_checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 1}
    with server(stream(*chat({"content": "x"}, usage=usage))) as there, Endpoint(there.url) as endpoint:
        ServedModel(endpoint, tiny_checkpoint).check()
    assert "a question becomes a prompt of 7 tokens there, and of " in caplog.text


def test_a_server_without_completions_still_answers_problems(tiny_checkpoint: Checkpoint) -> None:
    with server(json_reply({}, "404 Not Found")) as there, Endpoint(there.url) as endpoint:
        assert "the server says nothing of its predictions" in ServedModel(endpoint, tiny_checkpoint).way()
    with server(json_reply({}, "500 Oh")) as there, Endpoint(there.url) as endpoint:
        with pytest.raises(EndpointError, match="500"):
            ServedModel(endpoint, tiny_checkpoint).way()


def test_numbers_that_are_none_are_refused(tiny_served: Any) -> None:
    with pytest.raises(EndpointError, match="numbers of tokens have another form than expected: usage"):
        tiny_served({"choices": [{}], "usage": {"prompt_tokens": "3"}})
    with pytest.raises(EndpointError, match="predictions have another form than expected: choices"):
        tiny_served({"choices": 3})


def test_a_server_answers_for_calibration_and_the_manifest_will_say_so(tiny: Source, tmp_path: Path) -> None:
    thought, said = "Seven boxes hold 84 pens.", "So there are 84 pens. " * 8
    checkpoint, recipe = Checkpoint.open(tiny.path), recipe_named("q4_0")
    with server(stream(*chat({"reasoning_content": thought}, {"content": said})), names=["tiny-bf16"]) as there:
        given = Given.read(checkpoint, "high", None, None, Endpoint(there.url))
        by = Calibrator(checkpoint, given, [recipe], tmp_path / "work", "x").calibrated_by(recipe)
        asked = [each.body["messages"][-1]["content"] for each in there.requests if each.method == "POST"][1:]
        assert asked == [each.text for each in prompts("calibration")][: len(asked)] and len(asked) > 10
        count = len(there.requests)
        assert Calibrator(checkpoint, given, [recipe], tmp_path / "work", "x").calibrated_by(recipe) == by
        assert len(there.requests) == count  # what a killed run was told is kept
    tokenizer = TextTokenizer.from_file(tiny.path / "tokenizer.json")
    answer = tokenizer.encode(f"<think>\n{thought}\n</think>\n\n{said}")
    length = min(512, checkpoint.config.max_position_embeddings)
    ours = [token for piece in texts_for(checkpoint) for token in piece]
    pieces = [tuple(ours[start : start + length]) for start in range(0, len(ours), length)]
    pieces += [tuple((*served_prompt(checkpoint, question), *answer)[:length]) for question in asked]
    assert by["answered_by"] == f"tiny-bf16 at {there.url}/v1"
    assert by["answers"] == hash_of(pieces)
    entry = Entry("q4_0", "gguf", "x", 4.5, 1, (), {}, effort="high", calibrated_by=by)
    assert given.made(entry, recipe)
    assert not Given.read(checkpoint, "high", None, None).made(entry, recipe)


def served_prompt(checkpoint: Checkpoint, question: str) -> list[int]:
    tokenizer = TextTokenizer.from_file(checkpoint.path / "tokenizer.json")
    assert checkpoint.vocabulary.chat_template is not None
    return encode_messages(checkpoint.vocabulary.chat_template, [Message("user", question)], tokenizer)


def test_a_server_that_would_answer_nothing_is_a_mistake(tmp_path: Path) -> None:
    words = ["quantize", "nano", "--endpoint", "http://127.0.0.1:1", "--out", str(tmp_path)]
    for more in ([], ["--effort", "high", "--calibration", __file__]):
        found = runner().invoke(main, [*words, *more])
        assert found.exit_code == 2 and "--endpoint answers the prompts that --effort high" in found.stderr
    found = runner().invoke(main, [*words, "--effort", "high"])
    assert found.exit_code == 1 and "cannot be reached" in found.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_llama_server_answers_and_is_measured_as_our_runtime_with_the_same_file(
    file: Path, model: Model, tmp_path: Path
) -> None:
    greedy = GenerationConfig(temperature=0, max_tokens=160)
    job = replace(JOB, problems=44, seeds=1)
    here = measure_quality(file, job)
    with served(file, tmp_path / "log") as address, Endpoint(address) as endpoint:
        for problem in read_problems(resolve("nano").path)[::60]:
            asked = [Message("user", problem.question)]
            answers = ["".join(each.text for each in tokens.generate(asked, greedy)) for tokens in (model, endpoint)]
            assert answers[0] == answers[1]
        *_, last = endpoint.generate(asked, greedy)
        assert last.stats is not None and last.stats.decode_tps > 0
        there = measure_endpoint(endpoint, job)
        words = ["--endpoint", address, "--json"]
        run = runner().invoke(main, ["run", *words, "What is 12 + 30?", "--seed", "1", "--max-tokens", "99"])
        assert run.exit_code == 0 and json.loads(run.stdout)["answer"] == "42", run.stderr
        bench = runner().invoke(main, ["bench", *words, "--repeats", "2"])
        assert bench.exit_code == 0 and json.loads(bench.stdout)["client_decode_tps"] > 0, bench.stderr
    assert there.greedy == here.greedy and there.thinking is not None and there.sampled is not None
    assert there.perplexity == pytest.approx(here.perplexity, rel=1e-3)
    ours, theirs = here.divergence, there.divergence
    assert ours is not None and theirs is not None and there.excerpt == Excerpt(512, 0)
    assert abs(theirs.same_top - ours.same_top) < 0.01
    assert theirs.mean_kld == pytest.approx(ours.mean_kld, rel=0.1, abs=1e-5)
