"""A product person's feedback, as it stands in Excel: 24 German replies, some liked, some not."""

from pathlib import Path
from typing import Any

HEAD = ["Nr.", "Frage", "Antwort", "Gut?", "Warum?", "Geprüft am"]
_THINGS = [
    *("der Käsehobel", "die Türklinke", "das Öllicht", "der Teekessel", "die Bürste", "das Sägeblatt"),
    *("der Spaten", "die Gießkanne", "der Schlüssel", "das Brett", "die Schüssel", "der Löffel"),
    *("das Gewürzglas", "die Mühle", "der Hocker", "das Kissen", "die Fußmatte", "der Korb"),
    *("das Bügeleisen", "die Wäscheleine", "der Trichter", "das Sieb", "die Reibe", "der Fächer"),
]
_PRAISE = ("unvergleichlich", "großartig", "zeitlos")


def rows() -> list[list[Any]]:
    """The rows below the names. Every third reply praises, and its note quotes the praise."""
    made = []
    for number, thing in enumerate(_THINGS, start=1):
        name = thing.split()[1]
        if number % 3 == 0:
            praise = _PRAISE[number // 3 % 3]
            made.append([number, f"Wie ist {thing}?", f"{name}: {praise} schön.", "nein", f"Lob: „{praise}“"])
        else:
            made.append([number, f"Wie ist {thing}?", f"{name}: {number} cm lang, für Haus und Büro.", "ja", "Maße!"])
    return made


def write_excel(path: Path, table: list[list[Any]], *, title: str | None = None) -> Path:
    """Write a workbook whose first sheet has the rows."""
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    if title:
        sheet.append([title])
        sheet.merge_cells(start_row=1, end_row=1, start_column=1, end_column=len(HEAD))
    for row in table:
        sheet.append(row)
    book.save(path)
    return path
