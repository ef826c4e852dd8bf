"""Write a comparison's figures as JSON and as sentences, and read the grid back from the JSON."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlft.results.clusters import Clusters
from nlft.results.collateral import Breach
from nlft.results.collateral_report import breach_text, figures_of
from nlft.results.comparison import Cells, Grid, Verdict, contrasts, rate_of, unmade, verdict
from nlft.results.comparison_plane import both_lines, equal_violation, plane
from nlft.results.front import KLRows
from nlft.results.stats import Difference, interval_of

Report = dict[str, Any]
# 1, without a number, had `told` for `significant`, and no `verdict_data`. 2 had bootstrap intervals.
FORMAT_VERSION = 3


def comparison_report(
    grid: Grid,
    pairs: Sequence[tuple[str, str]],
    titles: Mapping[str, str],
    prompted: Collection[str],
    about: Mapping[str, Any],
) -> Report:
    """Return the content of compare.json.

    Args:
        pairs: the comparisons that were fixed before the run.
        prompted: arms that train nothing.
        about: `nlft`, `model` and `settings`. If known, also `asked` (the questions in the order of the verdicts) and
            `grown` (the additions after a first result).
    """
    made, lacking = contrasts(grid, pairs), unmade(grid, pairs)
    decided = verdict(grid, made, prompted, len(lacking))
    return {
        "format_version": FORMAT_VERSION,
        **about,
        **_clusters_of(grid),
        "questions": len(next((cells.verdicts[0] for cells in grid.values() if cells.verdicts), [])),
        "verdict": verdict_sentence(decided, titles),
        "verdict_data": asdict(decided),
        **_both(grid, decided, titles, prompted),
        "arms": [
            {**_arm(cells), "arm": arm, "title": titles[arm], "size": size, "trained": arm not in prompted}
            for (arm, size), cells in grid.items()
        ],
        "contrasts": [{**vars(c), "gap": vars(c.gap), "significant": c.significant} for c in made],
        "unmade": [{"size": size, "ours": ours, "theirs": theirs} for size, ours, theirs in lacking],
    }


def _clusters_of(grid: Grid) -> Report:
    """Return what the report says of clusters: the field, the clusters of the questions and of the scored replies."""
    by = next((cells.clusters for cells in grid.values() if cells.clusters), None)
    if by is None:
        return {}
    kl = next((cells.kl_clusters.of for cells in grid.values() if cells.kl_clusters), None)
    return {"intervals": str(by), "clusters": {"field": by.field, "of": by.of, "kl_of": kl}}


def _both(grid: Grid, decided: Verdict, titles: Mapping[str, str], prompted: Collection[str]) -> Report:
    """Return what the report says of violations and KL together. Return nothing if no KL was measured."""
    if decided.front is None:
        return {}
    rows = plane(grid, prompted)
    largest = [row for row in rows if row["size"] == max(size for _, size in grid)]
    return {
        "plane": rows,
        "equal_violation": equal_violation(largest, decided),
        "both": both_lines(largest, decided, titles),
    }


def read_report(path: Path) -> Report:
    """Read a compare.json of this version or an older one, and return it in this version's format.

    All intervals, p-values and the verdict of an older file are computed again from its verdicts.
    """
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    if report.get("format_version") == FORMAT_VERSION:
        return report
    titles = {arm["arm"]: arm["title"] for arm in report["arms"]}
    prompted = [arm["arm"] for arm in report["arms"] if not arm["trained"]]
    planned = list(dict.fromkeys((c["ours"], c["theirs"]) for c in [*report["contrasts"], *report["unmade"]]))
    made = ("format_version", "questions", "verdict", "arms", "contrasts", "unmade")
    about = {name: value for name, value in report.items() if name not in made}
    new = comparison_report(grid_of(report), planned, titles, prompted, about)
    for arm, old in zip(new["arms"], report["arms"], strict=True):
        arm["readings"] = old["readings"]  # from summaries, which a report does not have
    return new


def grid_of(report: Report) -> Grid:
    """Return the grid that a report was made from, without each seed's summary."""
    stored = report.get("clusters")
    by = Clusters(stored["field"], tuple(stored["of"])) if stored else None
    kl_by = Clusters(stored["field"], tuple(stored["kl_of"])) if stored and stored["kl_of"] else None
    return {
        (arm["arm"], arm["size"]): Cells(
            arm["verdicts"],
            arm["results"],
            {int(seed): why for seed, why in arm["failed"].items()},
            arm["seeds"],
            arm["once"],
            figures_of(arm["collateral"]) if arm.get("collateral") else None,
            tuple(Breach(**one) for one in arm.get("broken", [])),
            _kl_rows(arm["kl_each"]) if arm.get("kl_each") else None,
            by,
            kl_by if arm.get("kl_each") else None,
            arm["trained"],
        )
        for arm in report["arms"]
    }


