"""Sessions of both backends on one tiny model: same tokens, streams, limits, cancelling."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import ContextFullError, ModelLoadError, SessionError
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message, Model, load
from tests import reference

GREEDY = GenerationConfig(temperature=0, max_tokens=12)
IDS = [3, 50, 99, 200, 17, 41, 8, 301]


@pytest.fixture(params=["gguf", "onnx"])
def model(request: pytest.FixtureRequest, tiny_gguf: Path, tiny_onnx: Path) -> Path:
    return tiny_gguf if request.param == "gguf" else tiny_onnx


@pytest.fixture
def session(model: Path) -> Iterator[Model]:
    with load(model, threads=2) as opened:
        yield opened


def ids_of(tokens: Iterator[GeneratedToken]) -> list[int]:
    return [token.token_id for token in tokens if token.token_id is not None]


def text_of(tokens: list[GeneratedToken]) -> str:
    return "".join(token.text for token in tokens)


def test_greedy_tokens_are_those_of_the_numpy_reference(session: Model, tiny_checkpoint: Checkpoint) -> None:
    weights = reference.load_weights(tiny_checkpoint)
    expected = reference.greedy(weights, tiny_checkpoint.config, IDS, 12, session.tokenizer.size)
    stops = [index for index, token in enumerate(expected) if token in session.tokenizer.stop_ids]
    assert ids_of(session.generate(IDS, GREEDY)) == expected[: stops[0] if stops else None]


def test_logits_of_a_long_prompt_equal_the_reference(session: Model, tiny_checkpoint: Checkpoint) -> None:
    ids = np.random.Generator(np.random.PCG64(3)).integers(0, 340, 300).tolist()
    expected = reference.trunk(reference.load_weights(tiny_checkpoint), tiny_checkpoint.config, ids).logits
    assert np.abs(session.logits(ids) - expected).max() < 0.02  # llama.cpp's flash attention computes in float16


def test_a_second_turn_reuses_the_cache_and_changes_nothing(session: Model, model: Path) -> None:
    first = ids_of(session.generate(IDS, GREEDY))
    longer = [*IDS, *first, 5, 6, 7]
    tokens = list(session.generate(longer, GREEDY))
    assert tokens[-1].stats is not None and tokens[-1].stats.cached_tokens >= len(IDS) + len(first) - 1
    with load(model) as fresh:
        assert ids_of(iter(tokens)) == ids_of(fresh.generate(longer, GREEDY))


def test_a_stop_id_or_a_limit_ends_with_its_reason_and_stats(session: Model) -> None:
    tokens = list(session.generate(IDS, GenerationConfig(temperature=0, max_tokens=3)))
    assert [token.finish_reason for token in tokens[:-1]] == [None] * (len(tokens) - 1)
    last = tokens[-1]
    assert last.finish_reason == "length" and last.stats is not None
    assert (last.stats.prompt_tokens, last.stats.generated_tokens) == (len(IDS), 3)
    assert last.stats.prefill_tps > 0 and last.stats.decode_tps > 0 and last.stats.time_to_first_token_s > 0
    assert last.stats.peak_rss_bytes > 10e6


def test_same_seed_same_tokens_and_another_seed_others(session: Model) -> None:
    def draw(seed: int) -> list[int]:
        return ids_of(session.generate(IDS, GenerationConfig(temperature=1.5, seed=seed, max_tokens=10)))

    assert draw(1) == draw(1) != draw(2)


def test_padding_is_never_sampled(session: Model) -> None:
    config = GenerationConfig(temperature=50.0, top_p=1.0, max_tokens=300, seed=0)
    drawn = ids_of(session.generate(IDS, config))
    assert drawn and max(drawn) < session.tokenizer.size == 342


def test_text_is_the_decoded_tokens_and_a_stop_string_cuts_it(session: Model) -> None:
    config = GenerationConfig(temperature=1.0, top_p=1.0, seed=4, max_tokens=40)
    tokens = list(session.generate(IDS, config))
    whole = text_of(tokens)
    assert whole.strip() == session.tokenizer.decode(ids_of(iter(tokens))).strip()
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    cut = list(session.generate(IDS, GenerationConfig(temperature=1.0, top_p=1.0, seed=4, max_tokens=40, stop=[stop])))
    assert text_of(cut) == whole[: whole.index(stop)]
    assert cut[-1].finish_reason == "stop"


def test_the_context_is_a_limit_and_not_a_crash(model: Path) -> None:
    with load(model, context_length=24) as small:
        with pytest.raises(ContextFullError, match=r"^the prompt has 24 tokens, the context holds 24 with the answer"):
            small.generate([5] * 24)
        tokens = list(small.generate([5] * 20, GenerationConfig(temperature=0, max_tokens=99)))
        assert tokens[-1].finish_reason in ("length", "stop")
        assert len(ids_of(iter(tokens))) <= 4


def test_a_text_of_megabytes_is_refused_by_its_beginning(model: Path) -> None:
    text = "Add 12 to 30. " * 500_000
    with load(model, context_length=64, speculate="off") as small:
        for prompt in (text, [Message("user", text)]):
            started = time.process_time()
            with pytest.raises(ContextFullError, match=r"^the first 1,024 of a text's 7,000,000 characters have .* 64"):
                next(small.generate(prompt))
            assert time.process_time() - started < 0.5
        with pytest.raises(ContextFullError, match=r"^the prompt has \d+ tokens, the context holds 64"):
            next(small.generate("1" * 1024))


def test_more_context_than_was_trained_is_refused(model: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"context_length 513 asked for, the model was trained for 512$"):
        load(model, context_length=513)


def test_one_generation_at_a_time(session: Model) -> None:
    running = session.generate(IDS, GREEDY)
    next(running)
    with pytest.raises(SessionError, match="the model is busy"):
        next(session.generate(IDS, GREEDY))
    running.close()
    assert ids_of(session.generate(IDS, GREEDY))


def test_cancel_between_tokens_ends_with_the_next(session: Model) -> None:
    config = GenerationConfig(temperature=1.0, top_p=1.0, seed=1, max_tokens=200)
    tokens: list[GeneratedToken] = []
    for token in session.generate(IDS, config):
        tokens.append(token)
        if len(tokens) == 3:
            threading.Thread(target=session.cancel).start()
            time.sleep(0.2)
    assert tokens[-1].finish_reason == "cancelled" and len(ids_of(iter(tokens))) <= 4
    assert ids_of(session.generate(IDS, GREEDY))  # and the session goes on


def test_cancel_during_prefill_ends_it_before_the_prompt_is_read(nano_gguf: Path, nano_onnx: Path) -> None:
    for path in (nano_gguf, nano_onnx):
        with load(path, context_length=2048, threads=1) as session:
            prompt = [7] * 2040
            started = time.perf_counter()
            session.logits(prompt)
            whole_s = time.perf_counter() - started
            threading.Timer(whole_s / 10, session.cancel).start()
            tokens = list(session.generate(prompt, GREEDY))
            assert [token.finish_reason for token in tokens] == ["cancelled"], path
            assert tokens[0].stats is not None and tokens[0].stats.generated_tokens == 0


@pytest.mark.parametrize("speculate", ["off", "mtp"])
@pytest.mark.parametrize("engine", ["gguf", "onnx"])
def test_what_a_cancelled_prompt_had_computed_is_not_computed_again(
    nano_q4: dict[str, Path], engine: str, speculate: Literal["off", "mtp"], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [7 + place % 90 for place in range(1200)]
    with load(nano_q4[engine], context_length=1300, threads=2, speculate=speculate) as model:
        expected = ids_of(model.session().generate(prompt, GREEDY))
        with model.exclusive() as backend:
            computing: Any = backend._context if engine == "gguf" else backend._graph  # type: ignore[attr-defined]
        session, real, runs = model.session(), computing.run, list[int]()

        def run(ids: Sequence[int], *others: Any, **more: Any) -> Any:
            runs.append(len(ids))
            if len(runs) == 3:
                session.cancel()
            return real(ids, *others, **more)

        monkeypatch.setattr(computing, "run", run)
        assert [token.finish_reason for token in session.generate(prompt, GREEDY)] == ["cancelled"]
        assert len(runs) == 3 and session.tokens == prompt[: sum(runs[:2])]
        tokens = list(session.generate(prompt, GREEDY))
        assert tokens[-1].stats is not None and tokens[-1].stats.cached_tokens == sum(runs[:2]) > 0
        assert ids_of(iter(tokens)) == expected


def test_bad_arguments_are_errors_that_say_so(session: Model) -> None:
    with pytest.raises(SessionError, match="the prompt is empty"):
        session.generate([])
    for field, value in {"temperature": -1, "top_p": 0, "top_k": -1, "min_p": 2, "max_tokens": 0, "stop": [""]}.items():
        with pytest.raises(ValueError, match=rf"^{field} .* is out of range$"):
            GenerationConfig(**{field: value})  # type: ignore[arg-type]


def test_a_closed_model_says_so(model: Path) -> None:
    session = load(model)
    session.close()
    session.close()
    with pytest.raises(SessionError, match="the model is closed"):
        session.generate(IDS)


def test_closing_ends_a_suspended_and_a_running_generation(model: Path) -> None:
    with load(model) as session:
        suspended = session.generate(IDS, GREEDY)
        next(suspended)
    assert [token.finish_reason for token in suspended][-1] == "cancelled"
    session = load(model)
    config = GenerationConfig(temperature=1.0, top_p=1.0, seed=1, max_tokens=400)
    tokens: list[GeneratedToken] = []
    thread = threading.Thread(target=lambda: tokens.extend(session.generate(IDS, config)))
    thread.start()
    time.sleep(0.05)
    session.close()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert tokens[-1].finish_reason in ("cancelled", "stop", "length")


def test_messages_go_through_the_models_template(session: Model) -> None:
    ids = session.encode_prompt([Message("user", "hi")], GenerationConfig())
    text = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert ids == session.tokenizer.encode(text)
    assert session.encode_prompt(text, GenerationConfig()) == ids
