"""Arms side by side: a table with intervals, the differences that matter, and what to do about them, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from nlft.results.evaluate import deciding_reading
from nlft.results.stats import Difference, Proportion, needed, paired_difference

Report = Mapping[str, Any]
WORTH_KNOWING = 0.03  # a difference that one would like to be able to see


def reading_of(report: Report) -> str | None:
    """The deciding reading of all arms; None where nothing was graded."""
    for arm in finished(report):
        if arm["summary"]["answer_logp"] is not None:
            return None
        return deciding_reading(arm["summary"]["accuracy"], report["settings"]["extraction"])
    return None


def finished(report: Report) -> list[Mapping[str, Any]]:
    """The arms that were trained and evaluated."""
    return [arm for arm in report["arms"] if "summary" in arm]


def table(report: Report) -> str:
    """The arms side by side, as Markdown that also reads well in a terminal."""
    reading = reading_of(report)
    graded = [f"right of {report['test']}, {reading} [95%]"] if reading else ["log-likelihood of answers"]
    more = [{"strict": "flexible", "flexible": "strict"}[reading]] if reading in ("strict", "flexible") else []
    head = ["", *graded, *more, *(["graded"] if reading else []), "tokens", "train", "evaluate", "peak memory"]
    rows = [head]
    for arm in report["arms"]:
        cells = _cells(arm, reading, more) if "summary" in arm else [arm["skipped"].split("\n")[0]]
        rows.append([arm["title"], *cells, *[""] * (len(head) - 1 - len(cells))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cells(arm: Mapping[str, Any], reading: str | None, others: Sequence[str]) -> list[str]:
    summary = arm["summary"]
    if reading is None:
        graded = [f"{summary['answer_logp']:.3f}"]
    else:
        graded = [str(Proportion(**summary["accuracy"][reading]))]
        graded += [f"{Proportion(**summary['accuracy'][other]).value:.1%}" for other in others]
        graded.append(f"{summary['graded_share'][reading]:.0%}")
    return [
        *graded,
        f"{summary['mean_tokens']:.0f}",
        f"{arm['train_seconds']:.0f} s",
        f"{arm['evaluate_seconds']:.0f} s",
        f"{arm['peak_memory_bytes'] / 2**30:.1f} GiB",
    ]


def differences(report: Report) -> list[str]:
    """NLFT against each other arm, on the same questions, a line each."""
    verdicts = _verdicts(report)
    titles = {arm["name"]: arm["title"] for arm in report["arms"]}
    return [
        f"NLFT against {_against(name, titles[name])}: {gap} (95%, over questions): {_told(gap)}."
        for name in verdicts
        if name != "nlft" and "nlft" in verdicts and (gap := paired_difference(verdicts["nlft"], verdicts[name]))
    ]


def advice(report: Report) -> list[str]:
    """What the figures support, and what would be needed to say more."""
    verdicts = _verdicts(report)
    if not verdicts:
        return ["Nothing was graded: read the answers in the evaluation files before you choose."]
    shares = {name: sum(right) / len(right) for name, right in verdicts.items()}
    best = max(shares, key=lambda name: shares[name])
    titles = {arm["name"]: arm["title"] for arm in report["arms"]}
    lines = []
    if "base" in verdicts and best != "base":
        gap = paired_difference(verdicts[best], verdicts["base"])
        if gap.low <= 0:
            lines.append(f"No method beat the prompted base for certain (best: {titles[best]}, {gap}).")
        else:
            lines.append(f"Most right: {titles[best]}, {gap} over the prompted base.")
    elif best == "base":
        lines.append("No method beat the prompted base: don't fine-tune on this, or get other examples first.")
    lines += _rivals(verdicts, best, titles)
    return lines


def _rivals(verdicts: Mapping[str, Sequence[bool]], best: str, titles: Mapping[str, str]) -> list[str]:
    """The arms that cannot be told from the best, and how many questions it would take."""
    unclear = {
        name: paired_difference(verdicts[best], right)
        for name, right in verdicts.items()
        if name not in (best, "base") and paired_difference(verdicts[best], right).low <= 0
    }
    if not unclear:
        return []
    named = ", ".join(titles[name] for name in unclear)
    n = len(verdicts[best])
    wanted = max(needed([verdicts[best]], [verdicts[name]], WORTH_KNOWING).questions for name in unclear)
    line = f"It cannot be told apart from: {named}."
    if wanted > n:
        line += f" To tell 3 points you need about {wanted} test questions (you have {n}), and more seeds."
    return [line]


def _verdicts(report: Report) -> dict[str, list[bool]]:
    reading = reading_of(report)
    if reading is None:
        return {}
    return {
        arm["name"]: [question["grades"][reading]["verdict"] == "right" for question in arm["questions"]]
        for arm in finished(report)
    }


def _against(name: str, title: str) -> str:
    return "the same training with the branch off" if name == "control" else f"{title[0].lower()}{title[1:]}" \
        if not title.startswith("SFT") else title  # fmt: skip


def _told(gap: Difference) -> str:
    return "no difference can be told" if gap.low <= 0 <= gap.high else "the interval leaves out zero"
