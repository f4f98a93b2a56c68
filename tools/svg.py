"""Boxes under each other with arrows beside them, as an SVG for light and for dark pages. Knows nothing of code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

WIDTH, LANE, LEFT = 1000, 150, 90
"""The picture's width, and the room for arrows beside the boxes: for those that point down and those that point up."""

INNER = WIDTH - LANE - LEFT
LINE, PAD, GAP = 19, 12, 16
MONO, SANS = 7.25, 6.4
"""Width of a character, about."""

FLOW = "#54aeff"
COLOURS = ("#3b82f6", "#d97706", "#10b981", "#a855f7", "#ef4444", "#0891b2", "#84a016", "#ec4899")

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de }
  .box { fill: #f6f8fa; stroke: #8c959f }
  .data { fill: #ddf4ff; stroke: #54aeff }
  text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #424a53 }
  .name { font-size: 15px; font-weight: 700; fill: #1f2328 }
  .wing { font-weight: 700; fill: #1f2328 }
  .said { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: #424a53 }
  .flow { stroke: #54aeff; stroke-width: 2.5 }
  .use { fill: none; opacity: .85 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #30363d }
    .box { fill: #161b22; stroke: #6e7681 }
    .data { fill: #0c2d4d; stroke: #388bfd }
    text, .said { fill: #c9d1d9 }
    .name, .wing { fill: #f0f6fc }
  }
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A box, or a pill that tells what data passes.

    Attributes:
        key: What arrows call it; None makes it a pill.
        name: The heading, or the pill's text.
        said: A sentence beside the heading.
        rows: What is in it: a bold name and a sentence, or no name and file names.
        flows: Whether data goes from here to the next box.
    """

    key: str | None
    name: str
    said: str = ""
    rows: tuple[tuple[str | None, str], ...] = ()
    flows: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """``source`` imports ``target``; the more imports there are, the thicker the line is."""

    source: str
    target: str
    count: int


def drawing(title: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """The SVG's text."""
    y, parts, spans = PAD * 3 + LINE, list[str](), dict[str, tuple[int, int]]()
    for index, box in enumerate(boxes):
        height, drawn = _pill(box, y) if box.key is None else _box(box, y)
        parts += drawn
        if box.key is not None:
            spans[box.key] = (y, y + height)
        y += height + GAP
        if box.flows and index + 1 < len(boxes):
            parts.append(f'<path class="flow" d="M{LEFT + INNER // 2} {y - GAP}V{y - 2}" marker-end="url(#flow)"/>')
    height = y + LINE + PAD
    note = "Arrows beside the boxes show who imports whom: down on the right, up on the left, thicker for more imports."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{_head('flow', FLOW)}{''.join(_head(f'use{i}', c) for i, c in enumerate(COLOURS))}</defs>",
            f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
            f'<text class="name" x="{LEFT}" y="{PAD + LINE}">{escape(title)}</text>',
            *_uses(arrows, spans),
            *parts,
            f'<text class="said" x="{LEFT}" y="{height - PAD - 2}">{note}</text>',
            "</svg>\n",
        ]
    )


def _head(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9"'
        f' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
    )


def _pill(box: Box, y: int) -> tuple[int, list[str]]:
    width, height = round(len(box.name) * SANS) + 4 * PAD, LINE + PAD
    x = LEFT + (INNER - width) // 2
    return height, [
        f'<rect class="data" x="{x}" y="{y}" width="{width}" height="{height}" rx="{height // 2}"/>',
        f'<text class="said" x="{LEFT + INNER // 2}" y="{y + LINE + 1}" text-anchor="middle">{escape(box.name)}</text>',
    ]


def _box(box: Box, y: int) -> tuple[int, list[str]]:
    x, line = LEFT + PAD, y + PAD + LINE - 6
    parts = [
        f'<text class="name" x="{x}" y="{line}">{escape(box.name)}</text>',
        f'<text class="said" x="{x + round(len(box.name) * 9.1) + PAD}" y="{line}">{escape(box.said)}</text>',
    ]
    for name, text in box.rows:
        indent, class_, width = (0, "", MONO) if name is None else (90, "said", SANS)
        for number, part in enumerate(wrap(text, int((INNER - 2 * PAD - indent) / width), break_on_hyphens=False)):
            line += LINE + (2 if number == 0 else 0)
            if name is not None and number == 0:
                parts.append(f'<text class="wing" x="{x}" y="{line}">{escape(name)}</text>')
            parts.append(f'<text class="{class_}" x="{x + indent}" y="{line}">{escape(part)}</text>')
    height = line + PAD - y
    return height, [f'<rect class="box" x="{LEFT}" y="{y}" width="{INNER}" height="{height}" rx="6"/>', *parts]


def _uses(arrows: Sequence[Arrow], spans: dict[str, tuple[int, int]]) -> list[str]:
    """The arrows, each with a place of its own at both of its boxes; the longest are the outermost."""
    order, lines = list(spans), list[str]()
    for down in (True, False):
        chosen = [arrow for arrow in arrows if (order.index(arrow.source) < order.index(arrow.target)) == down]
        ends: dict[str, list[tuple[int, Arrow, str]]] = {key: [] for key in order}
        for arrow in chosen:
            ends[arrow.source].append((order.index(arrow.target), arrow, "source"))
            ends[arrow.target].append((order.index(arrow.source), arrow, "target"))
        places: dict[tuple[Arrow, str], float] = {}
        for key, (top, bottom) in spans.items():
            # Arrows to what is above leave above those to what is below, and of either the nearest leave first.
            above = sorted((e for e in ends[key] if e[0] < order.index(key)), key=lambda e: -e[0])
            below = sorted((e for e in ends[key] if e[0] > order.index(key)), key=lambda e: -e[0])
            for number, (_, arrow, end) in enumerate([*above, *below]):
                places[arrow, end] = top + (bottom - top) * (number + 1) / (len(above) + len(below) + 1)
        x, side, lane = (LEFT + INNER, 1, LANE) if down else (LEFT, -1, LEFT)
        for arrow in chosen:
            start, stop = places[arrow, "source"], places[arrow, "target"]
            steps = abs(order.index(arrow.source) - order.index(arrow.target))
            reach = x + side * (lane - 2 * PAD) * 1.3 * (steps / (len(order) - 1)) ** 0.6
            colour = order.index(arrow.source) % len(COLOURS)
            thickness = min(1 + arrow.count / 6, 4)
            path = f"M{x} {start:.1f}C{reach:.1f} {start:.1f} {reach:.1f} {stop:.1f} {x + 3 * side} {stop:.1f}"
            lines.append(
                f'<path class="use" d="{path}" stroke="{COLOURS[colour]}" stroke-width="{thickness:.1f}"'
                f' marker-end="url(#use{colour})"/>'
            )
    return lines
