"""Where the epochs of a run end, and which of its points belong to which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mlops.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MARK", "Marks"]

MARK: Final = "train.epoch"


class Marks:
    """Where epochs end: one entry an epoch, ascending by row.

    Attributes:
        rows, times: of the points that mark them.
        numbers: of the epochs, and of the steps under which their values were logged.
        processes: that logged them.
        after: the row of the mark before in the same process, or the row before the process's first.
    """

    def __init__(self, view: View) -> None:
        rows = view.rows_named(MARK)
        value = view.columns.value[rows]
        step = view.columns.step[rows]
        process = view.process_of(rows)
        same = np.zeros(len(rows), np.bool_)
        same[1:] = (value[1:] == value[:-1]) & (process[1:] == process[:-1])
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(value) & (value >= 1) & (value == np.floor(value)) & (value < 1 << 53)
        chosen = whole & ((step > 0) | ~same)
        self.rows = rows[chosen]
        self.numbers = value[chosen].astype(np.int64)
        self.steps = np.where(step[chosen] > 0, step[chosen].astype(np.int64) - 1, self.numbers)
        self.processes = process[chosen]
        self.times = view.columns.time[self.rows]
        starts = np.array([start for _, start, _ in view.record.processes], np.int64)
        self.after = starts[self.processes] - 1 if len(self.rows) else self.rows
        following = np.zeros(len(self.rows), np.bool_)
        following[1:] = self.processes[1:] == self.processes[:-1]
        self.after = np.where(following, np.roll(self.rows, 1), self.after)

    def __len__(self) -> int:
        return len(self.rows)

    def epoch_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The entry to which each of these ascending rows belongs; -1 for rows that belong to none."""
        counts = np.diff(np.searchsorted(rows, self.rows, side="right"), prepend=0)
        entry = np.full(len(rows), -1, np.int64)
        inside = int(counts.sum())
        entry[:inside] = np.repeat(np.arange(len(self)), counts)
        if inside:
            before = rows[:inside] <= self.after[entry[:inside]]
            entry[:inside][before] = -1
        return entry

    def by_step(self, processes: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The entry of each process and step, the last of several; -1 where there is none."""
        if not len(self):
            return np.full(len(steps), -1, np.int64)
        keys = (self.processes << 33) + self.steps
        order = np.argsort(keys, kind="stable")
        wanted = (processes << 33) + steps
        place = np.searchsorted(keys[order], wanted, side="right") - 1
        entry = order[np.maximum(place, 0)]
        return np.where((place >= 0) & (keys[entry] == wanted), entry, -1)

    def nearest(self, step: int, time: float) -> int:
        """The entry of a step whose time is nearest, whichever process logged it; -1 if there is none."""
        entries = np.flatnonzero(self.steps == step)
        if not len(entries):
            return -1
        return int(entries[np.argmin(np.abs(self.times[entries] - time))])
