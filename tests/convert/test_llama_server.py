"""llama.cpp's own server, built unpatched from its sources, drafts with the MTP layer of our files."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.hub import Source
from mimo_mobile.layout import mtp_file
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, Message, load
from tests.llama_server import served

pytestmark = pytest.mark.slow


def complete(address: str, prompt: list[int]) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": 160, "temperature": 0, "cache_prompt": False}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/completion", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        made: dict[str, Any] = json.load(answer)
        return made


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_stock_llama_cpp_drafts_with_the_mtp_layer(kind: str, nano: Source, tmp_path: Path) -> None:
    made = quantize_checkpoint(nano, tmp_path, ["q8_0"], problems=0, single_file=kind == "single")
    model = served_model = tmp_path / made.entries[0].path
    if kind == "pair":  # by the names that llama.cpp's parts have
        served_model = tmp_path / "pair-00001-of-00002.gguf"
        served_model.symlink_to(mtp_file(model))
        (tmp_path / "pair-00002-of-00002.gguf").symlink_to(model)
    questions = [each.question for each in read_problems(nano.path)[::60]]
    with load(model, speculate="off") as session:
        config = GenerationConfig(temperature=0, max_tokens=160)
        prompts, ours = [], []
        for question in questions:
            ids = session.encode_prompt([Message("user", question)], config)
            made = [token.token_id for token in session.generate(ids, config) if token.token_id is not None]
            prompts.append(ids)
            ours.append(session.tokenizer.decode(made))
    with served(served_model, tmp_path / "log", "--spec-type", "draft-mtp", "--spec-draft-n-max", "1") as address:
        answers = [complete(address, prompt) for prompt in prompts]
    assert [each["content"] for each in answers] == ours
    drafted = sum(each["timings"]["draft_n"] for each in answers)
    accepted = sum(each["timings"]["draft_n_accepted"] for each in answers)
    assert drafted > 100 and accepted > 0.85 * drafted
