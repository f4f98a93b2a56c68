"""report.html: a report as one page for people, without scripts and without anything from the network.

What comes from files, such as names and answers, is escaped where it is put into the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mimo_mobile import files
from mimo_mobile.quantize.report import gb
from mimo_mobile.quantize.report_drawing import Point, escaped, heat_map, histogram, scale, scatter
from mimo_mobile.quantize.report_file import BF16, PAGE, RecipeReport, Report, Shown
from mimo_mobile.quantize.tensor_errors import blamed
from mimo_mobile.ranges import ModelRanges
from mimo_mobile.scores import Score

STYLE = Path(__file__).with_name("report.css")

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The rows of a heat map: every matrix of a layer."""

NARROW = 10
"""Heat maps of so many layers stand side by side."""

LEAST_LOSS = 1e-7
"""What a loss of 0 is drawn as."""


def write_page(report: Report, folder: Path) -> Path:
    """Write the page beside the report.json of a folder, and return its path."""
    files.write_text(folder / PAGE, page(report))
    return folder / PAGE


def page(report: Report) -> str:
    """The page."""
    title = f"{report.model}: what quantization cost"
    body = "\n".join(part for part in _sections(report) if part)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8").strip()}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _sections(report: Report) -> Iterator[str]:
    yield _head(report)
    yield _summary(report)
    yield _plot(report)
    yield _errors(report)
    yield _divergences(report)
    yield _answers(report)
    yield _ranges(report.ranges)


def _head(report: Report) -> str:
    lost = [each.recipe for each in report.recipes if each.rejected]
    judged = [each for each in report.recipes if each.checks]
    if lost:
        verdict = f'<p class="verdict lost"><strong>Rejected:</strong> {escaped(", ".join(lost))} lost too much.</p>'
    elif judged:
        verdict = '<p class="verdict kept"><strong>Passed:</strong> every file keeps to the limits of its recipe.</p>'
    else:
        verdict = '<p class="verdict">Nothing was measured that could be judged.</p>'
    origin = report.source.get("repository", "")
    revision = report.source.get("revision", "")
    told = f"{origin} at {revision}" if origin else f"fingerprint {report.source.get('fingerprint', 'unknown')}"
    return (
        f'<header><p class="kind">MiMo Mobile · quantization report</p><h1>{escaped(report.model)}</h1>'
        f'<p class="origin">{escaped(told)}</p>{verdict}</header>'
    )


def _summary(report: Report) -> str:
    figures = (
        "verdict", "effort", "bits/weight", "size", "mean KLD", "99 % below", "same token", "perplexity", "exact match",
        "answer tokens", "right drafts",
    )  # fmt: skip
    lines: list[tuple[str, list[str], str]] = []
    apart = next((each.divergence for each in report.recipes if each.divergence), None)
    if (score := report.baseline) is not None or apart is not None:
        perplexity = apart.reference_perplexity if apart else score.perplexity if score else math.nan
        cells = ["–", "–", "16.00", "–", "0", "0", "100 %", _perplexity(perplexity), *_answered(score)]
        lines.append(("bf16, not kept", cells, ""))
    for each in report.recipes:
        lines.append((each.recipe, _figures(each), "chosen" if each.recipe in report.chosen else ""))
    measured = [_figures(each) for each in report.recipes]
    filled = [place for place in range(len(figures)) if any(cells[place] != "–" for cells in measured)]
    rows = [_row(name, [cells[place] for place in filled], kind) for name, cells, kind in lines]
    reasons = [
        f"<li><strong>{escaped(each.recipe)}</strong>: {escaped(check)}</li>"
        for each in report.recipes
        for check in each.checks
        if not check.passed
    ]
    problems = f" Right answers are of {report.baseline.problems} held-out problems." if report.baseline else ""
    if any(each.score and each.score.drafts for each in report.recipes):
        problems += " Right drafts are those of the MTP layer that the model chose, too, in these answers."
    read = max((each.divergence.tokens for each in report.recipes if each.divergence), default=0)
    text = f" KL divergence from bf16, in nats, is that of {read:,} predictions." if read else ""
    return _section(
        "Summary",
        f"<p>Rows in bold are of the last run.{escaped(text)}{escaped(problems)} – was not measured.</p>"
        + (f'<ul class="reasons">{"".join(reasons)}</ul>' if reasons else "")
        + _table("Every file of the folder", ["recipe", *(figures[place] for place in filled)], rows),
    )


