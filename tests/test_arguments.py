"""Arguments of a wrong type are named, whatever they are; NumPy's numbers are numbers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimo_mobile.errors import BadArgumentError
from mimo_mobile.runtime import GenerationConfig, LoadConfig, Message, load


class Odd:
    """Nothing can be done with it, not even shown."""

    def __eq__(self, _: object) -> bool:
        raise RuntimeError("compared")

    def __repr__(self) -> str:
        raise RuntimeError("shown")

    __hash__ = None  # type: ignore[assignment]


VALUES = (
    "4", "hot", "", b"x", None, True, 1, -1, 1.5, math.nan, math.inf, 2**63, 2**70, 10**400, 10**5000, [], (), {}, [1],
    [None], [""], "a\x1b", object(), Odd(), int, np.zeros(2),
)  # fmt: skip


@pytest.mark.parametrize("config", [LoadConfig, GenerationConfig])
def test_a_config_takes_or_names_whatever_it_is_given(config: type[Any]) -> None:
    for field in dataclasses.fields(config):
        for value in VALUES:
            try:
                taken = getattr(config(**{field.name: value}), field.name)
            except BadArgumentError as error:
                assert str(error).startswith(field.name) and "\x1b" not in str(error) and len(str(error)) < 300
            else:
                own = type(taken) is (float if field.default is None else type(field.default))
                assert taken is value or (taken == value and own), (field.name, value)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: LoadConfig(threads="4"), r"^threads is '4', of type str; a whole number below 2\*\*64 expected$"),
        (lambda: LoadConfig(threads=True), r"^threads is True, of type bool; a whole number below 2\*\*64 expected$"),
        (lambda: LoadConfig(repack=1), r"^repack is 1, of type int; True or False expected$"),
        (lambda: LoadConfig(ep="tpu"), r"^ep 'tpu' is unknown; one of auto, .* expected$"),
        (lambda: LoadConfig(kv_dtype=8), r"^kv_dtype is 8, of type int; one of f32, f16, int8 expected$"),
        (lambda: LoadConfig(ep_options={"vtcm_mb": 8}), r"^ep_options is .*, of type dict; .*QnnOptions.* expected$"),
        (lambda: GenerationConfig(temperature="hot"), r"^temperature is 'hot', of type str; a number expected$"),
        (lambda: GenerationConfig(temperature=math.nan), r"^temperature nan is out of range$"),
        (lambda: GenerationConfig(stop="x"), r"^stop is 'x', of type str; a list of texts expected$"),
        (lambda: GenerationConfig(repetition_penalty=0), r"^repetition_penalty 0.0 is out of range$"),
        (lambda: GenerationConfig(presence_penalty=2.1), r"^presence_penalty 2.1 is out of range$"),
        (lambda: GenerationConfig(frequency_penalty=math.nan), r"^frequency_penalty nan is out of range$"),
        (lambda: GenerationConfig(logprobs=21), r"^logprobs 21 is out of range$"),
        (lambda: GenerationConfig(logit_bias={5: 101}), r"^logit_bias \{5: 101\} is out of range$"),
        (lambda: GenerationConfig(logit_bias={-1: 1}), r"^logit_bias \{-1: 1\} is out of range$"),
        (
            lambda: GenerationConfig(logit_bias={"a": 1}),
            r"^logit_bias is \{'a': 1\}, of type dict; a mapping from whole numbers to numbers expected$",
        ),
        (lambda: GenerationConfig(stop=[5]), r"^stop is \[5\], of type list; a list of texts expected$"),
        (lambda: load("x", threads="4"), r"^threads is '4'"),
        (lambda: load(5), r"^path is 5, of type int; a text or a Path expected$"),  # type: ignore[arg-type]
        (lambda: load("x", {"threads": 4}), r"^config is .*, of type dict; a LoadConfig expected$"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_the_message_says_what_was_found_and_what_is_expected(made: Any, said: str) -> None:
    with pytest.raises(BadArgumentError, match=said):
        made()


def test_numbers_of_numpy_are_taken_as_pythons() -> None:
    config = GenerationConfig(temperature=np.float32(0.5), top_p=1, seed=np.int64(7), top_k=np.uint8(3))
    assert (config.temperature, config.top_p, config.seed, config.top_k) == (0.5, 1.0, 7, 3)
    assert [type(each) for each in (config.temperature, config.top_p, config.seed)] == [float, float, int]
    assert LoadConfig(threads=np.int32(2)).threads == 2


@pytest.mark.parametrize("target", ["gguf", "onnx"])
def test_a_prompt_that_is_none_is_named_before_anything_is_computed(
    target: str, tiny_gguf: Path, tiny_onnx: Path
) -> None:
    with load(tiny_gguf if target == "gguf" else tiny_onnx) as model:
        last = model.tokenizer.size - 1
        wrong: list[Any] = [5, None, b"x", object(), [1.5], [True], [None], [("user", "x")], [5, Message("user", "x")]]
        for prompt in [*wrong, [-1], [last + 1], [2**40], [2**70]]:
            with pytest.raises(
                BadArgumentError,
                match=r"^(prompt is .*; a list of whole numbers|token id .*; one from 0 to \d+) expected$",
            ):
                model.generate(prompt)
        with pytest.raises(BadArgumentError, match=rf"^token id -1 found; one from 0 to {last} expected$"):
            model.logits([0, -1])
        with pytest.raises(BadArgumentError, match=r"^config is 5, of type int; a GenerationConfig expected$"):
            model.generate([1], 5)  # type: ignore[arg-type]
        assert len(list(model.generate([0, np.int64(last)], GenerationConfig(max_tokens=1)))) > 0
