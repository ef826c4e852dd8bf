"""Render a comparison as one HTML file without scripts, small enough to mail: verdict, curves, table, contrasts."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from nlft.data.grading import CHECKS
from nlft.files import read_template, render_page
from nlft.results.chart_marks import look
from nlft.results.comparison import Rate, paired, rate_note
from nlft.results.comparison_plane import plane_table
from nlft.results.comparison_report import grid_of, grown_line
from nlft.results.comparison_tables import collateral_notes, collateral_table, costs, one_seed_note, second_table
from nlft.results.components import paired_gaps
from nlft.results.plane_chart import plane_chart
from nlft.results.stats import Difference, interval_of

Report = dict[str, Any]
LISTED = 20  # questions that are listed for each side of a comparison
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 380, 56, 40, 12, 16

ARMS_HEAD = ("method", "examples", "right [95%]", "strict", "steps", "train", "peak memory", "tokens trained", "")
CONTRASTS_HEAD = ("method", "against", "examples", "points [95%]", "interval", "p (Holm)", "won / lost", "significant")


def page(report: Report, *, links: Sequence[tuple[str, str]] = (), runs: Sequence[str] = ()) -> str:
    """Return the whole page. All text that a user or a model wrote is escaped.

    Args:
        links: titles and relative addresses of the pages in the same folder.
        runs: paths of the runs, for `nlft map`.
    """
    titles = {arm["arm"]: arm["title"] for arm in report["arms"]}
    return render_page(
        "nlft.results",
        "comparison.html",
        read_template("nlft.results", "comparison.css"),
        links=list(links),
        runs=list(runs),
        report=report,
        seeds=_seeds(report),
        budget=_budget(report),
        intervals=report.get("intervals"),
        grown=" ".join(grown_line(report)),
        chart=chart(report),
        both=report.get("both", []),
        plane=_plane(report, titles),
        plane_table=plane_table(report["plane"], titles) if "plane" in report else None,
        arms_head=ARMS_HEAD,
        arms=_arms(report),
        collateral=collateral_table(grid_of(report), titles),
        collateral_notes=collateral_notes(grid_of(report), titles),
        second=second_table(report["second"], titles, [arm["arm"] for arm in report["arms"] if arm["trained"]])
        if report.get("second")
        else None,
        contrasts_head=CONTRASTS_HEAD,
        contrasts=_contrasts(report),
        asked=_questions(report),
    )


def _seeds(report: Report) -> str:
    seeds = [str(seed) for seed in report["settings"]["seeds"]]
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"


def _budget(report: Report) -> str:
    settings = report["settings"]
    if settings.get("max_seconds"):
        return "seconds"
    taken: dict[int, set[int | None]] = {}
    for arm in report["arms"]:
        if arm["trained"]:
            taken.setdefault(arm["size"], set()).update(result.get("steps") for result in arm["results"])
    # Older results record the number of epochs, or nothing.
    same = all(len(steps - {None}) == 1 and None not in steps for steps in taken.values() if steps)
    return "optimizer steps" if same else "epochs"


def chart(report: Report) -> dict[str, Any]:
    """Compute the positions in the chart of right answers against number of examples, in the units of the chart.

    Returns:
        A mapping. `grid` has a horizontal line for each share of right answers. `sizes` has (x, number of examples).
        `curves` has one curve per method, with its look, the points of its line, and its points with their intervals.
    """
    sizes = sorted({arm["size"] for arm in report["arms"]})
    shown = [arm for arm in report["arms"] if arm["share"]]
    top = max((arm["share"]["high"] for arm in shown), default=1.0)
    top = min(1.0, (int(top * 10) + 1) / 10)
    titles = {arm["arm"]: arm["title"] for arm in shown}
    places = {name: at for at, name in enumerate(dict.fromkeys(arm["arm"] for arm in report["arms"]))}
    curves = []
    for index, (name, title) in enumerate(titles.items()):
        found = sorted((arm for arm in shown if arm["arm"] == name), key=lambda arm: arm["size"])
        points = [_point(_x(arm["size"], sizes) + 5 * (index - len(titles) / 2), arm["share"], top) for arm in found]
        line = " ".join(f"{point['x']},{point['y']}" for point in points)
        curves.append({"title": title, "look": look(places[name]), "line": line, "points": points})
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "bottom": HEIGHT - BOTTOM,
        "middle": (LEFT + WIDTH - RIGHT) / 2,
        "grid": [_grid_line(top * step / 5, top) for step in range(6)],
        "sizes": [(f"{_x(size, sizes):.1f}", size) for size in sizes],
        "curves": curves,
    }


def _plane(report: Report, titles: Mapping[str, str]) -> dict[str, Any] | None:
    """Compute the chart of violations against KL at the largest size. Return None if no KL was measured."""
    rows = report.get("plane", [])
    largest = [row for row in rows if row["size"] == max(row["size"] for row in rows)]
    checked = report["settings"].get("grader") == CHECKS
    y_title = "share of replies that break a check" if checked else "share of answers that are not right"
    return plane_chart(largest, titles, y_title)


def _grid_line(value: float, top: float) -> dict[str, str]:
    y = _y(value, top)
    return {"y": f"{y:.1f}", "text_y": f"{y + 4:.1f}", "value": f"{value:.0%}"}


def _point(x: float, share: Mapping[str, Any], top: float) -> dict[str, str]:
    low, high = _y(share["low"], top), _y(min(share["high"], top), top)
    y = _y(share["value"], top)
    return {"x": f"{x:.1f}", "y": f"{y:.1f}", "low": f"{low:.1f}", "high": f"{high:.1f}", "said": str(Rate(**share))}


def _x(size: int, sizes: Sequence[int]) -> float:
    """Return the x position of a size, on a logarithmic scale."""
    inner = WIDTH - LEFT - RIGHT - 80
    if len(sizes) == 1:
        return LEFT + 40 + inner / 2
    return LEFT + 40 + inner * log(size / sizes[0]) / log(sizes[-1] / sizes[0])


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top


def _arms(report: Report) -> list[list[str]]:
    rows, grid = [], grid_of(report)
    for arm in report["arms"]:
        share = arm["share"]
        cell = grid[arm["arm"], arm["size"]]
        shown = f"{Rate(**share)} {rate_note(arm['arm'], cell)}".rstrip() if share else ""
        failed = "; ".join(f"seed {seed}: {why}" for seed, why in arm["failed"].items())
        strict = f"{arm['readings']['strict']:.1%}" if "strict" in arm["readings"] else ""
        title = f"{arm['title']} {one_seed_note(cell)}"
        cells = [title, str(arm["size"]), shown, strict, *costs(arm["results"] if arm["trained"] else [])]
        rows.append([*cells, failed])
    return rows


def _contrasts(report: Report) -> list[list[str]]:
    titles = {arm["arm"]: arm["title"] for arm in report["arms"]}
    rows = []
    for c in report["contrasts"]:
        gap = c["gap"]
        points = f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
        significant = "yes" if c["significant"] else "no"
        of = interval_of(Difference(**gap).seeds)
        cells = [titles[c["ours"]], titles[c["theirs"]], str(c["size"]), points, of, f"{c['corrected']:.3f}"]
        rows.append([*cells, f"{c['wins']} / {c['losses']}", significant])
    return rows


def _questions(report: Report) -> list[dict[str, Any]]:
    """List the questions that only one side of a comparison answered right, those with the most seeds first."""
    asked = report.get("asked", [])
    if not asked:
        return []
    titles, grid, found = {arm["arm"]: arm["title"] for arm in report["arms"]}, grid_of(report), []
    for c in report["contrasts"]:
        rows = paired(grid[c["ours"], c["size"]], grid[c["theirs"], c["size"]])
        assert rows is not None, "it was compared"
        net = paired_gaps(*rows).sum(0)
        order = sorted(range(len(net)), key=lambda at: -abs(net[at]))
        won, lost = [at for at in order if net[at] > 0], [at for at in order if net[at] < 0]
        names = (titles[c["ours"]], titles[c["theirs"]])
        sides = [_side(name, [asked[at] for at in ours]) for name, ours in zip(names, (won, lost), strict=True)]
        summary = f"{names[0]} against {names[1]}, {c['size']} examples: {len(won)} questions won, {len(lost)} lost"
        found.append({"summary": summary, "sides": sides})
    return found


def _side(name: str, questions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    listed = [_asked(question) for question in questions[:LISTED]]
    return {"name": name, "questions": listed, "more": len(questions) - len(listed)}


def _asked(question: Mapping[str, Any]) -> str:
    prompt = question["prompt"]
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return f"{question['id']}: {text if len(text) <= 300 else text[:299] + '…'}"
