"""The speeds of the NPU's benchmark as bars: prefill above decode, one group for each depth of context."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, LEFT, TOP, BARS, GAP, LABELS = 640, 60, 46, 130, 34, 24
"""The picture's width, the room for scales and headings, the height of the bars, and what is between and under them."""

COLOURS = {"npu": "#d97706", "split": "#3b82f6", "cpu": "#6e7781"}
PANELS = (("prefill_tps", "Prompts, tokens/s"), ("decode_tps", "Generated, tokens/s"))

STYLE = """
  .page { fill: #ffffff } .axis { stroke: #8c959f } text { font: 12px system-ui, sans-serif; fill: #424a53 }
  .name { font-size: 14px; font-weight: 700; fill: #1f2328 }
  @media (prefers-color-scheme: dark) { .page { fill: #0d1117 } text { fill: #c9d1d9 } .name { fill: #f0f6fc } }
"""


def drawing(record: dict[str, Any]) -> str | None:
    """The SVG's text for a record of ``benchmarks.phone.npu``; None when nothing was measured."""
    runs = {each["mode"]: {run["depth"]: run["speeds"][0] for run in each["runs"]} for each in record["modes"]}
    depths = sorted({depth for found in runs.values() for depth in found})
    if not depths:
        return None
    title = f"{record['model']['name']} on {record['device']['name']}"
    height = TOP + len(PANELS) * (GAP + BARS + LABELS)
    parts = [
        f'<text class="name" x="14" y="22">{escape(title)}</text>',
        *_legend([mode for mode in runs if runs[mode]]),
    ]
    for number, (key, heading) in enumerate(PANELS):
        top = TOP + number * (GAP + BARS + LABELS)
        values = {(mode, depth): float(speed[key]) for mode, found in runs.items() for depth, speed in found.items()}
        parts += _panel(heading, values, list(runs), depths, top)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _legend(modes: Sequence[str]) -> list[str]:
    made = []
    for number, mode in enumerate(modes):
        x = LEFT + 80 * number
        made.append(f'<rect x="{x}" y="{TOP - 12}" width="12" height="12" fill="{COLOURS[mode]}"/>')
        made.append(f'<text x="{x + 18}" y="{TOP - 2}">{mode}</text>')
    return made


def _panel(
    heading: str, values: dict[tuple[str, int], float], modes: Sequence[str], depths: Sequence[int], top: int
) -> list[str]:
    """Bars from ``top`` on, each with its number above it."""
    bottom, most = top + GAP + BARS, max(values.values()) or 1.0
    group = (WIDTH - LEFT) / len(depths)
    bar = min(60.0, group / (len(modes) + 1))
    made = [f'<text x="14" y="{top + 18}">{heading}</text>']
    for (mode, depth), value in values.items():
        start = LEFT + depths.index(depth) * group + (group - bar * len(modes)) / 2
        x, tall = start + modes.index(mode) * bar, value / most * (BARS - 16)
        place = f'x="{x + 2:.1f}" y="{bottom - tall:.1f}" width="{bar - 4:.1f}" height="{tall:.1f}"'
        made.append(f'<rect {place} fill="{COLOURS[mode]}"/>')
        middle = f'x="{x + bar / 2:.1f}" y="{bottom - tall - 4:.1f}"'
        made.append(f'<text {middle} text-anchor="middle">{value:,.{0 if value >= 100 else 1}f}</text>')
    for number, depth in enumerate(depths):
        said = f"after {depth:,} tokens"
        middle = f'x="{LEFT + (number + 0.5) * group:.1f}" y="{bottom + 16}"'
        made.append(f'<text {middle} text-anchor="middle">{said}</text>')
    return [*made, f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - 8}"/>']
