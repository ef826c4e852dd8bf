"""Records of the original project's files: other names for the fields, and where the label comes from."""

from collections.abc import Collection

from nlft.sources.raw_records import RawRecord, is_blank, kind

RIGHT_FROM_SCORE = 7  # in the original project's records, a completion with at least this score counts as right
RATED_BY = frozenset(("score", "label", "correct"))  # its fields that say whether a completion is right

# Our field names -> those of the original project's files: its datasets for NLFT, its judged chunks, its ReFT rows.
_ORIGINAL_NAMES = {"prompt": "instruction", "completion": "output"}
_JUDGED_NAMES = {"prompt": "question", "completion": "ans"}
_REFT_NAMES = {"id": "item_id", "prompt": "question", "answer": "answer_cot"}
_TO_BE_JUDGED = "TODO: waiting for GPT4 to generate judgment"  # its files' placeholder for a missing judgment
ORIGINAL_COLUMNS = frozenset(name for names in (_ORIGINAL_NAMES, _JUDGED_NAMES, _REFT_NAMES) for name in names.values())


def rename_original(record: RawRecord) -> bool:
    """Rename the fields of an original project's record. Return whether it is one; others stay as they are."""
    fields = record.fields
    if fields.keys() & {"prompt", "completion"}:
        return False
    if fields.keys() & {"instruction", "output"}:
        record.names |= _ORIGINAL_NAMES
    elif {"question", "ans"} <= fields.keys():
        record.names |= _JUDGED_NAMES
    elif {"question", "answer_cot"} <= fields.keys():
        record.names |= _REFT_NAMES
        fields.pop("answer_value", None)  # the number at the end of answer_cot
    else:
        return False
    for ours, theirs in record.names.items():
        if theirs in fields:
            fields[ours] = fields.pop(theirs)
    more = fields.pop("input", None)
    if more is not None and not isinstance(more, str):
        record.refuse("input", f"is {kind(more)}, not a string.", "Write text, or omit the field.")
    elif not is_blank(more) and isinstance(fields.get("prompt"), str):
        fields["prompt"] = more if is_blank(fields["prompt"]) else f"{fields['prompt']}\n{more}"
    return True


def find_original_label(record: RawRecord, ratings: Collection[str] = ()) -> None:
    """Set the label of an original project's record, whose fields have our names.

    The label comes from the record's score, else from its `label` or `correct`, else from its judgment. In the last
    case, a record with a judgment is wrong, and a record without one is right.

    Args:
        ratings: fields that hold ratings by other names. A record with one of them gets no label from its judgment.
    """
    fields = record.fields
    score = fields.get("score")
    if score is not None and type(score) not in (int, float):
        record.refuse("score", f"is {kind(score)}, not a number.", "Write the judge's score as a number.")
    elif score is not None:
        fields["label"] = score >= RIGHT_FROM_SCORE
    elif "correct" in fields and "label" not in fields:
        record.names["label"] = "correct"
        fields["label"] = fields["correct"]
    if all(is_blank(fields.get(name)) for name in ratings):
        fields.setdefault("label", is_blank(fields.get("judgment")))


def drop_placeholder(record: RawRecord) -> None:
    """Drop the text that stands in the original project's files for a judgment that is still to be written."""
    if record.fields.get("judgment") == _TO_BE_JUDGED:
        del record.fields["judgment"]
