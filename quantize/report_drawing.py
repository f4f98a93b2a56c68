"""Drawings of a report as SVG text: sizes beside losses, errors by layer, how often predictions differ how much.

Colours are CSS variables of the page, so that both of its themes colour them. This module escapes what it is given.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mimo_mobile.untrusted import printable

WIDTH, HEIGHT = 960, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 20, 52
"""The margins around what is plotted, where axes and their labels are."""

MAP_WIDTH = 920
"""The widest heat map, unless there are more layers than fit."""

LETTER = 7.4
"""About how wide a letter of a label is."""


@dataclass(frozen=True, slots=True)
class Point:
    """A file in the plot of sizes and losses.

    Attributes:
        name: Its label.
        size: Its size, in the unit of the axis.
        loss: What it lost, above 0.
        chosen: Whether it is of the run that the report is about.
        rejected: Whether it lost too much.
    """

    name: str
    size: float
    loss: float
    chosen: bool
    rejected: bool


def escaped(text: object) -> str:
    r"""A text in which nothing is markup, and what is no character can be seen.

    >>> escaped("<b>\x00")
    '&lt;b&gt;\\x00'
    """
    return html.escape(re.sub(r"[^\t\n]+", lambda found: printable(found[0]), str(text)))


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Sizes to the right, losses upwards on a logarithmic scale."""
    sizes, losses = [each.size for each in points], [each.loss for each in points]
    room = (max(sizes) - min(sizes)) * 0.12 or max(sizes) * 0.1
    x_low, x_high = min(sizes) - room, max(sizes) + 2 * room
    y_low, y_high = math.log10(min(losses)) - 0.25, math.log10(max(losses)) + 0.25

    def x(size: float) -> float:
        return LEFT + (size - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(loss) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    made = list(_axes(x_label, y_label))
    for value in _ticks(x_low, x_high):
        made.append(f'<line class="grid" x1="{x(value):.1f}" y1="{TOP}" x2="{x(value):.1f}" y2="{HEIGHT - BOTTOM}"/>')
        made.append(_text(x(value), HEIGHT - BOTTOM + 18, f"{value:g}", "middle"))
    for value in _decades(y_low, y_high):
        made.append(f'<line class="grid" x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}"/>')
        made.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", "end"))
    taken = [(x(each.size) - 7, y(each.loss) - 7, x(each.size) + 7, y(each.loss) + 7) for each in points]
    for each in points:
        kind = "lost" if each.rejected else "chosen" if each.chosen else "other"
        left, top = x(each.size), y(each.loss)
        shape = _cross(left, top) if each.rejected else f'<circle cx="{left:.1f}" cy="{top:.1f}" r="6"/>'
        title = f"<title>{escaped(each.name)}: {each.size:.3g}, {each.loss:.3g}</title>"
        made.append(f'<g class="{kind}">{title}{shape}</g>')
        made.append(_label(each.name, left, top, taken))
    return _picture(WIDTH, HEIGHT, f"{y_label} by {x_label}", made)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[str, str], float], most: float) -> str:
    """A cell for each row and column, the more opaque the nearer its value is to ``most``."""
    cell = max(14.0, min(40.0, (MAP_WIDTH - 110) / max(1, len(columns))))
    width, height, top = 104 + cell * len(columns), 26 + 24 * len(rows), 22
    made = []
    step = max(1, math.ceil(24 / cell))
    for number, column in enumerate(columns):
        if number % step == 0:
            made.append(_text(100 + cell * (number + 0.5), 14, column, "middle"))
    for line, row in enumerate(rows):
        made.append(_text(92, top + 24 * line + 16, row, "end"))
        for number, column in enumerate(columns):
            value = values.get((row, column))
            if value is None:
                continue
            share = min(1.0, value / most) if most > 0 else 0.0
            place = f'x="{100 + cell * number:.1f}" y="{top + 24 * line}" width="{cell - 2:.1f}" height="22" rx="3"'
            title = f"<title>{escaped(row)}, layer {escaped(column)}: {100 * value:.2f} %</title>"
            made.append(f'<rect class="cell" {place} fill-opacity="{_opacity(share)}">{title}</rect>')
    return _picture(width, height, "errors by layer and matrix", made)


