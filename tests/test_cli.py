"""The command ``mimo`` as it is typed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import Result

from mimo_mobile.cli import main
from mimo_mobile.errors import SessionError
from mimo_mobile.hub import Source
from mimo_mobile.providers import QnnOptions
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.runtime import LoadConfig, loading
from tests.commands import runner
from tools.cli_reference import reference

ROOT = Path(__file__).resolve().parents[1]
QNN, QDQ = (["quantize", "{tiny}", "--soc", "SM8750", "--target", target] for target in ("qnn", "qdq"))


def mimo(*arguments: object, text: str | None = None) -> Result:
    return runner().invoke(main, [str(each) for each in arguments], input=text)


def test_help_is_quick_for_it_imports_nothing_heavy() -> None:
    code = "import sys; from mimo_mobile.cli import main; main(['--help'], standalone_mode=False)"
    code += "; print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in result.stdout
    heavy = {"numpy", "onnxruntime", "onnx", "llama_cpp", "gguf", "tokenizers", "jinja2", "rich", "huggingface_hub"}
    heavy.add("prompt_toolkit")
    assert not heavy & set(result.stderr.split())


def test_python_m_mimo_mobile_is_the_command() -> None:
    started = [sys.executable, "-m", "mimo_mobile"]
    help_ = subprocess.run([*started, "--help"], capture_output=True, text=True, check=True)
    assert help_.stdout.startswith("Usage: mimo [OPTIONS] COMMAND") and set(main.commands) <= set(help_.stdout.split())
    wrong = subprocess.run(
        [*started, "quantize", "nano", "--recipe", "q3"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2 and "Usage: mimo quantize" in wrong.stderr and "no recipe 'q3'" in wrong.stderr


def test_python_without_docstrings_runs_the_command() -> None:
    command = [sys.executable, "-OO", "-m", "mimo_mobile", "run", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--recipe" in result.stdout


def test_the_command_starts_with_a_click_whose_types_cannot_be_subscripted() -> None:
    code = """if True:
        import click
        class ParamType(click.ParamType):  # click 8.1 to 8.3
            def __class_getitem__(cls, item):
                raise TypeError("type 'ParamType' is not subscriptable")
        click.ParamType = ParamType
        import benchmarks.phone.__main__, mimo_mobile.cli
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_reference_is_fresh() -> None:
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_convert_prints_what_it_wrote(tiny: Source, tmp_path: Path) -> None:
    result = mimo("convert", tiny.path, tmp_path / "x.gguf", "--to", "gguf", "--dtype", "f16")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "x.gguf"), str(tmp_path / "x-mtp.gguf")]
    assert "write x.gguf" in result.stderr


def test_quantize_prints_a_table_or_the_manifest(tiny: Source, tmp_path: Path) -> None:
    arguments = "quantize", tiny.path, "--out", tmp_path, "--recipe", "q8_0,int4_b64", "--no-answer", "--tokens", 0
    result = mimo(*arguments)
    assert result.exit_code == 0, result.output
    assert "checkpoint-q8_0.gguf" in result.stdout and "checkpoint-int4_b64-onnx" in result.stdout
    made = json.loads(mimo(*arguments, "--json").stdout)
    assert [entry["recipe"] for entry in made["entries"]] == ["q8_0", "int4_b64"]