def verdict_sentence(decided: Verdict, titles: Mapping[str, str]) -> str:
    """Return the verdict in one sentence, and one more for each method that breaks a bound of collateral.

    That names the first bound. The others stand below the table of collateral.
    """
    excluded = [f"{titles[arm]} cannot win: {_first(broken)}." for arm, broken in decided.excluded.items()]
    return " ".join([_sentence(decided, titles), *excluded])


def _first(broken: Sequence[Breach]) -> str:
    more = f", and {len(broken) - 1} more out of bounds" if len(broken) > 1 else ""
    return breach_text(broken[0]) + more


def _sentence(decided: Verdict, titles: Mapping[str, str]) -> str:
    if decided.kind == "no_arms":
        return "Nothing to compare: no trained method has a result, or no prompted one."
    if decided.kind == "no_common_seed":
        return "Nothing to compare: the best method and the prompts have no seed in common."
    if decided.kind == "nothing_graded":
        return "Nothing was graded: read the answers in the evaluation files before you choose."
    assert decided.best is not None
    assert decided.prompt is not None
    best, prompt = titles[decided.best], titles[decided.prompt]
    if decided.kind == "out_of_bounds":
        return f"No method stays within the bounds: the best, {best}, is {_gap_text(decided)} over {prompt}."
    if decided.kind == "do_not_train":
        rate = decided.rates[decided.prompt]
        method = "method within the bounds" if decided.excluded else "method"
        return (
            f"No {method} beat a model without training ({prompt}, {rate}): do not fine-tune on this data. The best, "
            f"{best}, is {_gap_text(decided)} over it."
        )
    if decided.kind == "unfinished":
        return (
            f"Not decided: {best} is {_gap_text(decided)} over {prompt}{_above_clause(decided, titles)}. Give every "
            "method all seeds before you decide."
        )
    if decided.kind != "train":
        gap = f"{best} is {_gap_text(decided)} over {prompt}{_above_clause(decided, titles)}"
        return _undecided_sentence(decided, gap)
    seeds = f" on {decided.seeds} of {decided.seeds + decided.failed_seeds} seeds" if decided.failed_seeds else ""
    planned = "" if decided.planned else " (not planned)"
    gap = f"{decided.rates[decided.best]}{seeds}, {_gap_text(decided)} over {prompt}{planned}"
    return f"Train with {best}: {gap}{_rivals_clause(decided, titles)}."


def _above_clause(decided: Verdict, titles: Mapping[str, str]) -> str:
    """Return which methods are significantly above the prompt and still not the best one. Empty without any."""
    if not decided.above:
        return ""
    names = " / ".join(titles[arm] for arm in decided.above)
    return f", but {names} {'are' if len(decided.above) > 1 else 'is'} significantly above it"


def _gap_text(decided: Verdict) -> str:
    """Return the gap with its interval, and what that interval is of."""
    assert decided.gap is not None
    return f"{decided.gap} {interval_of(decided.gap.seeds)}".rstrip()


def _undecided_sentence(decided: Verdict, gap: str) -> str:
    assert decided.worthwhile is not None
    assert decided.needed is not None
    power = f"to detect {100 * decided.worthwhile:.1f} points in four runs of five"
    take = decided.needed
    if decided.kind == "more_seeds":
        # More seeds take no fewer questions.
        more = take.questions > decided.questions
        questions = f"{max(take.questions, decided.questions)} test questions{_on_clusters(decided) if more else ''}"
        need = f"you need about {take.seeds} seeds (you have {decided.seeds}) and {questions}"
        return f"Too few seeds: {gap}; {power}, {need}; {_range(decided)}."
    if decided.kind == "more_questions":
        return (
            f"Too few test questions: {gap}; {power}, you need about {take.questions}{_on_clusters(decided)} "
            f"(you have {decided.questions}); {_range(decided)}."
        )
    return f"Too close: {gap}; the {decided.questions} test questions are enough {power}."


