"""Join two records of one reply, such as an answer as it was sampled and as it was judged."""

from dataclasses import replace
from typing import Any

from nlft.core.prompts import as_messages
from nlft.data.records import Example, revision_text
from nlft.labels import VERDICTS
from nlft.sources.raw_records import TEMPLATE_COLUMNS

_WRITTEN = ("answer", "judgment", "revision", "feedback")


def joined(first: Example, second: Example) -> Example:
    """Return the first example with what only the second one has.

    Args:
        first, second: examples of the same prompt and completion with the same label. Of fields that both have, the
            first one's stay; see `differing`.
    """
    added: dict[str, Any] = {name: getattr(first, name) or getattr(second, name) for name in _WRITTEN}
    if first.revision is None and (revision := revision_text(second)) is not None:
        added["revision"] = revision if isinstance(first.completion, str) else as_messages(revision, "assistant")
    spans = second.spans if set(first.spans) <= set(second.spans) else first.spans
    keep = first.keep or second.keep
    return replace(first, **added, spans=spans, keep=keep, extra={**second.extra, **first.extra})


def differing(first: Example, second: Example) -> tuple[list[str], list[str]]:
    """Name the fields that both examples have and that differ.

    Returns:
        Those that somebody wrote and that training may read; and the others, without the verdicts.
    """
    pairs: dict[str, tuple[Any, Any]] = {name: (getattr(first, name), getattr(second, name)) for name in _WRITTEN}
    pairs["revision"] = (revision_text(first), revision_text(second))
    written = [name for name, (one, other) in pairs.items() if one and other and one != other]
    marked = [set(example.spans) for example in (first, second)]
    if not (marked[0] <= marked[1] or marked[1] <= marked[0]):
        written.append("spans")
    extra = [name for name in first.extra.keys() & second.extra.keys() if first.extra[name] != second.extra[name]]
    written += [name for name in TEMPLATE_COLUMNS if name in extra]
    return written, sorted({*extra} - {*TEMPLATE_COLUMNS, *VERDICTS})
