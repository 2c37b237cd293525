"""Tables of texts, as a page shows them, and how much of a run goes into them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

__all__ = ["HEADLINES", "Cell", "Limits", "Table", "as_text"]

HEADLINES: Final = {
    "running": "Still running",
    "finished": "Finished",
    "failed": "Failed",
    "interrupted": "Interrupted",
    "cancelled": "Stopped early by itself",
    "killed": "Ended without a word",
}
"""How a run ended, as a headline has it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a run a page shows.

    Attributes:
        rows: epochs in a table.
        metrics: columns of metrics in a table.
        entries: parameters, dimensions and the like in a list.
        letters: of one text.
    """

    rows: int
    metrics: int
    entries: int
    letters: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table: its text, what is said of it beside, such as ``best``, and what beneath."""

    text: str
    tag: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its caption, heads, and rows whose first cell is a head."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def as_text(value: object) -> str:
    """A parameter as text: texts as they are, everything else as JSON where that is possible."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return str(value)
