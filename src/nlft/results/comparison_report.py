"""A comparison's figures as plain data and in words, and read back from them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nlft.results.comparison import Cells, Grid, contrasts, share_of, table, unmade, verdict
from nlft.results.stats import Difference

Report = dict[str, Any]


def report(
    grid: Grid,
    pairs: Sequence[tuple[str, str]],
    titles: Mapping[str, str],
    prompted: Collection[str],
    about: Mapping[str, Any],
) -> Report:
    """Everything that compare.json holds.

    Args:
        pairs: the comparisons that were fixed before the run.
        prompted: arms that train nothing.
        about: `nlft`, `model`, `settings`, and where it is known `asked`, the questions in the order of the verdicts,
            and `grown`, what was added after a first result.
    """
    found, lacking = contrasts(grid, pairs), unmade(grid, pairs)
    return {
        **about,
        "questions": len(next((cells.verdicts[0] for cells in grid.values() if cells.verdicts), [])),
        "verdict": verdict(grid, found, titles, prompted, len(lacking)),
        "arms": [
            {**_arm(cells), "arm": arm, "title": titles[arm], "size": size, "trained": arm not in prompted}
            for (arm, size), cells in grid.items()
        ],
        "contrasts": [{**vars(c), "gap": vars(c.gap), "told": c.told} for c in found],
        "unmade": [{"size": size, "ours": ours, "theirs": theirs} for size, ours, theirs in lacking],
    }


def grid_of(found: Report) -> Grid:
    """The grid that a report was made from, but for each seed's summary."""
    return {
        (arm["arm"], arm["size"]): Cells(
            arm["verdicts"],
            arm["results"],
            {int(seed): why for seed, why in arm["failed"].items()},
            arm["seeds"],
            arm["once"],
        )
        for arm in found["arms"]
    }


def told(grid: Grid, titles: Mapping[str, str], found: Report) -> str:
    """Table, comparisons at the largest size and verdict, as the terminal shows them."""
    largest = max(size for _, size in grid)
    lines = [_line(c, titles) for c in found["contrasts"] if c["size"] == largest]
    lines += [
        f"{titles[c['ours']]} against {titles[c['theirs']]}, {c['size']} examples: no seed in common, not compared."
        for c in found["unmade"]
    ]
    return "\n".join(["", table(grid, titles), "", *lines, *grown_line(found), "", found["verdict"]])


def grown_line(found: Report) -> list[str]:
    """What was added to the grid by those who had seen a result, if anything."""
    grown = found.get("grown")
    if not grown:
        return []
    return ["Added after a first result: " + "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in grown.items()) + "."]


def _arm(cells: Cells) -> dict[str, Any]:
    share = share_of(cells.verdicts) if cells.verdicts else None
    return {
        "readings": _readings(cells),
        "share": vars(share) if share else None,
        "seeds": cells.seeds,
        "once": cells.once,
        "verdicts": [[int(right) for right in row] for row in cells.verdicts],
        "results": [{k: v for k, v in r.items() if k != "summary"} for r in cells.results],
        "failed": {str(seed): why for seed, why in cells.failed.items()},
    }


def _readings(cells: Cells) -> dict[str, float]:
    """The share of right answers by each reading of them."""
    found = [result["summary"]["accuracy"] for result in cells.results if "summary" in result]
    if not found:
        return {}
    return {name: sum(f[name]["count"] for f in found) / sum(f[name]["n"] for f in found) for name in found[0]}


def _line(contrast: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    told = "" if contrast["told"] else ", no difference can be told"
    return (
        f"{titles[contrast['ours']]} against {titles[contrast['theirs']]}, {contrast['size']} examples: "
        f"{Difference(**contrast['gap'])}, p {contrast['corrected']:.2g} corrected ({contrast['wins']} won, "
        f"{contrast['losses']} lost){told}."
    )
