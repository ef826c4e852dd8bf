"""A finished comparison as a notebook shows it: the verdict, and the page. No torch."""

import json
from pathlib import Path
from typing import Any

from nlft.errors import UserError, display_path
from nlft.files import framed, render_fragment
from nlft.path_settings import home_path
from nlft.results.comparison_page import page
from nlft.results.comparison_report import read_report

REPORTS = ("compare.json", "tune.json")


class ComparisonResult:
    """What `nlft compare` or `nlft tune` found, to look at: in a notebook it shows its verdict and its page.

    Attributes:
        path: the file that was read.
        report: its content, as docs/JSON.md describes it.
    """

    def __init__(self, path: Path | str) -> None:
        """
        Args:
            path: the `output_dir` of the comparison, or its compare.json or tune.json.

        Raises:
            UserError: there is no such file, or it is not a comparison's.
        """
        given = home_path(path)
        places = [given / name for name in REPORTS] if given.is_dir() else [given]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UserError(
                f"{display_path(given)}: holds no finished comparison ({' or '.join(REPORTS)}).\n"
                "  Give the --output_dir of `nlft compare`, or run the command again: it goes on."
            )
        self.path = found
        try:
            self.report: dict[str, Any] = read_report(found)
            self.verdict: str = self.report["verdict"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise UserError(
                f"{display_path(found)}: is not a comparison's report ({type(error).__name__}: {error}).\n"
                "  Run `nlft compare` again with the same --output_dir: it writes the file from finished work."
            ) from error

    def __repr__(self) -> str:
        return f"ComparisonResult({display_path(self.path)!r}): {self.verdict}"

    def _repr_html_(self) -> str:
        graded = self.report["verdict_data"]["kind"] != "nothing_graded"
        card = render_fragment("nlft.notebook", "comparison.html", name=display_path(self.path), verdict=self.verdict)
        return card + (framed(page(self.report), "Comparison", height=700) if graded else "")
