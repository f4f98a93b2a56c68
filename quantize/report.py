"""A manifest, and the recipes, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mimo_mobile.entries import EFFORTS
from mimo_mobile.manifest import Manifest
from mimo_mobile.quantize.catalog import Described
from mimo_mobile.scores import Score

FIGURES = ("perplexity", "exact match", "Δ bf16", "same token", "answer tokens")
COLUMNS = ("file", "bits/weight", "size", "KLD", *FIGURES)


def rows(manifest: Manifest) -> list[tuple[str, ...]]:
    """One row for each file, in the order of ``COLUMNS``; bf16 comes first if measured, rejected ones last."""
    made = []
    if manifest.baseline:
        made.append(("(bf16, not kept)", "16.00", "", "", *_figures(manifest.baseline, manifest.baseline)))
    whole = [*manifest.entries, *(gone.aside for gone in manifest.rejected)]
    for entry in (each for one in whole for each in (one, one.npu_form) if each is not None):
        kld = f"{entry.divergence.mean_kld:.5f}" if entry.divergence else "–"
        figures = _figures(entry.score, manifest.baseline)
        made.append((entry.path, f"{entry.bits_per_weight:.2f}", gb(entry.size_bytes), kld, *figures))
    return made


def _figures(score: Score | None, baseline: Score | None) -> tuple[str, ...]:
    if score is None:
        return ("–",) * len(FIGURES)
    loss = 100 * (score.exact_match - baseline.exact_match) if baseline else 0.0
    return (
        f"{score.perplexity:.4f}",
        f"{100 * score.exact_match:.1f} %",
        f"{loss:+.1f}" if score is not baseline else "",
        f"{100 * score.same_top:.2f} %",
        f"{score.answer_tokens:.0f}",
    )


def gb(size: int) -> str:
    """A size in GB, or in MB where it is smaller."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def recipes_title(described: Sequence[Described]) -> str:
    """The title of the table of recipes, which says on what losses were measured."""
    models = dict.fromkeys(row.model for each in described for row in each.measured)
    return "sizes are those of MiMo-7B" + (f"; KLD on {', '.join(models)}" if models else "")


def recipe_table(
    described: Sequence[Described], needed: Mapping[str, int | None] | None = None
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The columns of the table of recipes, and its rows; ``needed`` is what each takes of a limit."""
    columns = ["recipe", "kernels", "bits/weight", "size", "MTP beside", *(f"KLD {effort}" for effort in EFFORTS)]
    rows = []
    for each in described:
        size, losses = each.size, [each.kld(effort) for effort in EFFORTS]
        taken = needed[each.recipe.name] if needed is not None else None
        rows.append(
            (
                each.recipe.name,
                ", ".join(each.kernels),
                f"{size.bits_per_weight:.2f}" if size else "–",
                gb(size.model_bytes) if size else "–",
                gb(size.mtp_bytes) if size and size.mtp_bytes else "–" if size is None else "",
                *("–" if loss is None else f"{loss:.3f}" for loss in losses),
                *([gb(taken) if taken else "–"] if needed is not None else []),
            )
        )
    return [*columns, *(["needed"] if needed is not None else [])], rows
