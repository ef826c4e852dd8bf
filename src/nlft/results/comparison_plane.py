"""Violations against KL to base: each arm of a comparison as a point and a curve, as data, as a table and in words."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nlft.results.comparison import Cells, Grid, Verdict, rate_note, rate_of
from nlft.results.comparison_tables import Table
from nlft.results.curves import kl_at, mean_curve
from nlft.results.stats import Interval, rate_per_token

AT_EQUAL = "strike"  # the arm at whose violations the others are compared; if it is not there, the best trained arm


@dataclass(frozen=True)
class AtEqualViolation:
    """The KL that an arm's curve has where it first reaches the violations of another arm.

    Attributes:
        kl: nats per token; None if the curve does not reach them.
        ratio: `kl` divided by the KL of that other arm.
    """

    arm: str
    kl: float | None
    ratio: float | None


def plane(grid: Grid, prompted: Collection[str]) -> list[dict[str, Any]]:
    """Return a row for each arm and size with a result, for the report.

    `violation` is the share of answers that are not right, `kl` the KL on the task in nats per token, both with their
    95% interval; `interval` says what they are of. The KL of a prompted arm is 0. It is None for a trained arm without
    a KL of each reply. `kl_elsewhere` is the KL on the prompts to keep. `curve` has the means over seeds of each step,
    and `chosen` the chosen step of each cell.
    """
    return [
        {"arm": arm, "size": size, "interval": rate_note(arm, cells), **_point(cells, trained=arm not in prompted)}
        for (arm, size), cells in grid.items()
        if cells.verdicts
    ]


def _point(cells: Cells, *, trained: bool) -> dict[str, Any]:
    rate, kl = rate_of(cells.verdicts, cells.clusters), None if trained else Interval(0.0, 0.0, 0.0)
    if trained and cells.kl:
        nats, tokens = ([[reply[at] for reply in row] for row in cells.kl] for at in (0, 1))
        kl = rate_per_token(nats, tokens, clusters=cells.kl_clusters)
    keep = (cells.collateral or {}).get("keep")
    return {
        "violation": {"value": 1 - rate.value, "low": 1 - rate.high, "high": 1 - rate.low},
        "kl": asdict(kl) if kl else None,
        "kl_elsewhere": keep.kl if keep else None if trained else 0.0,
        "curve": [point.as_json() for point in mean_curve(cells.results)] if trained else [],
        "chosen": [result["chosen_step"] for result in cells.results if "chosen_step" in result],
    }


def at_equal_violation(rows: Sequence[Mapping[str, Any]], arm: str, base: str) -> list[AtEqualViolation]:
    """Return the KL of each other arm with a curve, where it first has the violations of `arm`.

    Args:
        rows: rows of `plane`, of one size.
        base: the arm from which the curves start, at a KL of 0.
    """
    by_arm = {row["arm"]: row for row in rows}
    mine = by_arm[arm]
    violation, start = mine["violation"]["value"], by_arm[base]["violation"]["value"]
    if violation >= start or not mine["kl"] or not mine["kl"]["value"]:
        return []
    found = []
    for name, row in by_arm.items():
        points = mean_curve([{"curve": row["curve"]}])
        if name != arm and points and all(point.kl is not None for point in points):
            kl = kl_at(points, violation, start)
            found.append(AtEqualViolation(name, kl, None if kl is None else kl / mine["kl"]["value"]))
    return found


def equal_violation(rows: Sequence[Mapping[str, Any]], decided: Verdict) -> dict[str, Any] | None:
    """Compare the other arms with `strike` at its violations, or with the best trained arm if there is no `strike`.

    Args:
        rows: rows of `plane`, of the largest size.

    Returns:
        `arm`, and `others` with a field for each attribute of `AtEqualViolation`. None if no curve can be compared.
    """
    known = {row["arm"]: row for row in rows if row["kl"]}
    arm = AT_EQUAL if AT_EQUAL in known else decided.best
    if arm is None or arm not in known or "base" not in known:
        return None
    others = at_equal_violation(list(known.values()), arm, "base")
    return {"arm": arm, "others": [asdict(one) for one in others]} if others else None


def both_lines(rows: Sequence[Mapping[str, Any]], decided: Verdict, titles: Mapping[str, str]) -> list[str]:
    """Say which arms none beats by violations and KL, who beats the others, and their KL at equal violation.

    Args:
        rows: rows of `plane`, of the largest size.
    """
    front = decided.front
    assert front is not None, "KL was measured"
    known = {row["arm"]: row for row in rows}
    shown = {arm: f"{titles[arm]} ({_point_text(row)})" for arm, row in known.items()}
    lines = [f"No method beats these by violations and KL together: {', '.join(shown[arm] for arm in front.arms)}."]
    groups: dict[tuple[str, ...], list[str]] = {}
    for arm, by in front.beaten.items():
        on_front = tuple(one for one in by if one in front.arms)
        groups.setdefault(on_front or by, []).append(shown[arm])
    lines += [f"Beaten by {_joined([titles[one] for one in by])}: {', '.join(arms)}." for by, arms in groups.items()]
    if front.unmeasured:
        lines.append(f"Without a KL of each reply, not compared: {_joined([titles[arm] for arm in front.unmeasured])}.")
    equal = equal_violation(rows, decided)
    return [*lines, _equal_line(equal, known[equal["arm"]], titles)] if equal else lines


def _equal_line(equal: Mapping[str, Any], mine: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    others = [AtEqualViolation(**one) for one in equal["others"]]
    reached = [f"{titles[o.arm]} {o.ratio:.2g} times ({o.kl:.3g})" for o in others if o.kl is not None]
    never = [titles[o.arm] for o in others if o.kl is None]
    against = f"KL against that of {titles[equal['arm']]} ({mine['kl']['value']:.3g}): {', '.join(reached)}"
    parts = [*([against] if reached else []), *([f"not reached by {_joined(never)}"] if never else [])]
    return f"At {mine['violation']['value']:.1%} violations, {'; '.join(parts)}."


def plane_table(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Table:
    """Make a table of the arms: violations, KL and, if there are curves, both at each step.

    Args:
        rows: rows of `plane`.
    """
    head = [
        "",
        "examples",
        "violations [95%]",
        "KL [95%]",
        "intervals",
        "KL elsewhere",
        "chosen step",
        "step: violations, KL",
    ]
    made = [
        [
            titles[row["arm"]],
            str(row["size"]),
            _interval(row["violation"], "{:.1%}"),
            _interval(row["kl"], "{:.3g}") if row["kl"] and row["kl"]["high"] else "0" if row["kl"] else "–",
            row.get("interval", ""),
            "–" if row["kl_elsewhere"] is None else f"{row['kl_elsewhere']:.3g}",
            " / ".join(map(str, row["chosen"])),
            "; ".join(map(_step_text, row["curve"])),
        ]
        for row in rows
    ]
    shown = [at for at in range(len(head)) if at == 0 or any(row[at] for row in made)]
    return Table([head[at] for at in shown], [[row[at] for at in shown] for row in made])


def _step_text(point: Mapping[str, Any]) -> str:
    kl = "" if point["kl"] is None else f", {point['kl']:.3g}"
    return f"{point['step']}: {point['violation']:.0%}{kl}"


def _interval(estimate: Mapping[str, float], form: str) -> str:
    value, low, high = (form.format(estimate[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _point_text(row: Mapping[str, Any]) -> str:
    chosen = sorted(set(row["chosen"]))
    steps = f", step {' / '.join(map(str, chosen))}" if chosen else ""
    kl = f", KL {row['kl']['value']:.3g}" if row["kl"] else ""
    return f"{row['violation']['value']:.1%}{kl}{steps}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
