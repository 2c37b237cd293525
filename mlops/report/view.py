"""A record with its points at hand by name, as every part of this room needs them.

Nothing here loops over points: a run of ten million is grouped with a few passes over its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops.record import Record
from mlops.series import Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Line", "View"]

_FEW: Final = 64
"""Up to so many series are picked out one by one (10 ms each in ten million points); more are worth a sort."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points in the order of their times, all times finite.

    Attributes:
        time: seconds since the epoch, ascending.
        value: as recorded, nan and infinities included.
    """

    time: NDArray[np.float64]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time)

    def finite(self) -> Line:
        """Without the points whose value is nan or infinite."""
        good = np.isfinite(self.value)
        return self if good.all() else Line(self.time[good], self.value[good])


class View:
    """A record, with the rows of each series and process found when asked for.

    A *row* is the index of a point in ``record.columns``; rows of one process ascend in the order
    in which it logged them.

    Args:
        record: as read.

    Attributes:
        record: as given.
        leaders: for each process whether its epochs and losses count. In a distributed training
            the ranks above 0 repeat what rank 0 says.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.columns = record.columns
        small = next(kind for kind in (np.uint8, np.uint16, np.uint32) if len(record.series) <= np.iinfo(kind).max)
        self._numbers = record.columns.series.astype(small, copy=False)
        self._rows: dict[int, NDArray[np.int64]] = {}
        self._order: NDArray[np.int64] | None = None
        self._bounds: NDArray[np.int64] = np.empty(0, np.int64)
        self._starts = np.array([start for _, start, _ in record.processes], np.int64)
        self._by_name: dict[str, list[int]] = {}
        for number, series in enumerate(record.series):
            self._by_name.setdefault(series.name, []).append(number)
        self.leaders = _leaders(record.notes)

    @classmethod
    def of(cls, record: Record | View) -> View:
        """The view of a record; a view is its own."""
        return record if isinstance(record, View) else cls(record)

    def names(self, prefix: str = "") -> list[str]:
        """The names of metrics that begin so, sorted."""
        return sorted(name for name in self._by_name if name.startswith(prefix))

    def numbers(self, name: str) -> list[int]:
        """The numbers of the series of that name, in the order in which they were met."""
        return self._by_name.get(name, [])

    def series(self, number: int) -> Series:
        """The series of a number."""
        return self.record.series[number]

    def rows(self, number: int) -> NDArray[np.int64]:
        """The rows of one series, ascending."""
        found = self._rows.get(number)
        if found is None:
            found = self._rows[number] = self._find(number)
        return found

    def _find(self, number: int) -> NDArray[np.int64]:
        if self._order is None and len(self._rows) < _FEW:
            return np.flatnonzero(self._numbers == number)
        if self._order is None:
            self._order = np.argsort(self._numbers, kind="stable")
            counts = np.bincount(self._numbers, minlength=len(self.record.series))
            self._bounds = np.concatenate([[0], np.cumsum(counts)])
        return self._order[self._bounds[number] : self._bounds[number + 1]]

    def rows_named(self, name: str, *, leading: bool = True) -> NDArray[np.int64]:
        """The rows of all series of one name, ascending.

        Args:
            name: the metric's name.
            leading: only those of the processes that lead, where any of those has some.
        """
        parts = [self.rows(number) for number in self.numbers(name)]
        if not parts:
            return np.empty(0, np.int64)
        rows = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))
        return self.leading(rows) if leading else rows

    def leading(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows that a leading process logged; all of them if none did."""
        if self.leaders.all() or not len(rows):
            return rows
        chosen = self.leaders[self.process_of(rows)]
        return rows[chosen] if chosen.any() else rows

    def process_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the process that logged each row."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def line(self, rows: NDArray[np.int64]) -> Line:
        """The points of these rows in the order of their times; points without a finite time are left out."""
        time, value = self.columns.time[rows], self.columns.value[rows]
        good = np.isfinite(time)
        if not good.all():
            time, value = time[good], value[good]
        if len(time) > 1 and (time[1:] < time[:-1]).any():
            order = np.argsort(time, kind="stable")
            time, value = time[order], value[order]
        return Line(time, value)

    def line_named(self, name: str) -> Line:
        """The points of one name in the order of their times, from the processes that lead."""
        return self.line(self.rows_named(name))

    def last(self, name: str) -> float | None:
        """The value logged last under a name, in the order of time."""
        line = self.line_named(name)
        return float(line.value[-1]) if len(line) else None

    def times(self) -> tuple[float, float] | None:
        """The times of the first and the last point; ``None`` where no point has a finite one."""
        time = self.columns.time
        if not len(time):
            return None
        low, high = float(time.min()), float(time.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            time = time[np.isfinite(time)]
            if not len(time):
                return None
            low, high = float(time.min()), float(time.max())
        return low, high

    def noted(self, key: str) -> list[Any]:
        """What the processes listed in their notes under one key, each entry once, in their order."""
        found: list[Any] = []
        for notes in (*self.record.notes, self.record.info.notes):
            entries = notes.get(key)
            if isinstance(entries, list):
                found.extend(entry for entry in entries if entry not in found)
        return found


def _leaders(notes: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    ranks = [entry.get("rank") for entry in notes]
    leading = np.array([not isinstance(rank, int) or rank <= 0 for rank in ranks], np.bool_)
    return leading if leading.any() else np.ones(len(ranks), np.bool_)
