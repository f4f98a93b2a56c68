"""Reference logits of the tiny seeded checkpoint, from transformers' Qwen2ForCausalLM in float64.

Run ``python -m tests.data.make_qwen2_logits`` where torch and transformers are installed to write
qwen2_logits.npz; with ``--check`` it compares instead, and exits with status 1 when they differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.convert.checkpoint import Checkpoint
from tests.tiny import write_tiny_checkpoint

FILE = Path(__file__).parent / "qwen2_logits.npz"
IDS = (320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90)
"""Any tokens: control tokens, repeats, learnt merges and single bytes."""

TOLERANCE = 1e-6


def qwen2_logits(checkpoint: Checkpoint, ids: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Logits [T, V], and the hidden states [T, E] before and after the last norm, of the trunk over ids."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = checkpoint.config
    known = config.to_json()
    fields = {key: known[key] for key in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
    )}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    model = Qwen2ForCausalLM(Qwen2Config(**fields, rope_parameters=rope, rope_theta=config.rope_theta)).double().eval()
    # Computed as float32 on construction; the reference is float64 throughout.
    half = config.head_dim // 2
    model.model.rotary_emb.inv_freq = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    state = {
        name: torch.from_numpy(view.float32().astype(np.float64))
        for name, view in checkpoint.tensors.items()
        if "mtp_layers" not in name
    }
    model.load_state_dict(state, strict=True)
    seen: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.model.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits
    hidden, normed = seen
    return {"logits": logits[0].numpy(), "hidden": hidden[0].numpy(), "normed": normed[0].numpy()}


def main() -> int:
    """Write or check the file."""
    with tempfile.TemporaryDirectory() as folder:
        made = qwen2_logits(Checkpoint.open(write_tiny_checkpoint(Path(folder))), IDS)
    return write_or_check(FILE, IDS, made)


def write_or_check(file: Path, ids: Sequence[int], made: Mapping[str, NDArray[np.float64]]) -> int:
    """Write ``made``, or with ``--check`` compare it with the committed file; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file")
    if not parser.parse_args().check:
        # float32 keeps the file small; the comparison's tolerance is far above its rounding.
        np.savez_compressed(file, ids=np.array(ids), **{name: value.astype(np.float32) for name, value in made.items()})
        return 0
    with np.load(file) as committed:
        gap = max(float(np.abs(committed[name] - value).max() / np.abs(value).max()) for name, value in made.items())
    sys.stdout.write(f"largest relative difference {gap:.1e}, at most {TOLERANCE:.0e} allowed\n")
    return int(gap > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
