"""How figures look: the same hues and marks on the screen, on paper and in the dark.

Every hue has a dash pattern and a marker of its own, so that lines are told apart without colour.
The hues are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people who see red
and green alike tell apart, darkened until each has a contrast of at least 4.5 to 1 against white.
In a page a hue is a CSS variable with a lighter value for the dark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["DARK", "FAINT", "GRID", "INK", "MUTED", "SURFACE", "VARIABLES", "LineStyle", "line_style", "rc"]


@dataclass(frozen=True, slots=True)
class LineStyle:
    """A hue as ``#rrggbb``, a dash pattern as matplotlib takes it, and a marker."""

    hue: str
    dash: Any
    marker: str


SURFACE: Final = "#ffffff"
INK: Final = "#1a1e26"
MUTED: Final = "#5a6270"
GRID: Final = "#e3e6ea"
FAINT: Final = "#a9c3dd"
_HUES: Final = ("#0b5fa5", "#b34700", "#00735a", "#98407f", "#7a5c00", "#4a5261")
_DASHES: Final = ("solid", (0, (5, 1.6)), (0, (1.2, 1.3)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2.5)))
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")

VARIABLES: Final[Mapping[str, str]] = {
    SURFACE: "--surface",
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    FAINT: "--faint",
    **{hue: f"--line-{place}" for place, hue in enumerate(_HUES)},
}
"""The CSS variable that stands for each colour in a page."""

DARK: Final[Mapping[str, str]] = {
    SURFACE: "#14171c",
    INK: "#e9ebef",
    MUTED: "#a3abb8",
    GRID: "#2d333c",
    FAINT: "#3d5a78",
    **dict(zip(_HUES, ("#6cb4f5", "#ff9a5c", "#4ed2a8", "#ea90cb", "#e0bb45", "#b8c1cf"), strict=True)),
}
"""What takes the place of each colour in the dark."""


def line_style(place: int) -> LineStyle:
    """The style of the n-th line.

    Six hues, five dash patterns and seven markers come round, each at its own pace: 35 lines have
    no two of one dash pattern and marker, and 210 none of one look.
    """
    return LineStyle(_HUES[place % len(_HUES)], _DASHES[place % len(_DASHES)], _MARKERS[place % len(_MARKERS)])


def rc() -> dict[str, Any]:
    """What matplotlib is set to for our figures: nothing of the machine's, and no mathematics in names."""
    return {
        "axes.axisbelow": True,
        "axes.edgecolor": GRID,
        "axes.facecolor": "none",
        "axes.formatter.useoffset": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.labelcolor": MUTED,
        "axes.labelsize": 9,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.unicode_minus": True,
        "figure.facecolor": SURFACE,
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.0,
        "lines.solid_capstyle": "round",
        "path.simplify": True,
        "savefig.facecolor": "auto",
        "svg.fonttype": "none",
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": GRID,
        "xtick.labelcolor": MUTED,
        "xtick.labelsize": 9,
        "xtick.major.size": 3,
        "ytick.color": GRID,
        "ytick.labelcolor": MUTED,
        "ytick.labelsize": 9,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }
