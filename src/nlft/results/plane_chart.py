"""Compute the chart of violations against KL to base: a point for each arm, a line along its steps."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

from nlft.results.chart_marks import look

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 400, 56, 44, 12, 16
ZERO = 70  # width of the strip at the left where the KL is 0, which a logarithmic scale does not have


def plane_chart(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], y_title: str) -> dict[str, Any] | None:
    """Compute the positions in the chart, in its units. The KL is on a logarithmic scale; a KL of 0 is at the left.

    Args:
        rows: rows of `plane`, of one size.
        titles: the titles of all arms, by name. Their order decides each arm's look.
        y_title: what the vertical axis shows.

    Returns:
        A mapping: `grid` has a horizontal line for each share, `ticks` a position and a text for each power of ten,
        `zero` the position of a KL of 0, `arms` the marks and lines. None if no arm has a KL above 0.
    """
    shown = [row for row in rows if row["kl"]]
    known = [kl for row in shown for kl in (row["kl"]["value"], row["kl"]["low"], row["kl"]["high"])]
    known = [kl for kl in [*known, *(p["kl"] for row in shown for p in row["curve"])] if kl]
    if not known:
        return None
    low, high = floor(log10(min(known))), ceil(log10(max(known)))
    high = max(high, low + 1)
    heights = [row["violation"]["high"] for row in shown] + [p["violation"] for row in shown for p in row["curve"]]
    top = min(1.0, (int(max(heights) * 10) + 1) / 10)
    places = {arm: at for at, arm in enumerate(titles)}
    arms = [_arm(row, titles[row["arm"]], places[row["arm"]], (low, high), top) for row in shown]
    ticks = [{"x": f"{_x(10.0**power, (low, high)):.1f}", "text": f"{10.0**power:g}"} for power in range(low, high + 1)]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "middle": (LEFT + WIDTH - RIGHT) / 2,
        "break": LEFT + ZERO,
        "zero": f"{LEFT + ZERO / 2:.1f}",
        "y_title": y_title,
        "grid": [_grid_line(top * step / 5, top) for step in range(6)],
        "ticks": ticks,
        "arms": arms,
    }


def _arm(row: Mapping[str, Any], title: str, index: int, decades: tuple[int, int], top: float) -> dict[str, Any]:
    kl, violation = row["kl"], row["violation"]
    steps = [
        {
            "x": f"{_x(p['kl'], decades):.1f}",
            "y": f"{_y(p['violation'], top):.1f}",
            "said": f"step {p['step']}: {p['violation']:.1%}, KL {p['kl']:.3g}",
        }
        for p in row["curve"]
        if p["kl"] is not None
    ]
    return {
        "title": title,
        "look": look(index),
        "x": f"{_x(kl['value'], decades):.1f}",
        "y": f"{_y(violation['value'], top):.1f}",
        "left": f"{_x(kl['low'], decades):.1f}",
        "right": f"{_x(kl['high'], decades):.1f}",
        "low": f"{_y(violation['low'], top):.1f}",
        "high": f"{_y(min(violation['high'], top), top):.1f}",
        "said": f"{violation['value']:.1%}, KL {kl['value']:.3g}",
        "line": " ".join(f"{step['x']},{step['y']}" for step in steps),
        "steps": steps,
    }


def _grid_line(value: float, top: float) -> dict[str, str]:
    y = _y(value, top)
    return {"y": f"{y:.1f}", "text_y": f"{y + 4:.1f}", "value": f"{value:.0%}"}


def _x(kl: float, decades: tuple[int, int]) -> float:
    """Return the x position of a KL. A KL of 0 stands in the strip at the left."""
    if not kl:
        return LEFT + ZERO / 2
    low, high = decades
    part = max(0.0, (log10(kl) - low) / (high - low))
    return LEFT + ZERO + part * (WIDTH - RIGHT - LEFT - ZERO)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top
