"""The training curve as a picture: ``python -m tools.nano.curve``, from curve.jsonl to curve.png beside it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main() -> None:
    """Draw loss over tokens, and exact match where it was measured."""
    records = [json.loads(line) for line in (HERE / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    millions = [record["tokens"] / 1e6 for record in records]
    left.semilogy(millions, [record["loss"] for record in records], label="next token")
    left.semilogy(millions, [record["mtp_loss"] for record in records], label="MTP layer")
    left.set(xlabel="million tokens", ylabel="cross entropy", title="Loss, one batch in 50")
    measured = [record for record in records if "exact" in record]
    for key, label in (
        ("exact", "exact match, bf16"),
        ("exact_int4", "exact match, int4"),
        ("mtp", "first drafts right"),
    ):
        right.plot(
            [record["tokens"] / 1e6 for record in measured], [record[key] for record in measured], "o-", label=label
        )
    right.set(xlabel="million tokens", ylim=(0, 1.02), title="132 development problems")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(HERE / "curve.png", dpi=110)


if __name__ == "__main__":
    main()
