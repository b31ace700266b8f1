"""Regret against budget as an SVG: both axes logarithmic, names beside the ends of their lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 44, 52  # margins; on the right the names
OURS = "#d1242f"
OTHERS = ("#0969da", "#1a7f37", "#8250df", "#9a6700", "#57606a", "#0550ae", "#bf3989", "#1b7c83")
DASHES = ("", "7 3", "2 3")
LETTER = 13


@dataclass(frozen=True)
class Line:
    name: str
    x: list[float]
    y: list[float]
    ours: bool


def draw(lines: list[Line], title: str, across: str) -> str:
    """Best at the end first. Of values below a hundredth nothing is seen."""
    lines = sorted(lines, key=lambda line: line.y[-1])
    low = max(0.001, min(min(line.y) for line in lines))
    high = max(1.0, max(max(line.y) for line in lines))
    first, last = lines[0].x[0], lines[0].x[-1]

    def right(x: float) -> float:
        return LEFT + math.log(x / first) / math.log(last / first) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + math.log(high / max(y, low)) / math.log(high / low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="{LETTER}" fill="#24292f">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
    ]
    for value in ticks(low, high):
        out.append(rule(LEFT, down(value), WIDTH - RIGHT, down(value)))
        out.append(
            f'<text x="{LEFT - 8}" y="{down(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(first, last):
        out.append(rule(right(value), TOP, right(value), HEIGHT - BOTTOM))
        place = f'x="{right(value):.1f}" y="{HEIGHT - BOTTOM + 18}"'
        out.append(f'<text {place} text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(across)}</text>'
    )

    beside = spread([down(line.y[-1]) for line in lines])
    others = 0
    for line, y in reversed(list(zip(lines, beside, strict=True))):  # the best lie on top
        color, dash = OURS, ""
        if not line.ours:
            color, dash = OTHERS[others % len(OTHERS)], DASHES[others // len(OTHERS) % len(DASHES)]
            others += 1
        path = " ".join(
            f"{right(a):.1f},{down(b):.1f}" for a, b in zip(line.x, line.y, strict=True)
        )
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-dasharray="{dash}" '
            f'stroke-width="{3.5 if line.ours else 1.5}" stroke-linejoin="round"/>'
        )
        lead = f"M{WIDTH - RIGHT + 1} {down(line.y[-1]):.1f}L{WIDTH - RIGHT + 16} {y:.1f}"
        out.append(f'<path d="{lead}" stroke="{color}"/>')
        out.append(
            f'<text x="{WIDTH - RIGHT + 20}" y="{y + 4:.1f}" fill="{color}" '
            f'font-weight="{700 if line.ours else 400}">{escape(line.name)}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def rule(x: float, y: float, x2: float, y2: float) -> str:
    return f'<path d="M{x:.1f} {y:.1f}L{x2:.1f} {y2:.1f}" stroke="#d8dee4"/>'


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(step * 10.0**power, 9) for power in powers for step in (1, 2, 5)]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def spread(places: list[float]) -> list[float]:
    """Where names stand, from the top down: near their lines, and none on another."""
    gap = LETTER + 2
    found: list[float] = []
    for place in places[::-1]:  # highest regret is at the top
        found.append(max(place, found[-1] + gap) if found else place)
    over = max(0.0, found[-1] - (HEIGHT - BOTTOM)) if found else 0.0
    for i in range(len(found) - 1, -1, -1):  # pushed up again where there is no room below
        most = HEIGHT - BOTTOM if i == len(found) - 1 else found[i + 1] - gap
        found[i] = min(found[i], most) if over else found[i]
    return found[::-1]
