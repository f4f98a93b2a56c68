"""Reference logits of MiMo-nano over one problem with its answer, from transformers; as make_qwen2_logits.

Run ``python -m tests.data.nano_logits`` where torch and transformers are installed, with ``--check`` to compare.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.data.make_qwen2_logits import qwen2_logits, write_or_check

FILE = Path(__file__).parent / "nano_logits.npz"
NANO = Path(__file__).parents[2] / "src/mimo_mobile/nano"

TEXT = """\
<|im_start|>system
<|im_end|>
<|im_start|>user
What is 348 + 27 * 6?<|im_end|>
<|im_start|>assistant
<think>
27*6:7*6+0=42,2*6+4=16=162
348+162:8+2+0=10,4+6+1=11,3+1+1=05=510
</think>

510<|im_end|>"""


def main() -> int:
    """Write or check the file."""
    from tokenizers import Tokenizer

    from mimo_mobile.convert.checkpoint import Checkpoint

    ids = Tokenizer.from_file(str(NANO / "tokenizer.json")).encode(TEXT).ids
    return write_or_check(FILE, ids, {"logits": qwen2_logits(Checkpoint.open(NANO), ids)["logits"]})


if __name__ == "__main__":
    sys.exit(main())