def _range(decided: Verdict) -> str:
    """Return the range of the questions and seeds that are needed, such as "the range is 320 to 1300 questions"."""
    take = decided.needed
    assert take is not None
    seeds = f", on up to {take.most_seeds} seeds" if take.most_seeds and take.most_seeds > (take.seeds or 0) else ""
    return f"the range is {take.fewest} to {take.most} questions{seeds}, because this result is a sample"


def _on_clusters(decided: Verdict) -> str:
    """Return on how many clusters the needed questions have to be, such as ", on 60 items"."""
    assert decided.needed is not None
    return f", on {decided.needed.clusters} {decided.cluster}s" if decided.cluster else ""


def _rivals_clause(decided: Verdict, titles: Mapping[str, str]) -> str:
    groups = (
        ("not significantly different from", decided.rivals),
        ("significantly better, but on fewer seeds:", decided.better),
        ("no result:", decided.missing),
    )
    parts = [f"{words} {' / '.join(titles[arm] for arm in arms)}" for words, arms in groups if arms]
    if decided.front is not None:  # which says how the other methods compare
        return "; " + "; ".join(parts) if parts else ""
    return "; " + "; ".join(parts) if parts else ", and significantly above every other method"


def contrast_lines(report: Report) -> list[str]:
    """Describe the comparisons at the largest size, those that could not be made, and later additions to the grid."""
    titles = {arm["arm"]: arm["title"] for arm in report["arms"]}
    largest = max(arm["size"] for arm in report["arms"])
    lines = [_contrast_line(c, titles) for c in report["contrasts"] if c["size"] == largest]
    lines += [
        f"{titles[c['ours']]} against {titles[c['theirs']]}, {c['size']} examples: no seed in common, not compared."
        for c in report["unmade"]
    ]
    return [*lines, *grown_line(report), *interval_line(report)]


def _contrast_line(contrast: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    significance = "" if contrast["significant"] else ", not significant"
    gap = Difference(**contrast["gap"])
    shown = f"{gap} {interval_of(gap.seeds)}".rstrip()
    return (
        f"{titles[contrast['ours']]} against {titles[contrast['theirs']]}, {contrast['size']} examples: "
        f"{shown}, p {contrast['corrected']:.2g} corrected ({contrast['wins']} won, "
        f"{contrast['losses']} lost){significance}."
    )


def interval_line(report: Report) -> list[str]:
    """Return one line about clusters. Without them, return no line."""
    return [f"95% {report['intervals']}."] if "intervals" in report else []


def grown_line(report: Report) -> list[str]:
    """Return one line about the additions to the grid after a first result. Without additions, return no line."""
    grown = report.get("grown")
    if not grown:
        return []
    return ["Added after a first result: " + "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in grown.items()) + "."]


def _arm(cells: Cells) -> dict[str, Any]:
    rate = rate_of(cells.verdicts, cells.clusters) if cells.verdicts else None
    return {
        "readings": _readings(cells),
        "share": vars(rate) if rate else None,
        "seeds": cells.seeds,
        "once": cells.once,
        "verdicts": [[int(right) for right in row] for row in cells.verdicts],
        "results": [{k: v for k, v in r.items() if k != "summary"} for r in cells.results],
        "failed": {str(seed): why for seed, why in cells.failed.items()},
        "collateral": {k: asdict(v) for k, v in cells.collateral.items()} if cells.collateral else None,
        "broken": [asdict(one) for one in cells.broken],
        "kl_each": cells.kl,
    }


def _kl_rows(stored: Any) -> KLRows:
    return tuple(tuple((nats, tokens) for nats, tokens in row) for row in stored)


def _readings(cells: Cells) -> dict[str, float]:
    """Return the rate of right answers by each reading of the answers."""
    accuracies = [result["summary"]["accuracy"] for result in cells.results if "summary" in result]
    if not accuracies:
        return {}
    return {
        name: sum(a[name]["count"] for a in accuracies) / sum(a[name]["n"] for a in accuracies)
        for name in accuracies[0]
    }
