"""Give each method of a chart its own colour, shape of marks and pattern of lines."""

from dataclasses import dataclass

# Okabe and Ito's colours, which the colour-blind can distinguish too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#8a6d00")
# SVG paths around (0, 0), and the pattern of the line for filled and for hollow marks.
_SHAPES = (
    ("M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0Z", "", "5 4"),
    ("M-3.6 -3.6H3.6V3.6H-3.6Z", "1 3", "9 3"),
    ("M0 -5L5 4H-5Z", "9 3 2 3", "5 2 5 6"),
    ("M0 -5.5L5.5 0L0 5.5L-5.5 0Z", "2 6", "12 6"),
    ("M0 5L5 -4H-5Z", "9 3 2 3 2 3", "4 2"),
    ("M-5 -1.6H-1.6V-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5Z", "1 6", "14 3 4 3"),
)
DIFFERENT = len(_COLOURS) * len(_SHAPES) * 2  # looks before they repeat


@dataclass(frozen=True)
class Look:
    """How a chart draws one method.

    Attributes:
        path: SVG path of a mark around (0, 0).
        hollow: whether marks are drawn as outlines.
        dashes: SVG `stroke-dasharray` of the line; empty for a solid line.
    """

    colour: str
    path: str
    hollow: bool
    dashes: str


def look(index: int) -> Look:
    """Return the look of the method with this index. The first 96 looks differ, in marks and in lines."""
    kind, colour = divmod(index % DIFFERENT, len(_COLOURS))
    shape, hollow = divmod(kind, 2)
    path, solid, dashed = _SHAPES[shape]
    return Look(_COLOURS[colour], path, bool(hollow), dashed if hollow else solid)
