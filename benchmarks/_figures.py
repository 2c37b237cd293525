"""How a figure is judged and printed: ``name: value unit (bound) ok|SHORT``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Figure", "table"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, beside what is promised of it.

    Attributes:
        name: what was measured.
        value: the number.
        unit: of the value and of the bounds.
        most: it may be at most this; ``None`` for no upper bound.
        least: it must be at least this; ``None`` for no lower bound.
    """

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def bound(self) -> str:
        """The promise in words; empty where none is made."""
        if self.most is not None:
            return f"at most {_plain(self.most)}"
        return f"at least {_plain(self.least)}" if self.least is not None else "no bound"

    @property
    def ok(self) -> bool:
        """Whether the promise is kept."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "SHORT"
        return " ".join(filter(None, [f"{self.name}:", _plain(self.value), self.unit, f"({self.bound})", verdict]))


def _plain(value: float) -> str:
    """Whole numbers in full, since one of a million counts; others to four digits."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Rows under a head, aligned, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])
