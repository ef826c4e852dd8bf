"""What a model card says of results: better or not, collateral, whether the rule stays in the prompt. No torch.

Phrases that became commoner are counted and not quoted: they may be words of the user's examples.
"""

from collections.abc import Mapping
from typing import Any

from nlft.runs.card_facts import Known, public_name

RULE_ARMS = ("rule", "rule-reworded", "rule-shots")  # arms of a comparison with the rule in their prompts
_SETS = {"task": "the task's prompts", "near": "near-scope prompts", "keep": "prompts to keep"}
_VERDICTS = {
    "train": "train. The best method, {best}, beats the best model without training.",
    "do_not_train": "do not train. No method beats a model without training.",
    "unfinished": "not decided: a method that lacks seeds beats the best model without training.",
    "out_of_bounds": "no method stays within the bounds on collateral.",
    "more_seeds": "not decided: too few seeds.",
    "more_questions": "not decided: too few test questions.",
    "too_close": "too close: the best method is not significantly better than a prompt.",
    "no_arms": "nothing to compare.",
    "no_common_seed": "nothing to compare.",
    "nothing_graded": "nothing was graded.",
}


def better_lines(known: Known) -> list[str]:
    """Return the verdict of the comparison and the rates of the evaluation, with their 95% intervals."""
    lines = []
    if known.comparison:
        lines += _verdict(known.comparison, known.arm)
    if known.evaluation:
        summary = known.evaluation["summary"]
        rows = [
            f"- {name}: {one['count']} of {one['n']} right, {_rate(one, one['count'] / one['n'])}"
            for name, one in summary["accuracy"].items()
            if one["n"]
        ]
        lines += [
            *([""] if lines else []),
            f"Evaluated on {_many(summary['questions'], 'question')}:",
            "",
            *rows,
        ]
    if known.outdated:
        again = f"`nlft evaluate QUESTIONS --model_name_or_path {_base(known)} --adapter RUN`"
        lines += [*([""] if lines else []), f"evaluation.json is about other weights. Evaluate again: {again}"]
    return lines or [f"Not measured. {_compare(known)} compares the method with its rivals, on the same examples."]


def _verdict(report: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    data, titles = report["verdict_data"], {one["arm"]: one["title"] for one in report["arms"]}
    said = _VERDICTS[data["kind"]].format(best=titles.get(data["best"], ""))
    seeds, asked = report["settings"]["seeds"], _many(report["questions"], "test question")
    lines = [f"Verdict of a comparison ({asked}, {_many(len(seeds), 'seed')}): {said}", ""]
    if gap := data.get("gap"):
        lines.append(
            f"- {titles[data['best']]} against {titles[data['prompt']]}: {100 * gap['value']:+.1f} points "
            f"[{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
        )
    if arm and arm["arm"] != data.get("best"):
        lines.append("- This is not the comparison's best method.")
    shown = [one for one in report["arms"] if one is arm or (not one["trained"] and one["size"] == arm.get("size"))]
    lines += [f"- {_title(one, arm)}: {_share(one)}" for one in shown or report["arms"] if one["share"]]
    return lines


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _title(one: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    return f"this adapter ({one['title']})" if one is arm else str(one["title"])


def collateral_lines(known: Known) -> list[str]:
    """Return for each set of prompts what changed from the base to the tuned model."""
    stored = known.collateral or known.evaluation.get("collateral") or {}
    figures, broken = stored.get("figures"), stored.get("broken")
    if not figures and known.arm.get("collateral"):
        figures, broken = known.arm["collateral"], known.arm.get("broken")
    if not figures:
        return [
            "Not measured. This compares the replies with the base model's:",
            "",
            f"    nlft evaluate QUESTIONS --model_name_or_path {_base(known)} --adapter RUN --collateral",
        ]
    head = ["| | replies | KL to base, nats/token | ends by itself | words | phrases that became commoner |"]
    rows = [_collateral_row(name, one, known) for name, one in figures.items()]
    bounds = sorted({f"`{one['bound']}` on {_SETS.get(one['prompts'], one['prompts'])}" for one in broken or []})
    out = f"Out of bounds: {', '.join(bounds)}." if bounds else "Every bound was kept."
    return [*head, "|---|---|---|---|---|---|", *rows, "", out]


def _collateral_row(name: str, one: Mapping[str, Any], known: Known) -> str:
    before, after = one["before"], one["after"]
    kl = "not measured" if one.get("kl") is None else f"{one['kl']:.4f}"
    plane = [p for p in known.comparison.get("plane", []) if (p["arm"], p["size"]) == _key(known.arm)]
    if name == "task" and plane and plane[0].get("kl") and one is (known.arm.get("collateral") or {}).get("task"):
        kl = f"{kl} [{plane[0]['kl']['low']:.4f}, {plane[0]['kl']['high']:.4f}]"
    cells = [
        _SETS.get(name, name),
        one["replies"],
        kl,
        f"{before['ends']:.0%} → {after['ends']:.0%}",
        f"{before['words']:.0f} → {after['words']:.0f}",
        len(one["phrases"]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _key(arm: Mapping[str, Any]) -> tuple[Any, Any]:
    return arm.get("arm"), arm.get("size")


def rule_lines(known: Known) -> list[str]:
    """Say whether the rule should stay in the prompt: from the comparison, else from the audit before training."""
    prompted = [one for one in known.comparison.get("arms", []) if one["arm"] in RULE_ARMS and one["share"]]
    prompted = [one for one in prompted if one["size"] == known.arm.get("size")]
    if known.arm.get("share") and known.arm.get("trained") and prompted:
        best, own = max(prompted, key=lambda one: one["share"]["value"]), known.arm
        return [
            _decided(own["share"], best["share"]),
            "",
            f"- this adapter, without the rule in the prompt: {_share(own)}",
            f"- the base model with it ({best['title']}): {_share(best)}",
            "",
            "The adapter and the rule together were not measured.",
        ]
    if ready := known.audit.get("preflight"):
        before = {
            "use the prompt": "Before training, the prompt alone sufficed: keep the rule in the prompt.",
            "strike": "Before training, the prompt alone did not suffice, so the habit was trained.",
        }.get(ready["verdict"], f"Before training, the audit's verdict was: {ready['verdict']}.")
        return [
            before,
            f"Whether the trained model still needs the rule was not measured: {_compare(known, '--rules RULES')}.",
        ]
    what = "compares training with the rule in the prompt of the base model."
    return [f"Not measured. {_compare(known, '--rules RULES')} {what}"]


def _decided(own: Mapping[str, Any], prompted: Mapping[str, Any]) -> str:
    """Compare by intervals that do not overlap, which is stricter than a test of the difference."""
    if own["low"] > prompted["high"]:
        return "No: without it, this adapter does better than the base model with it."
    if own["high"] < prompted["low"]:
        return "Yes: the base model with the rule in its prompt does better than this adapter without it."
    return "Not decided: the intervals overlap. Keep the rule until more questions decide."


def _compare(known: Known, more: str = "") -> str:
    words = ["nlft compare EXAMPLES --model_name_or_path", _base(known), more]
    return f"`{' '.join(filter(None, words))}`"


def _base(known: Known) -> str:
    return public_name(known.settings.get("model_name_or_path") or "BASE")


def _share(arm: Mapping[str, Any]) -> str:
    return _rate(arm["share"], arm["share"]["value"])


def _rate(one: Mapping[str, Any], value: float) -> str:
    return f"{value:.1%} [{one['low']:.1%}, {one['high']:.1%}]"
