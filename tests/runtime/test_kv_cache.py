"""KV caches in int8: half the memory, nearly the same logits, scales that hold at every position."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import BackendUnavailableError
from mimo_mobile.hub import resolve
from mimo_mobile.quantize import calibrate, texts
from mimo_mobile.quantize.evaluate import problems_of_kinds, read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, Message, Model, load
from mimo_mobile.runtime.backend import KvDtype

GREEDY = GenerationConfig(temperature=0, max_tokens=160)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kv")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32", "q8_0"], problems=0)
    return out


def answers(session: Model) -> list[list[int]]:
    problems = list(problems_of_kinds(read_problems(resolve("nano").path), 12))
    return [
        [token.token_id for token in session.generate([Message("user", each.question)], GREEDY) if token.token_id]
        for each in problems
    ]


@pytest.mark.parametrize(("recipe", "f16_over_int8"), [("int4_b32", 2), ("q8_0", 64 / 34)])
def test_an_int8_cache_takes_half_the_memory_and_answers_alike(models: Path, recipe: str, f16_over_int8: float) -> None:
    found, per_token = {}, {}
    kinds: tuple[KvDtype, ...] = ("f16", "int8")
    for kv_dtype in kinds:
        with load(models, recipe=recipe, kv_dtype=kv_dtype) as session:
            found[kv_dtype] = answers(session)
            with session.exclusive() as backend:
                per_token[kv_dtype] = backend.kv_bytes_per_token
    same = [first == second for first, second in zip(found["f16"], found["int8"], strict=True)]
    assert len(same) == 12 and sum(same) >= 11
    assert per_token["f16"] / per_token["int8"] == pytest.approx(f16_over_int8, rel=1e-3)


def test_int8_logits_are_close_to_those_of_f16(models: Path) -> None:
    rows = {}
    kinds: tuple[KvDtype, ...] = ("f16", "int8")
    for kv_dtype in kinds:
        with load(models, recipe="int4_b32", kv_dtype=kv_dtype) as session:
            # Longer than one run, and than what the scales were found on.
            rows[kv_dtype] = session.logits(session.tokenizer.encode(texts.TEXT.read_text(encoding="utf-8"))[:700])
    difference = np.abs(rows["int8"] - rows["f16"]).max(axis=-1)
    assert np.median(difference) < 0.05 * np.abs(rows["f16"]).max()


@pytest.mark.parametrize(
    ("text", "tokens", "margin"), [(texts.TEXT, None, 1.0), (None, 64, 2.0)], ids=["a text", "without effort or text"]
)
def test_scales_are_the_largest_keys_and_values_that_the_checkpoint_makes(
    text: Path | None, tokens: int | None, margin: float, tmp_path: Path
) -> None:
    quantize_checkpoint(resolve("nano"), tmp_path / "out", ["int4_b32"], problems=0, effort="none", calibration=text)
    folder = tmp_path / "out/mimo-nano-int4_b32-onnx"
    graph = onnx.load(folder / "model.kv-int8.onnx", load_external_data=False).graph
    scales = {each.name: numpy_helper.to_array(each) for each in graph.initializer if each.name.endswith("_scale")}
    convert_checkpoint("nano", tmp_path / "whole", to="onnx", dtype="f32")
    whole = onnxruntime.InferenceSession(tmp_path / "whole/model.onnx", providers=["CPUExecutionProvider"])
    with load(folder, ep="cpu") as session:
        ids = np.array([session.tokenizer.encode(texts.TEXT.read_text(encoding="utf-8"))[:tokens]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for each in whole.get_inputs():
        if each.name.startswith("past"):
            feeds[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
    names = [each.name for each in whole.get_outputs() if each.name.startswith("present.")]
    layers = len(names) // 2
    assert layers == 4 and len(scales) == 2 * layers
    for name, present in zip(names, whole.run(names, feeds), strict=True):
        _, layer, kind = name.split(".")
        reach = 127 * scales[f"model.layers.{layer}.self_attn.{kind[0]}_scale"] / margin
        largest = np.abs(present[0]).max(axis=1).reshape(-1)
        assert (largest <= reach * 1.001).all()
        if kind == "value":
            np.testing.assert_allclose(largest, reach, rtol=1e-3)


def test_no_position_turns_a_key_beyond_its_scale() -> None:
    random = np.random.Generator(np.random.PCG64(5))
    keys, half = random.standard_normal((2, 50, 16), np.float32), 8
    bound = calibrate._turned(keys).max(axis=1)
    for angle in random.uniform(0, 7, 20):
        first = keys[..., :half] * np.cos(angle) - keys[..., half:] * np.sin(angle)
        second = keys[..., half:] * np.cos(angle) + keys[..., :half] * np.sin(angle)
        assert (np.abs(np.concatenate([first, second], axis=-1)).max(axis=1) <= bound + 1e-6).all()


@pytest.mark.needs("onnxruntime_genai")
def test_genai_runs_the_int8_graph_with_our_tokens(models: Path) -> None:
    folder = models / "mimo-nano-int4_b32-onnx"
    script = (
        "import sys, numpy as np, onnxruntime_genai as og\n"
        "config = og.Config(sys.argv[1])\n"
        'config.overlay(\'{"model": {"decoder": {"filename": "model.kv-int8.onnx"}}}\')\n'
        "model = og.Model(config)\n"
        "params = og.GeneratorParams(model)\n"
        "params.set_search_options(do_sample=False, max_length=120)\n"
        "generator = og.Generator(model, params)\n"
        "generator.append_tokens(np.array([[int(each) for each in sys.argv[2].split()]], np.int32))\n"
        "for _ in range(40): generator.generate_next_token()\n"
        "print(*generator.get_sequence(0))\n"
    )
    with load(folder, kv_dtype="int8") as session:
        ids = session.encode_prompt([Message("user", "What is 348 + 27 * 6?")], GREEDY)
        config = GenerationConfig(temperature=0, max_tokens=40)
        ours = [token.token_id for token in session.generate(ids, config) if token.token_id is not None]
    command = [sys.executable, "-c", script, str(folder), " ".join(map(str, ids))]
    theirs = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [int(each) for each in theirs][len(ids) : len(ids) + 40] == ours


def test_a_folder_without_the_int8_graph_says_what_to_do(tiny_onnx: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="quantize again for an int8 KV cache"):
        load(tiny_onnx, kv_dtype="int8")
    with pytest.raises(BackendUnavailableError, match="its KV cache is f32, f16 was asked for"):
        load(tiny_onnx, kv_dtype="f16")