def test_quantize_succeeds_where_the_first_answer_cannot_be_given(tiny: Source, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "tiny"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{{ raise_exception('no questions, please') }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for path in folder.glob("chat_template*"):
        path.unlink()
    result = mimo("quantize", folder, "--out", tmp_path / "out", "--recipe", "q8_0,int4_b32")
    assert result.exit_code == 0, result.output
    assert "tiny-q8_0.gguf" in result.stdout and "no questions" not in result.stdout
    for name in ("tiny-q8_0.gguf", "tiny-int4_b32-onnx"):
        assert f"{name}: the file is written, but cannot answer a first question here: " in result.stderr
    assert "no questions, please" in result.stderr


def test_the_help_of_quantize_lists_every_recipe_in_its_own_words() -> None:
    text = " ".join(mimo("quantize", "--help").stdout.split())
    for recipe in RECIPES.values():
        assert f"{recipe.name} {recipe.target.upper()}: {recipe.summary}" in text


def test_run_answers_and_json_is_json(nano_onnx: Path, nano_gguf: Path) -> None:
    for model in (nano_onnx, nano_gguf):
        result = mimo("run", model, "What is 12 + 30?", "--temperature", "0")
        assert result.exit_code == 0, result.output
        assert result.stdout.rstrip().endswith("42") and "12+30" in result.stdout
        assert "tokens, prefill" in result.stderr.replace(",", ", ").replace("  ", " ")
        hidden = mimo("run", model, "What is 12 + 30?", "--temperature", "0", "--hide-thinking")
        assert hidden.stdout.strip() == "42"
        made = json.loads(mimo("run", model, "What is 12 + 30?", "--temperature", "0", "--json").stdout)
        assert made["answer"] == "42" and made["finish_reason"] == "stop" and made["stats"]["decode_tps"] > 0


def test_a_bias_of_the_command_line_reaches_the_sampler(nano_onnx: Path) -> None:
    seven = ["run", nano_onnx, "1", "--max-tokens", 3, "--temperature", 0, "--json", "--logit-bias"]
    found = mimo(*seven, "22=100", "--logit-bias", "5=-3.5")
    assert found.exit_code == 0 and "777" in found.stdout
    wrong = mimo(*seven, "seven=1")
    assert wrong.exit_code == 2 and "a token's id and a number expected, such as 1234=-5" in wrong.stderr


def test_chat_keeps_the_conversation(nano_gguf: Path) -> None:
    result = mimo(
        "chat", nano_gguf, "--temperature", "0", "--hide-thinking", text="What is 12 + 30?\nWhat is 25 + 17 * 3?\n"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["42", "76"]


def test_bench_and_inspect_speak_json(tiny: Source, tiny_gguf: Path, tiny_onnx: Path) -> None:
    made = json.loads(
        mimo("bench", tiny_onnx, "--prompt-tokens", 8, "--generate-tokens", 4, "--repeats", 1, "--json").stdout
    )
    assert made["prefill_tps"] > 0 and made["decode_tps"] > 0
    kinds = {tiny.path: "checkpoint", tiny_gguf: "gguf", tiny_onnx: "onnx"}
    for path, kind in kinds.items():
        found = json.loads(mimo("inspect", path, "--tensors", "--json").stdout)
        assert found["kind"] == kind and len(found["tensors"]) > 20
        assert mimo("inspect", path).exit_code == 0


def test_inspect_verifies_a_quantized_folder(tiny: Source, tmp_path: Path) -> None:
    assert (
        mimo("quantize", tiny.path, "--out", tmp_path, "--recipe", "q8_0", "--problems", 0, "--no-answer").exit_code
        == 0
    )
    folder = tmp_path / "checkpoint"
    assert mimo("inspect", folder, "--verify").exit_code == 0
    file = folder / "checkpoint-q8_0.gguf"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = mimo("inspect", folder, "--verify")
    assert result.exit_code == 1 and "its SHA-256 differs" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["convert", "no-such-folder", "x", "--to", "gguf"], 1, "no such folder, and no hub id either"),
        (["convert", "{tiny}", "x", "--to", "onnx", "--dtype", "bf16"], 2, "no bf16"),
        (["convert", "{tiny}", "x", "--to", "tflite"], 2, "'tflite' is not one of"),
        (["quantize", "{tiny}", "--recipe", "q3"], 2, "no recipe 'q3'"),
        (["quantize", "{broken}"], 1, "damaged or truncated"),
        (["quantize", "{tiny}", "--recipe", ","], 2, "no recipe named"),
        (["quantize", "{tiny}", "--recipe", "int4_b32,int8", "--single-file"], 2, "--single-file is for GGUF recipes"),
        (["quantize", "{tiny}", "--problems", "5"], 2, "--problems 5: {tiny} brings no held-out problems"),
        (["quantize", "{tiny}", "--soc", "SM8750"], 2, "--compile-memory are for --target qnn or qdq"),
        (["quantize", "{tiny}", "--context", "100"], 2, "--compile-memory are for --target qnn or qdq"),
        (["quantize", "{tiny}", "--windows", "64"], 2, "--compile-memory are for --target qnn or qdq"),
        (["quantize", "{tiny}", "--no-shared"], 2, "--compile-memory are for --target qnn or qdq"),
        (["quantize", "{tiny}", "--target", "qdq"], 2, "--target qdq compiles for a chip"),
        ([*QNN, "--recipe", "q4_0"], 2, "--target qnn compiles ONNX recipes, none of which was asked for"),
        ([*QDQ, "--recipe", "q4_0"], 2, "--target qdq compiles ONNX recipes, none of which was asked for"),
        ([*QDQ, "--recipe", "int8"], 2, "--target qdq compiles int4 weights with float32 activations, which int8"),
        ([*QDQ, "--recipe", "int4_b32,int4_b32_f16"], 2, "which int4_b32_f16 does not have"),
        (["run", "{tiny}", "hello"], 1, "a folder without model.onnx"),
        (["run", "{gguf}", "hello", "--top-p", "7"], 2, "top_p 7.0 is out of range"),
        (["run", "{gguf}", "hello", "--context-length", "4"], 1, "the context holds 4"),
        (["run", "{gguf}", "hello", "--recipe", "q4_0"], 1, "there is no recipe to choose"),
        (["run", "{mtp}", "hello"], 1, "holds an MTP layer only"),
        (["run", "{onnx}", "hello", "--kv-dtype", "f16"], 1, "its KV cache is f32, f16 was asked for"),
        (["bench", "{gguf}", "--prompt-tokens", "9999"], 1, "9999 + 64 tokens asked for"),
        (["inspect", "{empty}"], 1, "a checkpoint folder, .gguf file, ONNX folder or quantized folder expected"),
        (["inspect", "{empty}", "--verify"], 1, "no manifest.json"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: list[str], status: int, message: str, tiny: Source, tiny_gguf: Path, tiny_onnx: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    broken = Path(shutil.copytree(tiny.path, tmp_path / "inputs" / "broken"))
    shard = broken / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])
    (tmp_path / "inputs" / "empty").mkdir()
    places = {"tiny": tiny.path, "gguf": tiny_gguf, "onnx": tiny_onnx, "broken": broken}
    places |= {"mtp": tiny_gguf.with_name("tiny-mtp.gguf"), "empty": tmp_path / "inputs" / "empty"}
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    result = mimo(*(each.format_map(places) for each in arguments))
    assert result.exit_code == status, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and message.format_map(places) in result.stderr and "Traceback" not in result.output
    left = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert left == []


@pytest.mark.parametrize("target", ["gguf", "onnx"])
def test_ctrl_c_ends_an_answer_at_once_and_without_a_traceback(target: str, nano_gguf: Path, nano_onnx: Path) -> None:
    model = nano_gguf if target == "gguf" else nano_onnx
    prompt = "12 + 30 = 42. "
    command = [
        sys.executable,
        "-m",
        "mimo_mobile.cli",
        "run",
        str(model),
        prompt,
        "--raw",
        "--temperature",
        "5",
        "--seed",
        "2",
    ]
    process = subprocess.Popen(
        [*command, "--top-p", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.read(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "[cancelled: " in errors and errors.rstrip().endswith("Aborted!") and "Traceback" not in errors


@pytest.mark.parametrize("command", [["run", "{gguf}", "hi"], ["chat", "{gguf}"], ["bench", "{gguf}"]])
def test_every_load_option_reaches_the_loader(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    class Seen(SessionError):
        pass

    seen: list[LoadConfig] = []

    def load(_: Path, config: LoadConfig) -> None:
        seen.append(config)
        raise Seen("seen")

    monkeypatch.setattr(loading, "load", load)
    words = (
        "--recipe q8_0 --context-length 77 --threads 3 --kv-dtype int8 --no-repack --no-cache --no-spin"
        " --power eco --speculate mtp --mtp-drafts 2 --ep qnn --ep-option vtcm_mb=8 --strict --trust"
    ).split()
    result = mimo(*(each.format(gguf=tiny_gguf) for each in command), *words)
    assert result.exit_code == 1 and "seen" in result.stderr
    assert seen == [
        LoadConfig(
            recipe="q8_0", context_length=77, power="eco", threads=3, kv_dtype="int8", repack=False, cache=False,
            spin=False, speculate="mtp", mtp_drafts=2, ep="qnn", ep_options=QnnOptions(vtcm_mb=8), strict=True,
            trust=True,
        )
    ]  # fmt: skip
    assert not {field.name for field in fields(LoadConfig) if getattr(seen[0], field.name) == field.default}


def test_options_that_come_to_nothing_or_out_of_range_are_mistakes_in_usage(tiny_gguf: Path) -> None:
    for words, said in (
        (["--mtp-drafts", "3", "--speculate", "off"], "mtp_drafts comes to nothing"),
        (["--temperature", "1e-320"], "temperature"),
        (["--threads", "0"], "threads 0 is out of range"),
        (["--threads", "100000"], "threads 100000 is out of range"),
        (["--raw", "--no-thinking"], "--raw leaves out"),
        (["--ep", "qnn", "--ep-option", "nothing=1"], "no option 'nothing'"),
    ):
        result = mimo("run", tiny_gguf, "hi", *words)
        assert result.exit_code == 2 and said in result.stderr, words


def test_a_mistake_of_our_own_is_not_called_the_users(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(loading, "load", load)
    result = mimo("run", tiny_gguf, "hi")
    assert result.exit_code == 1 and isinstance(result.exception, ValueError)
