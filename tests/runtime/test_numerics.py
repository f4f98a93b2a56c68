"""Real files that compute NaN and infinity: a generation ends with an error that names file and engine, never text.

Trunks are damaged in files that say nothing of their right numbers, as those of others do: the self-test at first use
refuses ours before a generation begins (tests/runtime/devices/test_first_use.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from mimo_mobile import graph_file
from mimo_mobile.errors import NumericsError
from mimo_mobile.hub import resolve
from mimo_mobile.layout import REFERENCE, REFERENCE_KEYS
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, load

PROMPT = [{"role": "user", "content": "What is 25 + 17 * 3?"}]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("numerics")
    quantize_checkpoint(resolve("nano"), out, ["int4_b32", "q8_0"], problems=0)
    return out


def damaged_onnx(folder: Path, out: Path, graph: str, norm: str, value: float) -> Path:
    """A copy in which all numbers of a norm are ``value``: rounding to int8 may take a single NaN for a number."""
    shutil.copytree(folder, out)
    place = graph_file.read(out / graph).tensors[norm]
    data = np.memmap(out / "model.onnx.data", np.float32, "r+", place.offset, place.length // 4)
    data[:] = value
    data.flush()
    return out


def silent(path: Path) -> Path:
    """The same model, which no longer says what it computes for a known prompt."""
    if path.is_dir():
        (path / REFERENCE).unlink()
    else:
        data = path.read_bytes()
        for key in map(str.encode, REFERENCE_KEYS.values()):
            assert data.count(key) == 1
            data = data.replace(key, key.upper())  # a key that nobody reads
        path.write_bytes(data)
    return path


def failure(path: Path, temperature: float, speculate: str = "off") -> str:
    with load(path, threads=1, speculate=speculate, cache=False, trust=True) as model:  # type: ignore[arg-type]
        session = model.session()
        config = GenerationConfig(temperature=temperature, seed=1, max_tokens=20)
        with pytest.raises(NumericsError) as caught:
            list(session.generate(PROMPT, config))
        assert session.tokens == []  # nothing bad is gone on from
    return str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_onnx_graph_that_gives_no_numbers_ends_the_generation(
    quantized: Path, tmp_path: Path, bad: float, temperature: float
) -> None:
    folder = quantized / "mimo-nano-int4_b32-onnx"
    path = silent(damaged_onnx(folder, tmp_path / "m", "model.onnx", "model.norm.weight", bad))
    for speculate in ("off", "mtp"):
        message = failure(path, temperature, speculate)
        who = f"ONNX Runtime (cpu) with {path / 'model.onnx'}"
        assert message.startswith(f"{who} computed NaN or infinity for token 1 of the answer")
        assert "kv_dtype f32 (GGUF) or int8 (ONNX)" in message and "another recipe" in message


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_that_are_no_numbers_end_it_too(quantized: Path, tmp_path: Path, temperature: float) -> None:
    norm = "model.mtp_layers.0.final_layernorm.weight"
    path = damaged_onnx(quantized / "mimo-nano-int4_b32-onnx", tmp_path / "m", "mtp.onnx", norm, np.nan)
    message = failure(path, temperature, "mtp")
    assert "computed NaN or infinity for a draft of token 2 of the answer" in message and "speculate off" in message


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_gguf_file_that_gives_no_numbers_ends_the_generation(
    quantized: Path, tmp_path: Path, temperature: float
) -> None:
    path = tmp_path / "m.gguf"
    shutil.copy(quantized / "mimo-nano-q8_0.gguf", path)
    reader = gguf.GGUFReader(path, "r+")
    norm = next(tensor for tensor in reader.tensors if tensor.name == "output_norm.weight")
    norm.data[:] = np.nan
    norm.data.flush()
    message = failure(silent(path), temperature)
    assert message.startswith(f"llama.cpp with {path} computed NaN or infinity for token 1 of the answer")
