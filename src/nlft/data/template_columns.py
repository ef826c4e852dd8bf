"""Tell the user about columns that would change the prompt elsewhere, and that do not reach the template here."""

from collections.abc import Sequence

from nlft.data.raw_records import RawRecord
from nlft.models.exchange import tell

TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # TRL passes these columns to the chat template
_told: set[tuple[str, str]] = set()


def tell_unused_columns(name: str, records: Sequence[RawRecord]) -> None:
    """Say once in this process, for each file and column, that prompts are rendered without the column.

    Args:
        name: the file or dataset that holds the records.
    """
    for column in TEMPLATE_COLUMNS:
        count = sum(bool(record.fields.get(column)) for record in records)
        if count and (name, column) not in _told:
            _told.add((name, column))
            tell(
                f'warning: {name}: "{column}" of {count:,} of {len(records):,} records does not reach the chat '
                "template. Prompts are rendered without it.\n"
                "  Put what the model needs to know into a system message, or remove the field."
            )