def scale(most: float) -> str:
    """What the colours of a heat map stand for."""
    made = []
    for step in range(11):
        place = f'x="{60 + 20 * step}" y="4" width="20" height="12"'
        made.append(f'<rect class="cell" {place} fill-opacity="{_opacity(step / 10)}"/>')
    made += [_text(52, 14, "0 %", "end"), _text(288, 14, f"{100 * most:.3g} %", "start")]
    return _picture(360, 20, "scale of colours", made)


def histogram(edges: Sequence[float], counts: Sequence[int], mean: float, p99: float) -> str:
    """Bars between logarithmic borders, with a line at the mean and one at the 99th percentile."""
    width, height, bottom = 340, 150, 26
    low, high = math.log10(edges[0]), math.log10(edges[-1])
    most = max(counts) or 1

    def x(value: float) -> float:
        return 8 + (min(max(math.log10(value), low), high) - low) / (high - low) * (width - 16)

    made = []
    for start, stop, count in zip(edges, edges[1:], counts, strict=False):
        tall = (height - bottom - 18) * count / most
        wide = max(1.0, x(stop) - x(start) - 1)
        place = f'x="{x(start) + 0.5:.1f}" y="{height - bottom - tall:.1f}" width="{wide:.1f}"'
        title = f"<title>{start:.1e} to {stop:.1e}: {count}</title>"
        made.append(f'<rect class="bar" {place} height="{tall:.1f}">{title}</rect>')
    for value, name, anchor in ((mean, "mean", "end"), (p99, "99 %", "start")):
        if value > 0 and math.isfinite(value):
            made.append(f'<line class="mark" x1="{x(value):.1f}" y1="14" x2="{x(value):.1f}" y2="{height - bottom}"/>')
            made.append(_text(x(value) + (-3 if anchor == "end" else 3), 12, name, anchor))
    made.append(f'<line class="axis" x1="8" y1="{height - bottom}" x2="{width - 8}" y2="{height - bottom}"/>')
    for exponent in range(math.ceil(low), math.floor(high) + 1, 2):
        anchor = "start" if exponent == math.ceil(low) else "middle"
        made.append(_text(x(10.0**exponent), height - 8, f"1e{exponent}" if exponent else "1", anchor))
    return _picture(width, height, "how many predictions have which KL divergence, in nats", made)


def _picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" style="max-width:{width:.0f}px">'
        f"<title>{escaped(title)}</title>{''.join(parts)}</svg>"
    )


def _axes(x_label: str, y_label: str) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}" fill="none"/>'
    yield _text((LEFT + right) / 2, HEIGHT - 10, x_label, "middle")
    turned = f'transform="rotate(-90 14 {(TOP + bottom) / 2:.1f})"'
    yield f'<text x="14" y="{(TOP + bottom) / 2:.1f}" text-anchor="middle" {turned}>{escaped(y_label)}</text>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'


def _opacity(share: float) -> str:
    return f"{0.06 + 0.94 * share:.3f}"


def _cross(x: float, y: float) -> str:
    return f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>'


def _label(name: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> str:
    """A label beside a point, where no other one is."""
    wide = LETTER * len(name)
    for down, side in ((4, 1), (4, -1), (-12, 1), (20, 1), (-12, -1), (20, -1), (-26, 1), (34, 1)):
        left = x + 11 if side == 1 else x - 11 - wide
        box = (left, y + down - 11, left + wide, y + down + 3)
        free = all(box[2] < each[0] or box[0] > each[2] or box[3] < each[1] or box[1] > each[3] for each in taken)
        if free and box[0] > LEFT and box[2] < WIDTH:
            break
    taken.append(box)
    return _text(x + 11 * side, y + down, name, "start" if side == 1 else "end")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, about six."""
    rough = (high - low) / 6
    step = next(each for each in (f * 10 ** math.floor(math.log10(rough)) for f in (1, 2, 5, 10)) if each >= rough)
    first = math.ceil(max(low, 0) / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two logarithms; only the powers when those would be many."""
    factors = (1,) if high - low > 2.5 else (1, 2, 5)
    found = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [float(f"{each:.1g}") for each in found if low <= math.log10(each) <= high]
