"""The Pareto front of what was weighed, and its picture.

``answers`` puts the front into a decision and the lock keeps it; `bud optimize` and
the plan draw it. Values to values and to SVG. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np

from reconciler.optimizer.choose import feasible
from reconciler.optimizer.options import Options
from reconciler.optimizer.task import Point

__all__ = ["pareto", "picture"]

WIDTH, HEIGHT, MARGIN = 640, 360, 56
# A point that serves less than this more than the one before it is the same to people.
GAIN: Final = 1.02


def pareto(options: Options) -> tuple[Point, ...]:
    """Options of which none serves as much for less, from cheap to fast."""
    priced = all(pool.price_usd_per_h is not None for pool in options.task.pools)
    spent = options.usd_per_h if priced else options.devices
    rate, good = options.tokens_per_s, feasible(options)
    front, best = [], 0.0
    for index in np.lexsort((-rate, spent)):
        if good[index] and rate[index] > best * GAIN:
            best = float(rate[index])
            front.append(
                Point(
                    spent=float(spent[index]),
                    tokens_per_s=best,
                    label=options.candidate(int(index)).label,
                )
            )
    return tuple(front)


def picture(front: Sequence[Point], *, chosen: str, across: str) -> str:
    """An SVG: what is spent across, tokens per second up, the ``chosen`` label large."""
    most_spent = max((point.spent for point in front), default=1.0) * 1.05
    most_rate = max((point.tokens_per_s for point in front), default=1.0) * 1.05

    def place(point: Point) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * point.spent / most_spent
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * point.tokens_per_s / most_rate
        return round(x, 1), round(y, 1)

    line = " ".join(f"{x},{y}" for x, y in map(place, front))
    dots = "\n".join(_dot(point, *place(point), chosen) for point in front)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" font-family="sans-serif" font-size="11">\n'
        f"<title>Cheapest ways to serve, by tokens per second</title>\n"
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" '
        f'fill="none" stroke="currentColor"/>\n'
        f'<polyline points="{line}" fill="none" stroke="currentColor" '
        f'stroke-dasharray="3 3"/>\n{dots}\n'
        f'<text x="{WIDTH // 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{escape(across)}, up to {most_spent:.4g}</text>\n"
        f'<text x="14" y="{HEIGHT // 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {HEIGHT // 2})">tokens per second, up to '
        f"{most_rate:.4g}</text>\n</svg>\n"
    )


def _dot(point: Point, x: float, y: float, chosen: str) -> str:
    label = escape(point.label)
    said = f"{label}: {point.tokens_per_s:.4g} tok/s for {point.spent:.4g}"
    dot = f'<circle cx="{x}" cy="{y}" fill="currentColor" r='
    if point.label != chosen:
        return f'{dot}"3"><title>{said}</title></circle>'
    return (
        f'{dot}"6"><title>{said}</title></circle>'
        f'<text x="{x}" y="{y - 12}" text-anchor="middle">{label}</text>'
    )
