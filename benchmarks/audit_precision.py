"""Does the audit find planted defects, and does it leave clean examples alone?

    python benchmarks/audit_precision.py measure --model FOLDER    count on fresh seeds, to docs/audit.json
    python benchmarks/audit_precision.py write                     write docs/AUDIT.md's tables from docs/audit.json

Each seed has 200 examples without a known defect, and several examples of every kind of defect
(tests/helpers/audit_defects.py). All are in one file, with a test file beside it.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from textwrap import fill
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers.audit_defects import DEFECTS, MAX_LENGTH, Planted, clean_examples, planted_examples  # noqa: E402
from nlft.auditing.findings import KINDS, Finding  # noqa: E402
from nlft.auditing.report import AuditReport  # noqa: E402
from nlft.auditing.run import AuditSettings, audit  # noqa: E402
from nlft.data.problems import generate_problems  # noqa: E402
from nlft.results.stats import wilson  # noqa: E402

PAGE, NUMBERS = ROOT / "docs" / "AUDIT.md", ROOT / "docs" / "audit.json"
SEEDS = [100, 101, 102, 103, 104]
CLEAN = "clean"

# Each planted defect, with the findings that name it.
PLANTED: dict[str, tuple[str, set[str]]] = {
    "no-movement": ('judgment that says nothing: "n/a", "This is wrong."', {"no-movement", "vague"}),
    "style-movement": ("judgment only about the punctuation", {"style-movement"}),
    "placebo": ("another example's judgment, in prose", {"placebo", "no-movement", "quote"}),
    "echo": ("judgment that repeats the answer", {"echo"}),
    "contradiction": ("praise of a wrong completion, blame of a right one", {"contradiction"}),
    "grader": ("inverted label", {"grader"}),
    "duplicate": ("the same example under another id", {"duplicate"}),
    "near-duplicate": ("the same with a typo, or with a few extra words", {"near-duplicate"}),
    "overlap": ("question of the test file, sometimes reworded", {"overlap"}),
    "unfinished": ("completion cut off, cut short, or in a loop", {"unfinished"}),
    "too-long": ("long prompt or long judgment", {"too-long"}),
    "correction-only": ("judgment that is only a correction", {"correction-only"}),
    "quote": ("another example's judgment, with its quote", {"quote"}),
    "bare-answer": ("standard answer without its steps", {"bare-answer"}),
    "answer": ("standard answer without a result", {"answer"}),
    "foreign-answer": ("another question's standard answer", {"foreign-answer"}),
    "prompt-copy": ("prompt inside the completion, or another turn after it", {"prompt-copy"}),
    "garbage": ("markup, control tokens, broken characters", {"garbage"}),
    "language": ("judgment in another language", {"language"}),
}
# With these defects the judgment is not about this completion's mistake, so it moves no more than a placebo.
_NOT_ABOUT_IT = {"no-movement", "placebo", "quote", "language", "contradiction", "grader", "echo", "style-movement"}
ALSO_RIGHT = {"placebo": _NOT_ABOUT_IT, "no-movement": _NOT_ABOUT_IT, "untagged": _NOT_ABOUT_IT}


def right_for(finding: str) -> set[str]:
    """The planted defects for which a finding is correct."""
    return {name for name, (_, names) in PLANTED.items() if finding in names} | ALSO_RIGHT.get(finding, set())


def tally(planted: Planted, report: AuditReport) -> dict[str, Any]:
    """Count how often each defect was found under each name, and the defect behind each finding."""
    found: dict[str | int, set[str]] = defaultdict(set)
    raised: dict[str, Counter[str]] = defaultdict(Counter)
    for finding in report.findings:
        about = _about(finding, planted)
        raised[finding.kind][planted.kinds.get(about, CLEAN)] += 1
        found[about].add(finding.kind)
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for example in planted.examples:
        kind = planted.kinds.get(example.id, CLEAN)
        names[kind].update(["planted", *(["any"] if found[example.id] else []), *found[example.id]])
        names[kind]["named"] += kind != CLEAN and bool(found[example.id] & PLANTED[kind][1])
        names[kind]["usable"] += example.id in (report.usable or ())
        warned = {name for name in found[example.id] if KINDS[name].severity != "note"}
        names[kind]["warned"] += bool(warned)
    return {"found": {k: dict(v) for k, v in names.items()}, "raised": {k: dict(v) for k, v in raised.items()}}


def _about(finding: Finding, planted: Planted) -> str | int:
    """The example that a finding is about; for a pair, the planted one of the two."""
    ids = [finding.id, *finding.others] if finding.id is not None else []
    return next((id for id in ids if planted.kinds.get(id) in right_for(finding.kind)), ids[0] if ids else "")


def measure(model: str, seeds: list[int], each: int) -> dict[str, Any]:
    """Audit each seed's examples with the model, then time an audit of 200 clean examples."""
    import torch

    from nlft.models.loading import ModelSettings, load_model, load_tokenizer

    settings = ModelSettings(model_name_or_path=model)
    net, tokenizer = load_model(settings, trainable=False), load_tokenizer(settings)
    totals: dict[str, Any] = {"found": {}, "raised": {}}
    for seed in seeds:
        planted = planted_examples(seed, each=each)
        wanted = AuditSettings(grader="number", max_length=MAX_LENGTH, seed=seed)
        report = audit(planted.examples, net, tokenizer, wanted, test=planted.test)
        for part, counts in tally(planted, report).items():
            for name, more in counts.items():
                totals[part][name] = dict(Counter(totals[part].get(name, {})) + Counter(more))
        print(f"seed {seed}: {report.summary}", file=sys.stderr)
    start = time.monotonic()
    audit(clean_examples(generate_problems(200, seed=7), 7), net, tokenizer)
    about = {"seeds": seeds, "each": each, "model": Path(model).name, "seconds_200": round(time.monotonic() - start)}
    about["threads"] = torch.get_num_threads()
    return {**about, **totals}


