"""A comparison as one HTML file without scripts: verdict, curves, table, contrasts, small enough to mail."""

import html
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from nlft.results.comparison import Share, alone, costs, paired
from nlft.results.comparison_report import grid_of, grown_line
from nlft.results.stats import paired_gaps

Report = dict[str, Any]
LISTED = 20  # questions that are listed for each side of a comparison
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 380, 56, 40, 12, 16

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #15171a); color: light-dark(#1b1f24, #e6e8eb); }
h1 { font-size: 1.5rem; } .verdict { font-size: 1.2rem; border-left: 4px solid #3572b0; padding-left: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr { border-bottom: 1px solid light-dark(#ddd, #333); } .failed { color: light-dark(#b02a2a, #ff8a80); }
svg { width: 100%; height: auto; } figcaption svg { width: .8em; } svg text { fill: currentColor; font-size: 12px; }
.grid { stroke: light-dark(#ddd, #333); } .scroll { overflow-x: auto; }
"""
# Okabe and Ito's colours, told apart by the colour-blind too.
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#8a6d00"]


def page(report: Report) -> str:
    """The whole page. Everything in it that a user or a model wrote is escaped."""
    body = [
        f"<h1>Comparison: {_text(report['model'])}</h1>",
        f'<p class="verdict">{_text(report["verdict"])}</p>',
        f"<p>{report['questions']} test questions; {_seeds(report)}. Every method had the same examples, prompt, LoRA "
        f"shape, grader and number of {_budget(report)}. Intervals are 95%. {_text(' '.join(grown_line(report)))}</p>",
        curves(report),
        '<div class="scroll">' + _arms(report) + "</div>",
        "<h2>Comparisons, fixed before the run</h2>",
        '<div class="scroll">' + _contrasts(report) + "</div>",
        *_questions(report),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>nlft compare</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
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
    # Older results have epochs, or do not say.
    same = all(len(steps - {None}) == 1 and None not in steps for steps in taken.values() if steps)
    return "optimizer steps" if same else "epochs"


def curves(report: Report) -> str:
    """Share of right answers against number of examples, as SVG, with whiskers over the interval."""
    sizes = sorted({arm["size"] for arm in report["arms"]})
    shown = [arm for arm in report["arms"] if arm["share"]]
    top = max((arm["share"]["high"] for arm in shown), default=1.0)
    top = min(1.0, (int(top * 10) + 1) / 10)
    names = list(dict.fromkeys(arm["arm"] for arm in shown))
    titles = {arm["arm"]: arm["title"] for arm in shown}
    parts, legend = [_axes(sizes, top)], []
    for index, name in enumerate(names):
        points = [
            (_x(arm["size"], sizes) + 5 * (index - len(names) / 2), arm["share"])
            for arm in sorted(shown, key=lambda arm: arm["size"])
            if arm["arm"] == name
        ]
        parts.append(_curve(points, top, index, titles[name]))
        legend.append(f'<span><svg viewBox="0 0 12 12">{_mark(6, 6, index)}</svg> {_text(titles[name])}</span> ')
    label = "Share of right answers against number of examples"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f"<figcaption>{''.join(legend)}</figcaption></figure>"
    )


def _axes(sizes: Sequence[int], top: float) -> str:
    parts = []
    for step in range(6):
        y, value = _y(top * step / 5, top), top * step / 5
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    for size in sizes:
        parts.append(f'<text x="{_x(size, sizes):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{size}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join([*parts, f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">training examples</text>'])


def _curve(points: Sequence[tuple[float, Mapping[str, float]]], top: float, index: int, title: str) -> str:
    colour = _colour(index)
    line = " ".join(f"{x:.1f},{_y(share['value'], top):.1f}" for x, share in points)
    dash = ' stroke-dasharray="5 4"' if _hollow(index) else ""
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>']
    for x, share in points:
        low, high = _y(share["low"], top), _y(min(share["high"], top), top)
        said = f"{title}: {Share(**share)}"
        whisker = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>'
        parts.append(f"<g><title>{_text(said)}</title>{whisker}{_mark(x, _y(share['value'], top), index)}</g>")
    return "".join(parts)


def _mark(x: float, y: float, index: int) -> str:
    """A method's dot, filled for the first round of colours and hollow for the second."""
    inside = "Canvas" if _hollow(index) else _colour(index)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{inside}" stroke="{_colour(index)}" stroke-width="2"/>'


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _hollow(index: int) -> bool:
    return index % (2 * len(_COLOURS)) >= len(_COLOURS)


def _x(size: int, sizes: Sequence[int]) -> float:
    """Sizes stand by their logarithm."""
    inner = WIDTH - LEFT - RIGHT - 80
    if len(sizes) == 1:
        return LEFT + 40 + inner / 2
    return LEFT + 40 + inner * log(size / sizes[0]) / log(sizes[-1] / sizes[0])


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top


def _arms(report: Report) -> str:
    rows, grid = [], grid_of(report)
    for arm in report["arms"]:
        share = arm["share"]
        shown = str(Share(**share)) if share else ""
        failed = "; ".join(f"seed {seed}: {why}" for seed, why in arm["failed"].items())
        strict = f"{arm['readings']['strict']:.1%}" if "strict" in arm["readings"] else ""
        title = f"{arm['title']} {alone(grid[arm['arm'], arm['size']])}"
        cells = [title, str(arm["size"]), shown, strict, *costs(arm["results"] if arm["trained"] else [])]
        row = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        rows.append(f'<tr>{row}<td class="failed">{_text(failed)}</td></tr>')
    head = ("method", "examples", "right [95%]", "strict", "steps", "train", "peak memory", "tokens trained", "")
    return _table(head, rows)


def _contrasts(report: Report) -> str:
    titles = {arm["arm"]: arm["title"] for arm in report["arms"]}
    rows = []
    for c in report["contrasts"]:
        gap = c["gap"]
        points = f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
        told = "yes" if c["told"] else "no"
        cells = [titles[c["ours"]], titles[c["theirs"]], str(c["size"]), points, f"{c['corrected']:.3f}"]
        cells += [f"{c['wins']} / {c['losses']}", told]
        rows.append("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>")
    head = ("method", "against", "examples", "points [95%]", "p (Holm)", "won / lost", "can be told")
    return _table(head, rows)


def _questions(report: Report) -> list[str]:
    """Which questions each side of a comparison alone answered right, most seeds first; folded away."""
    asked = report.get("asked", [])
    if not asked:
        return []
    titles, grid, parts = {arm["arm"]: arm["title"] for arm in report["arms"]}, grid_of(report), []
    for c in report["contrasts"]:
        rows = paired(grid[c["ours"], c["size"]], grid[c["theirs"], c["size"]])
        assert rows is not None, "it was compared"
        net = paired_gaps(*rows).sum(0)
        order = sorted(range(len(net)), key=lambda at: -abs(net[at]))
        won, lost = [at for at in order if net[at] > 0], [at for at in order if net[at] < 0]
        names = (titles[c["ours"]], titles[c["theirs"]])
        lists = [_list(name, [asked[at] for at in found]) for name, found in zip(names, (won, lost), strict=True)]
        summary = f"{names[0]} against {names[1]}, {c['size']} examples: {len(won)} questions won, {len(lost)} lost"
        parts.append(f"<details><summary>{_text(summary)}</summary>{''.join(lists)}</details>")
    return ["<h2>Question by question</h2>", *parts]


def _list(title: str, questions: Sequence[Mapping[str, Any]]) -> str:
    items = [f"<li>{_text(_asked(question))}</li>" for question in questions[:LISTED]]
    more = len(questions) - len(items)
    rest = f"<p>and {more} more, in compare.json</p>" if more else ""
    return f"<p>Right by {_text(title)} alone:</p><ul>{''.join(items)}</ul>{rest}" if items else ""


def _asked(question: Mapping[str, Any]) -> str:
    prompt = question["prompt"]
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return f"{question['id']}: {text if len(text) <= 300 else text[:299] + '…'}"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(rows)}</table>"


def _text(value: Any) -> str:
    return html.escape(str(value))
