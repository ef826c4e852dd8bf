"""Read the replies to label. A reply needs no label and no id."""

from dataclasses import dataclass
from pathlib import Path

from nlft.data.records import Example, examples_of
from nlft.sources.raw_records import UNLABELLED, is_blank
from nlft.sources.reading import read_source_as
from nlft.sources.settings import AS_IT_SAYS, ReadAs


@dataclass(frozen=True)
class Reply:
    """A reply of the file.

    Attributes:
        example: the reply as an example. Its label means nothing if the file has none.
        has_label: whether the file says that the reply is liked or disliked.
    """

    example: Example
    has_label: bool


def read_replies(path: str | Path, reading: ReadAs = AS_IT_SAYS) -> list[Reply]:
    """Read a file of replies, each with at least `prompt` and `completion`.

    A record without `id` gets one from its file and place: `train-17`. Records of the original project's form are read
    as `read_examples` reads them.

    Args:
        reading: how the file is read, where it does not say it.

    Raises:
        RecordsError: names every record that cannot be used.
    """
    source = read_source_as(path, reading)
    taken = {str(record.fields["id"]) for record in source.records if not is_blank(record.fields.get("id"))}
    unlabelled = []
    for place, record in enumerate(source.records, start=1):
        fields = record.fields
        if is_blank(fields.get("id")) and fields:
            fields["id"] = _free_id(f"{source.stem}-{place}", taken)
        # A record of the original project has its label in another field.
        lacks = is_blank(fields.get("label")) and bool(fields.keys() & {"prompt", "completion"})
        if lacks:
            fields["label"] = True  # no check of a record refuses this one
            if (record.unused or "").startswith(UNLABELLED):
                record.unused = None
        if not record.unused:
            unlabelled.append(lacks)
    return [Reply(example, not lacks) for example, lacks in zip(examples_of(source), unlabelled, strict=True)]


def _free_id(wanted: str, taken: set[str]) -> str:
    """Return the id, or the next one that no record of the file has."""
    found, number = wanted, 2
    while found in taken:
        found, number = f"{wanted}#{number}", number + 1
    taken.add(found)
    return found