def found_table(numbers: dict[str, Any]) -> str:
    """For each planted defect, how many were found."""
    lines = ["| planted | | examples | found by name | found as | under any name |", "|---|---|---|---|---|---|"]
    for name, (title, _) in PLANTED.items():
        counts = numbers["found"][name]
        n, hit = counts["planted"], counts.get("named", 0)
        seen = ", ".join(f"{k} {counts[k]}" for k in KINDS if counts.get(k))
        lines.append(f"| `{name}` | {title} | {n} | {wilson(hit, n)} | {seen} | {counts.get('any', 0)} |")
    return "\n".join([*lines, ""])


def raised_table(numbers: dict[str, Any]) -> str:
    """For each finding, how many of its reports were correct."""
    clean = numbers["found"][CLEAN]["planted"]
    head = f"| finding | raised | correct | on other defects | on {clean} clean examples | precision |"
    lines = [head, "|---|---|---|---|---|---|"]
    for name in KINDS:
        counts = numbers["raised"].get(name, {})
        total = sum(counts.values())
        if total:
            so = sum(counts.get(kind, 0) for kind in right_for(name))
            alarms = counts.get(CLEAN, 0)
            lines.append(f"| `{name}` | {total} | {so} | {total - so - alarms} | {alarms} | {wilson(so, total)} |")
    return "\n".join([*lines, ""])


def kinds_table() -> str:
    """Every kind of finding, worst first."""
    lines = ["| finding | how bad | | cure |", "|---|---|---|---|"]
    lines += [f"| `{kind.name}` | {kind.severity} | {kind.title} | {kind.cure} |" for kind in KINDS.values()]
    return "\n".join([*lines, ""])


def about(numbers: dict[str, Any]) -> str:
    """The measurement in words."""
    seeds, clean = numbers["seeds"], numbers["found"][CLEAN]
    quiet = clean["planted"] - clean.get("warned", 0)
    text = (
        f"Seeds {seeds[0]} to {seeds[-1]}, each with {clean['planted'] // len(seeds)} clean examples and "
        f"{numbers['each']} examples of each of {len(PLANTED)} defects, scored by {numbers['model']}. {quiet} of "
        f"{clean['planted']} clean examples have no finding except notes. {clean['usable']} carry a usable signal. "
        f"An audit of 200 examples took {numbers['seconds_200']} s with {numbers['threads']} thread(s), "
        "on a machine that ran other work at the same time."
    )
    return fill(text, 118) + "\n"


def page(numbers: dict[str, Any], text: str) -> str:
    """The page with its tables filled in."""
    parts = {"kinds": kinds_table(), "about": about(numbers)}
    for name, made in {**parts, "found": found_table(numbers), "raised": raised_table(numbers)}.items():
        before, begin, rest = text.partition(f"<!-- generated: {name} -->\n")
        assert begin, f"docs/AUDIT.md has no place for {name}"
        text = before + begin + made + "<!-- end -->" + rest.partition("<!-- end -->")[2]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "write"])
    parser.add_argument("--model", help="folder or name of the model that scores")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--each", type=int, default=6, help="examples of each defect a seed")
    args = parser.parse_args()
    assert set(PLANTED) == set(DEFECTS)
    if args.what == "measure":
        numbers = measure(args.model, args.seeds, args.each)
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    PAGE.write_text(page(numbers, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
