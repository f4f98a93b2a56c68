"""A manifest as rows of a table for people."""

from __future__ import annotations

from mimo_mobile.manifest import Entry, Manifest, Score

COLUMNS = ("file", "bits/weight", "size", "perplexity", "exact match", "Δ bf16", "same token", "answer tokens")


def rows(manifest: Manifest) -> list[tuple[str, ...]]:
    """One row for each file, in the order of ``COLUMNS``; bf16 comes first where it was measured."""
    made = []
    if manifest.baseline:
        made.append(("(bf16, not kept)", "16.00", "", *_figures(manifest.baseline, manifest.baseline)))
    for entry in manifest.entries:
        made.append(
            (entry.path, f"{entry.bits_per_weight:.2f}", _size(entry), *_figures(entry.score, manifest.baseline))
        )
    return made


def _figures(score: Score | None, baseline: Score | None) -> tuple[str, ...]:
    if score is None:
        return ("–",) * 5
    loss = 100 * (score.exact_match - baseline.exact_match) if baseline else 0.0
    return (
        f"{score.perplexity:.4f}",
        f"{100 * score.exact_match:.1f} %",
        f"{loss:+.1f}" if score is not baseline else "",
        f"{100 * score.same_top:.2f} %",
        f"{score.answer_tokens:.0f}",
    )


def _size(entry: Entry) -> str:
    return f"{entry.size_bytes / 1e9:.3f} GB" if entry.size_bytes >= 1e9 else f"{entry.size_bytes / 1e6:.2f} MB"
