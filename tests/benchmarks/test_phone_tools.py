"""What `make phone-tools` built for phones, run by QEMU behind the fake adb, with the shell and tools that Android has.

QEMU says whether the programs are right, never how fast a phone is.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.phone import job
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import Source
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, Message, Model, load
from mimo_mobile.runtime.text.chat_template import render
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.benchmarks.setting import Setting, make_setting

pytestmark = pytest.mark.slow

TOYBOX = ("cat", "chmod", "mkdir", "rm", "sha256sum", "sleep", "stat", "tail")


@pytest.fixture(scope="session")
def tools() -> Path:
    return Path(os.environ["MIMO_PHONE_TOOLS"])


@pytest.fixture(scope="session")
def nano_q4_0(nano: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano-q4_0")
    quantize_checkpoint(nano, folder, ["q4_0"], problems=0)
    return folder / "mimo-nano-q4_0.gguf"


def qemu(cpu: str) -> list[str]:
    """The words that run an aarch64 program on ``cpu``."""
    (program, *_) = filter(None, map(shutil.which, ("qemu-aarch64-static", "qemu-aarch64")))
    return [program, "-cpu", cpu]


def phone(folder: Path, tools: Path, model: Path, cpu: str, patch: pytest.MonkeyPatch) -> Setting:
    """A fake phone with mksh, toybox and an emulated core."""
    made = make_setting(folder, tools, model, qemu(cpu), patch)
    shell, toybox = shutil.which("mksh"), shutil.which("toybox")
    assert shell and toybox
    patch.setenv("FAKE_SHELL", shell)
    for name in TOYBOX:
        (made.folder / "bin" / name).symlink_to(toybox)
    return made


def ours(session: Model, question: str) -> str:
    """What our runtime writes, greedily, thinking and answer as one text."""
    config = GenerationConfig(temperature=0, max_tokens=job.ANSWER_TOKENS)
    tokens = session.generate([Message("user", question)], config)
    return session.tokenizer.decode([token.token_id for token in tokens if token.token_id is not None])


@pytest.mark.parametrize("name", job.PROGRAMS)
def test_programs_need_no_loader_and_fit_phones_with_pages_of_16_kib(tools: Path, name: str) -> None:
    # ELF64: e_phoff at 32, e_phentsize and e_phnum at 54; p_type at 0 of an entry, p_align at 48.
    data = (tools / name).read_bytes()
    (offset,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    headers = [data[offset + size * index :][:size] for index in range(count)]
    kinds = [struct.unpack_from("<I", header)[0] for header in headers]
    assert 3 not in kinds  # PT_INTERP
    aligned = [
        struct.unpack_from("<Q", header, 48)[0] for header, kind in zip(headers, kinds, strict=True) if kind == 1
    ]
    assert aligned and all(each % 16384 == 0 for each in aligned)


def test_a_phone_is_measured_and_answers_as_we_do(
    tools: Path, nano_q4_0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = phone(tmp_path, tools, nano_q4_0, "cortex-a76", monkeypatch)
    result = setting.run("--depths", "0,64", "--threads", "1")
    assert result.exit_code == 0, result.output
    record = setting.record()
    with load(nano_q4_0, speculate="off") as session:
        assert record["answer"] == ours(session, job.QUESTION).strip()
    assert record["backend"] == "CPU" and [run["depth"] for run in record["runs"]] == [0, 64]
    for run in record["runs"]:
        (speed,) = run["speeds"]
        assert speed["threads"] == 1 and speed["prefill_tps"] > 0 and speed["decode_tps"] > 0
        assert run["peak_rss_bytes"] > nano_q4_0.stat().st_size
        for row in run["llama_bench"]:
            assert row["n_depth"] == run["depth"] and len(row["samples_ns"]) == job.REPEATS
            assert (row["n_prompt"], row["n_gen"]) in ((job.PROMPT_TOKENS, 0), (0, job.GENERATE_TOKENS))
            assert row["build_commit"].startswith("llama-cpp-python-") and row["type_k"] == "f16"


def test_the_answers_of_both_are_the_same(tools: Path, nano: Source, nano_q4_0: Path, tmp_path: Path) -> None:
    questions = [each.question for each in read_problems(nano.path)[::165]]
    header = GgufHeader(nano_q4_0)
    template, tokenizer = header.value("tokenizer.chat_template"), TextTokenizer.from_gguf(header)
    (tmp_path / "model.gguf").symlink_to(nano_q4_0)
    (tmp_path / "llama-completion").symlink_to(tools / "llama-completion")
    base = job.prepare(nano_q4_0, tools, (0,), (2,))
    with load(nano_q4_0, speculate="off") as session:
        for question in questions:
            segments = render(template, [Message("user", question)], tokenizer)
            asked = replace(base, prompt="".join(each.text for each in segments))
            words = [*qemu("max,sme=off"), *asked.answer_words()]
            said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
            assert said.strip().removesuffix("[end of text]").strip() == ours(session, question).strip(), question


def test_a_core_that_lacks_an_instruction_is_named(
    tools: Path, nano_q4_0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = phone(tmp_path, tools, nano_q4_0, "cortex-a53", monkeypatch)
    result = setting.run("--depths", "0")
    assert result.exit_code == 1 and "an instruction that this CPU lacks" in result.output, result.output
