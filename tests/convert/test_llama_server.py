"""llama.cpp's own server, built unpatched from its sources, drafts with the MTP layer of our files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.hub import Source
from mimo_mobile.layout import mtp_file
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, Message, load

pytestmark = pytest.mark.slow


@contextmanager
def served(model: Path, log: Path, *options: str) -> Iterator[str]:
    """The address of a llama-server on ``model``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        f"{os.environ['MIMO_LLAMA_PROGRAMS']}/llama-server",
        "-m",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("w") as out:
        process = subprocess.Popen([*command, "-c", "1024", "-np", "1", *options], stdout=out, stderr=out)
        try:
            for _ in range(300):
                time.sleep(0.2)
                assert process.poll() is None, log.read_text()[-2000:]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    continue
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


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
