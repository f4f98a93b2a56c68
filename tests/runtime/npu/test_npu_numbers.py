"""Numbers that are too large for float16 on an NPU: brought into it, or an error; never wrong text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mimo_mobile.errors import NumericsError
from mimo_mobile.providers import QnnOptions
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import NpuTarget, quantize_checkpoint
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.runtime.npu import backend as npu_backend
from mimo_mobile.runtime.npu import model as npu_model
from mimo_mobile.socs import soc_named
from tests.hot import write_hot
from tests.runtime.npu.answers import CONTEXT, expected, ids_of, verdicts

pytestmark = pytest.mark.needs("onnxruntime_qnn")


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "speculate"), [(np.nan, "off"), (-np.inf, "mtp")])
def test_what_is_no_number_ends_the_generation_and_stays_in_no_cache(
    model: Path, monkeypatch: pytest.MonkeyPatch, bad: float, speculate: Literal["off", "mtp"]
) -> None:
    """On an NPU, NaN in one row of a cache turns into wrong numbers in others, also where it lies behind the text."""
    question = "What is 12 + 30?"
    with load(model, ep="qnn", strict=True, speculate=speculate) as session:
        with session.exclusive() as backend:
            assert isinstance(backend, npu_backend.NpuBackend)
            broken, cache = backend.model._pieces[0], backend.model.cache
            if backend.mtp is not None:
                assert isinstance(backend.mtp.layer, npu_model.NpuMtp)
                broken, cache = backend.mtp.layer._piece, backend.mtp.layer._cache
        whole, runs = npu_model.Piece.run, []

        def run(piece: npu_model.Piece, window: int) -> None:
            whole(piece, window)
            if piece is broken and window == 64:
                runs.append(window)
                if len(runs) == 1:
                    cache._arrays["past_key_values.0.value"][:, :, 30] = bad  # where padding stands

        monkeypatch.setattr(npu_model.Piece, "run", run)
        with pytest.raises(NumericsError, match=r"qnn-SM8750 computed NaN or infinity for tokens from \d+ on.* ep cpu"):
            ids_of(session, question)
        assert cache.is_finite(0, CONTEXT)
        assert ids_of(session, question) == expected(model, question)


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["float", "uint16"])
def test_numbers_beyond_float16_are_brought_into_it(tmp_path: Path, activations: Literal["float", "uint16"]) -> None:
    source = write_hot(tmp_path / "checkpoint", "activations", "scores")
    target = NpuTarget((soc_named("SM8750"),), context_length=256, quantized=activations == "uint16")
    made = quantize_checkpoint(source, tmp_path / "out", ["int4_b32"], problems=0, npu=target)
    model = tmp_path / "out" / made.entries[0].path
    options, config = QnnOptions(activations=activations), GenerationConfig(temperature=0, max_tokens=12)
    problems = [each.question for each in read_problems(source.path)][::330]
    assert len(problems) == 2
    with load(model, ep="qnn", ep_options=options, strict=True, speculate="mtp") as session:
        for question in problems:
            assert ids_of(session, question, config) == expected(model, question, config)


@pytest.mark.slow
def test_the_cpu_goes_on_in_no_caches_that_are_coarser_than_its_own(tmp_path: Path, remembering: Path) -> None:
    source = write_hot(tmp_path / "checkpoint", "scores")
    target = NpuTarget((soc_named("SM8750"),), context_length=256)
    made = quantize_checkpoint(source, tmp_path / "out", ["int4_b32"], problems=0, npu=target)
    model, question = tmp_path / "out" / made.entries[0].path, "What is 12 + 30?"
    load(model, ep="qnn").close()
    (file,) = verdicts(remembering)
    found = json.loads(file.read_text())
    assert found["difference"] < 0.05 and found["cpu"]["token_s"] < found["speed"]["token_s"]
    found["speed"]["prompt_s"] = 0.0  # prompts on the NPU and tokens on the CPU would be fastest
    file.write_text(json.dumps(found))
    with load(model, ep="qnn", speculate="off") as session:
        assert session.placement is not None and session.placement.shares[0].provider == "cpu"
        assert ids_of(session, question) == expected(model, question)
