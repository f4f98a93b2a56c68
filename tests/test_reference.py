"""The numpy reference against transformers' Qwen2ForCausalLM, whose outputs are committed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mimo_mobile.convert.checkpoint import Checkpoint
from tests import reference
from tests.data import make_qwen2_logits
from tests.tiny import write_tiny_checkpoint


def test_numpy_trunk_equals_transformers_qwen2(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_checkpoint(tmp_path))
    weights = reference.load_weights(checkpoint)
    with np.load(make_qwen2_logits.FILE) as expected:
        made = reference.trunk(weights, checkpoint.config, expected["ids"].tolist())
        for name in ("logits", "hidden", "normed"):
            np.testing.assert_allclose(getattr(made, name), expected[name], atol=1e-4, rtol=0, err_msg=name)
