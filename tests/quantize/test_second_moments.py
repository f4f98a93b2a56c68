"""Second moments are those of what each matrix reads, whichever matrix is asked for first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.calibrate import calibrate
from mimo_mobile.quantize.kept_work import KeptLayers, KeptWork
from mimo_mobile.quantize.second_moments import SecondMoments, States
from tests.tiny import write_tiny_checkpoint

TEXTS = [[320, 72, 101, 5, 5, 300, 17, 322, 1], [7, 7, 200]]


def test_second_moments_are_those_of_what_matrices_read(tmp_path: Path) -> None:
    tiny = Checkpoint.open(write_tiny_checkpoint(tmp_path / "tiny"))
    kept = KeptLayers(KeptWork.of(tmp_path / "kept", "layers"), every=True)
    squares = calibrate(tiny.config, tiny.tensors, TEXTS, kept=kept).mean_squares
    moments = SecondMoments(tiny.config, tiny.tensors, States(kept, tiny.config, tuple(map(len, TEXTS))))
    inputs: dict[str, list[forward.Array]] = {}

    def observe(layer: str, trace: forward.Trace) -> None:
        for end, values in trace.inputs().items():
            inputs.setdefault(f"model.{layer}.{end}", []).append(values)

    last = forward.run(tiny.config, tiny.tensors, TEXTS, observe)
    norm = tiny.tensors["model.norm.weight"].float32()
    inputs["lm_head.weight"] = [forward.rms_norm(x, norm, tiny.config.rms_norm_eps) for x in last]
    assert set(inputs) == {name for name in squares if "mtp" not in name}
    for name in sorted(inputs, key=lambda each: each[::-1]):  # from layer to layer and back
        values = np.concatenate(inputs[name]).astype(np.float64)
        found = moments.of(name)
        np.testing.assert_allclose(found, values.T @ values / len(values), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.diag(found), squares[name], rtol=1e-3)
