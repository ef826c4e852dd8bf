"""Change an example's label, and drop what belonged to the old one: `nlft.labels` for examples."""

from dataclasses import replace
from typing import Any

from nlft.core.spans import Span
from nlft.data.records import Example
from nlft.data.span_records import span_rows
from nlft.labels import own_spans, relabelled

_FIELDS = ("label", "judgment", "spans", "keep")


def with_label(example: Example, label: bool) -> Example:
    """Return the example with the label; see `nlft.labels.relabelled`."""
    if example.label is label:
        return example
    extra = relabelled(_record(example), label)
    changed = {name: extra.pop(name, None) for name in _FIELDS}
    spans = tuple(Span(**row) for row in changed["spans"])
    return replace(
        example,
        label=label,
        judgment=changed["judgment"],
        spans=spans,
        keep=bool(changed["keep"]),
        extra=extra,
    )


def hand_spans(example: Example) -> tuple[Span, ...]:
    """Return the example's spans without those that a judge made; see `nlft.labels.own_spans`."""
    return tuple(Span(**row) for row in own_spans(_record(example)))


def _record(example: Example) -> dict[str, Any]:
    fields = {name: getattr(example, name) for name in _FIELDS}
    return {**example.extra, **fields, "spans": span_rows(example.spans)}
