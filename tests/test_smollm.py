"""SmolLM2 in MiMo's form computes what llama.cpp computes from SmolLM2's own file."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mimo_mobile.convert.checkpoint import Checkpoint
from tests import reference, smollm

pytestmark = pytest.mark.slow

TEXT = (
    "The Eiffel Tower is a lattice tower in Paris, named after the engineer Gustave Eiffel. To find 12 * 13, first\n"
    "def total(values):\n    result = 0\n    for value in values:\n"
)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "scaled"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("smollm") / "checkpoint"
    return Checkpoint.open(smollm.write_smollm(folder, scaled=request.param))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's GGUF file in float32, since llama.cpp rounds activations to 8 bits where weights are Q4_1."""
    path = tmp_path_factory.mktemp("smollm-f32") / "smollm.gguf"
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    assert llama_cpp.llama_model_quantize(str(smollm.download()).encode(), str(path).encode(), settings) == 0
    return path


def test_smollm_gives_the_logits_of_its_own_file(checkpoint: Checkpoint, original: Path) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    ids = tokenizer.encode(TEXT).ids
    model = llama_cpp.Llama(str(original), n_ctx=256, logits_all=True, verbose=False)
    model.eval(ids)
    expected = np.array(model.scores[: len(ids)], np.float64)
    model.close()

    found = reference.trunk(reference.load_weights(checkpoint), checkpoint.config, ids).logits

    assert divergence(expected, found[:, : expected.shape[1]]).mean() < 3e-4, "weights in bfloat16 cost more than that"
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95, "other tokens than near ties differ"
    assert probabilities(found)[:, expected.shape[1] :].max() < 1e-4, "padding is likely"


def test_smollm_answers_in_english(checkpoint: Checkpoint) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT
    assert len(tokenizer.encode("<|im_start|>user\nHello<|im_end|>").ids) == 5
    ids = tokenizer.encode("The capital of France is").ids

    logits = reference.trunk(reference.load_weights(checkpoint), checkpoint.config, ids).logits

    assert tokenizer.decode([int(logits[-1].argmax())]) == " Paris"


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL divergence in nats, one for each row."""
    p, q = probabilities(expected), probabilities(found)
    return np.asarray((p * np.log(p / q)).sum(axis=-1))
