"""Change the label of an example's record, and drop what belonged to the old label. What a person wrote stays."""

from collections.abc import Mapping
from typing import Any

VERDICTS = ("verdict", "judge_verdict", "conflict")
"""The fields that hold what graders and judges say of a label."""


def own_spans(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the record's spans without those that a judge made.

    A judge's span has no replacement, and its note is a line of the judgment.

    Args:
        record: with its `judge_verdict`, which says that a judge has seen it.
    """
    lines = (record.get("judgment") or "").split("\n") if "judge_verdict" in record else []
    spans = record.get("spans") or []
    return [span for span in spans if span.get("replace") is not None or span.get("note") not in lines]


def relabelled(record: Mapping[str, Any], label: bool) -> dict[str, Any]:
    """Return the record with the label. If it is another one, drop what belonged to the old label.

    That is: the verdicts of graders and judges; `keep` of a reply that is now wrong; the spans that a judge made in a
    reply that is now right, and the judgment that they belong to. `strike` would act on such spans.
    """
    if record["label"] is label:
        return dict(record)
    made = {name: value for name, value in record.items() if name not in VERDICTS} | {"label": label}
    if not label:
        made.pop("keep", None)
    elif (own := own_spans(record)) != list(record.get("spans") or []):
        made |= {"spans": own, "judgment": None}
    return made