def _figures(found: RecipeReport) -> list[str]:
    score, apart = found.score, found.divergence
    verdict = "✗ rejected" if found.rejected else "✓ passed" if found.checks else "–"
    same = apart.same_top if apart else score.same_top if score else math.nan
    perplexity = apart.perplexity if apart else score.perplexity if score else math.nan
    return [
        verdict,
        found.effort,
        f"{found.bits_per_weight:.2f}",
        gb(found.size_bytes),
        _number(apart.mean_kld) if apart else "–",
        _number(apart.p99_kld) if apart else "–",
        _percent(same),
        _perplexity(perplexity),
        *_answered(score),
    ]


def _answered(score: Score | None) -> list[str]:
    """Exact match, the length of answers, and right drafts."""
    if score is None:
        return ["–", "–", "–"]
    drafts = _percent(score.drafts.acceptance) if score.drafts else "–"
    return [_percent(score.exact_match), f"{score.answer_tokens:.0f}", drafts]


def _perplexity(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _plot(report: Report) -> str:
    measured = [each for each in report.recipes if each.divergence and math.isfinite(each.divergence.mean_kld)]
    losses = {each.recipe: each.divergence.mean_kld for each in measured if each.divergence}
    label = "mean KL divergence"
    if len(losses) < 2:
        compared = [each for each in report.recipes if each.errors]
        losses = {each.recipe: _typical(each) for each in compared}
        label = "typical relative error of a matrix"
    shown = [each for each in report.recipes if each.recipe in losses]
    if len(shown) < 2:
        return ""
    unit, scaled = ("GB", 1e9) if max(each.size_bytes for each in shown) >= 1e9 else ("MB", 1e6)
    points = [
        Point(
            each.recipe, each.size_bytes / scaled, max(losses[each.recipe], LEAST_LOSS), each.recipe in report.chosen,
            each.rejected,
        )
        for each in shown
    ]  # fmt: skip
    key = '<p class="key"><span class="chosen">●</span> last run <span class="other">●</span> earlier '
    key += '<span class="lost">✕</span> rejected. Lower and further left is better.</p>'
    return _section("Size and quality", key + _picture(scatter(points, f"size of all files in {unit}", label)))


def _errors(report: Report) -> str:
    compared = [each for each in report.recipes if any(math.isfinite(error.error) for error in each.errors)]
    if not compared:
        return ""
    cells = {each.recipe: _cells(each) for each in compared}
    most = max((error for found in cells.values() for error in found.values()), default=0.0)
    columns = list(dict.fromkeys(column for found in cells.values() for _, column in found))
    made = [_map(each, cells[each.recipe], columns, most, each.recipe in report.chosen) for each in compared]
    narrow = " narrow" if len(columns) <= NARROW else ""
    return _section(
        "Errors by layer",
        "<p>The error of what a matrix gives, relative to what it should give, for inputs as they come in a text: the"
        " root of the mean square. All inputs count alike in GGUF files of --effort none. M0 is the MTP layer.</p>"
        + scale(most)
        + f'<div class="maps{narrow}">{"".join(made)}</div>',
    )


def _cells(found: RecipeReport) -> dict[tuple[str, str], float]:
    """The errors of a file's layers by the kind of the matrix and the layer's column."""
    made = {}
    for error in found.errors:
        match = re.fullmatch(r"model\.((?:mtp_)?layers)\.(\d+)\.\w+\.(\w+)\.weight", error.tensor)
        if match and match[3] in KINDS and math.isfinite(error.error):
            made[match[3], match[2] if match[1] == "layers" else f"M{match[2]}"] = error.error
    return made


def _map(
    found: RecipeReport, cells: dict[tuple[str, str], float], columns: Sequence[str], most: float, opened: bool
) -> str:
    drawn = heat_map(KINDS, columns, cells, most)
    picture = drawn if len(columns) <= NARROW else _picture(drawn)
    worst = "".join(
        f"<li><code>{escaped(error.tensor.removesuffix('.weight'))}</code> {100 * error.error:.2f} %</li>"
        for error in blamed(found.errors)
    )
    return (
        f"<details{' open' if opened else ''}><summary>{escaped(found.recipe)}</summary>"
        f"{picture}"
        f'<p class="label">Most was lost in</p><ol class="worst">{worst}</ol></details>'
    )


def _divergences(report: Report) -> str:
    made = []
    for each in report.recipes:
        if each.histogram and each.divergence:
            bars = histogram(
                each.histogram.edges, each.histogram.counts, each.divergence.mean_kld, each.divergence.p99_kld
            )
            made.append(f"<figure><figcaption>{escaped(each.recipe)}</figcaption>{bars}</figure>")
    if not made:
        return ""
    return _section(
        "KL divergence of single predictions",
        f'<p>How often a prediction differs how much, in nats.</p><div class="figures">{"".join(made)}</div>',
    )


def _answers(report: Report) -> str:
    if not report.shown:
        return ""
    made = []
    for number, shown in enumerate(report.shown):
        names = [BF16, *(each.recipe for each in report.recipes if each.recipe != BF16)]
        cards = "".join(_card(name, shown) for name in names if name in shown.answers)
        made.append(
            f"<details{' open' if number == 0 else ''}><summary>{escaped(shown.question)}</summary>"
            f'<div class="cards">{cards}</div></details>'
        )
    return _section("Answers side by side", "<p>Greedy, thinking included.</p>" + "".join(made))


def _card(name: str, shown: Shown) -> str:
    text = shown.answers[name]
    mark = ""
    if shown.expected is not None:
        right = text.rpartition("</think>")[2].strip() == shown.expected.strip()
        mark = '<span class="right">✓ right</span>' if right else '<span class="wrong">✗ wrong</span>'
    return f'<article><h3>{escaped(name)} {mark}</h3><pre dir="auto">{escaped(text.strip())}</pre></article>'


def _ranges(found: ModelRanges | None) -> str:
    if found is None:
        return ""
    columns = ("layer", "residual", "gate", "product", "query", "key", "value", "q·k", "product scale", "attention")
    rows = []
    for each in found.layers:
        numbers = (each.residual, each.gate, each.product, each.query, each.key, each.value, each.query_key)
        cells = [f"{number:.4g}" for number in numbers]
        cells += [f"{each.product_scale:g}", "float32" if each.float32_attention else "float16"]
        rows.append(_row(each.layer, cells, ""))
    table = _table("The largest magnitudes in each layer", columns, rows)
    return _section(
        "Ranges",
        "<p>How large the checkpoint's numbers get while it reads the calibration text, and by which powers of two the"
        f" files were written smaller. The residual stream's scale is {found.residual_scale:g}.</p>"
        f"<details><summary>{len(found.layers)} layers</summary>{table}</details>",
    )


def _typical(found: RecipeReport) -> float:
    """The root of the mean square of all matrices' errors."""
    finite = [each.error for each in found.errors if math.isfinite(each.error)]
    return math.sqrt(sum(error**2 for error in finite) / len(finite)) if finite else LEAST_LOSS


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escaped(title)}</h2>{content}</section>"


def _picture(drawn: str) -> str:
    """A wide drawing, which phones scroll rather than shrink until nobody can read it."""
    return f'<div class="wide picture">{drawn}</div>'


def _table(caption: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in columns)
    return (
        f'<div class="wide"><table><caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(name: str, cells: Sequence[str], kind: str) -> str:
    made = "".join(f"<td{_mark(cell)}>{escaped(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{escaped(name)}</th>{made}</tr>'


def _mark(cell: str) -> str:
    return ' class="right"' if cell.startswith("✓") else ' class="wrong"' if cell.startswith("✗") else ""


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return f"{value:.5f}" if value >= 1e-4 else f"{value:.1e}" if value else "0"
