"""Write docs/RESULTS.md from the files of `nlft compare`.

python benchmarks/results.py keep NAME runs/compare-small    copy a comparison to docs/NAME.json, then write
python benchmarks/results.py write                           write the tables in docs/RESULTS.md, and docs/NAME.html
"""

import argparse
import json
import re
from pathlib import Path
from textwrap import fill
from typing import Any

from nlft.results import comparison_page
from nlft.results.comparison_report import grid_of, read_report
from nlft.results.comparison_tables import Table, grid_table, second_table
from nlft.results.stats import interval_of

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "RESULTS.md"


def section(report: dict[str, Any]) -> str:
    """One comparison: settings, accuracies, contrasts, verdict."""
    titles = {arm["arm"]: arm["title"] for arm in report["arms"]}
    tables = (
        habit_tables(report, titles)
        if "plane" in report
        else [grid_table(grid_of(report), titles).markdown(), "", strict_line(report)]
    )
    verdict = [f"**Verdict:** {report['verdict']}", *report.get("both", [])]
    return "\n".join(
        [about(report), "", *tables, "", contrasts_table(report, titles), "", wrapped(" ".join(verdict)), ""]
    )


def habit_tables(report: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """Violations beside collateral, and the second checks if there are any."""
    head = ("", "seeds", "violations [95%]", "KL on the task [95%]", "KL elsewhere", "words", "ends", "repetition",
            "out of bounds")  # fmt: skip
    arms = {(arm["arm"], arm["size"]): arm for arm in report["arms"]}
    rows = []
    for row in report["plane"]:
        arm = arms[row["arm"], row["size"]]
        seeds = str(len(arm["seeds"])) if arm["seeds"] else ""
        rows.append([titles[row["arm"]], seeds, *plane_cells(row), *style_cells(arm), *bound_cells(arm)])
    shown = [Table(head, rows).markdown()]
    if report.get("second"):
        on_task = [row for row in report["second"] if row["prompts"] == "task"]
        shown += ["", second_table(on_task, titles).markdown()]
    return shown


def plane_cells(row: dict[str, Any]) -> list[str]:
    """Violations, and KL on the task and elsewhere, of one method."""
    v, kl, elsewhere = row["violation"], row["kl"], row["kl_elsewhere"]
    violations = f"{v['value']:.1%} [{100 * v['low']:.1f}, {100 * v['high']:.1f}]"
    task = "" if kl is None else f"{kl['value']:.3g} [{kl['low']:.3g}, {kl['high']:.3g}]" if kl["value"] else "0"
    return [violations, task, "" if elsewhere is None else f"{elsewhere:.2g}"]


def style_cells(arm: dict[str, Any]) -> list[str]:
    """Length, endings and repetition on the task, before and after."""
    if not arm["collateral"]:
        return ["", "", ""]
    b, a = arm["collateral"]["task"]["before"], arm["collateral"]["task"]["after"]
    return [
        f"{b['words']:.0f} → {a['words']:.0f}",
        f"{b['ends']:.0%} → {a['ends']:.0%}",
        f"{b['repetition']:.1%} → {a['repetition']:.1%}",
    ]


def bound_cells(arm: dict[str, Any]) -> list[str]:
    """The first bound that a method breaks, and how many more."""
    broken = [one["what"] for one in arm["broken"]]
    return [f"{broken[0]}{f', and {len(broken) - 1} more' if broken[1:] else ''}" if broken else ""]


def about(report: dict[str, Any]) -> str:
    """Model, questions, seeds and settings, and what the table shows."""
    settings = report["settings"]
    size, seeds = settings["per_device_train_batch_size"], settings["seeds"]
    budget = f"{settings['num_train_epochs']:g} epochs in batches of {size}"
    if settings["max_steps"] > 0:
        budget = f"{settings['max_steps']} optimizer steps of {size} examples"
    shown = (
        "The table shows violations, the share of replies that break a check, with the 95% interval. Words, endings "
        "and repetition are those on the task, base → trained."
        if "plane" in report
        else f"The table shows the share of right answers ({settings['extraction']} reading, as the examples were "
        "labelled) with its 95% interval. Time, memory and tokens are those of the training at the largest size, as a "
        "mean over the seeds."
    )
    return wrapped(
        f"{Path(report['model']).name}, {report['questions']} test questions, seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}; {budget}, learning rate {settings['learning_rate']:g}, "
        f"answer_weight {settings['answer_weight']:g}. {shown}"
    )


def strict_line(report: dict[str, Any]) -> str:
    """Accuracies under the strict reading, which also requires the format, at the largest size."""
    size = max(arm["size"] for arm in report["arms"])
    shown = [a for a in report["arms"] if a["size"] == size and "strict" in a["readings"]]
    return wrapped("Strict reading: " + ", ".join(f"{a['title']} {a['readings']['strict']:.1%}" for a in shown) + ".")


def wrapped(text: str) -> str:
    return fill(text, 118, break_long_words=False, break_on_hyphens=False)


def contrasts_table(report: dict[str, Any], titles: dict[str, str]) -> str:
    """The comparisons that were fixed before the run."""
    lines = [
        "| difference, points [95%] | interval | examples | p, corrected | won | lost |",
        "|---|---|---|---|---|---|",
    ]
    for found in report["contrasts"]:
        gap = found["gap"]
        of = interval_of(gap["seeds"])
        shown = f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
        lines.append(
            f"| {titles[found['ours']]} − {titles[found['theirs']]}: {shown} | {of} | {found['size']} | "
            f"{found['corrected']:.2g} | {found['wins']} | {found['losses']} |"
        )
    return "\n".join(lines)


def page(text: str) -> str:
    """The page, with the table of every comparison between its markers."""
    parts = text.split("<!-- generated: ")
    made = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition(" -->\n")
        report = read_report(DOCS / f"{name}.json")
        made.append(f"{name} -->\n{section(report)}<!-- end -->{rest.partition('<!-- end -->')[2]}")
    return "<!-- generated: ".join(made)


def keep(name: str, folder: Path, model: str | None) -> None:
    """Copy a comparison to docs/. Replace the path of the model by its name.

    Args:
        model: the name of the model, if its folder has another name.
    """
    report = read_report(folder / "compare.json")
    report.pop("asked", None)  # the questions are the dataset's
    report["settings"]["output_dir"] = f"runs/{name}"
    given = report["model"]
    named = model or (Path(given).name if Path(given).is_dir() else given)
    write_report(name, json.loads(json.dumps(report, ensure_ascii=False).replace(given, named)))


def write_report(name: str, report: dict[str, Any]) -> None:
    """Write docs/NAME.json."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (DOCS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write() -> None:
    """Write RESULTS.md, one page per comparison, and its JSON in the format of this version."""
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall("<!-- generated: (.+) -->", text):
        report = read_report(DOCS / f"{name}.json")
        write_report(name, report)
        (DOCS / f"{name}.html").write_text(comparison_page.page(report), encoding="utf-8")
    PAGE.write_text(page(text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["keep", "write"])
    parser.add_argument("name", nargs="?")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--model", help="name of the model, if its folder has another name")
    args = parser.parse_args()
    if args.what == "keep":
        keep(args.name, args.folder, args.model)
    write()


if __name__ == "__main__":
    main()
