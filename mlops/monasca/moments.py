"""One millisecond for each point of a series.

Monasca keeps times in milliseconds, and of two measurements of one series with the same time the
later one replaces the earlier.  That makes sending twice harmless, and it loses points that were
logged within one millisecond.  So each point of a series gets a millisecond of its own: its own,
rounded, or the next one that is free.  Which one depends on nothing but the points before it in
their file, so whoever reads the file from its beginning, on whatever machine, comes to the same.
The time at which it was logged goes along, for where it tells what came first (see
:mod:`mlops.monasca.points`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops.blocks import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Moments", "milliseconds"]

_NEVER: Final = -(1 << 62)


def milliseconds(time: NDArray[np.float64]) -> NDArray[np.int64]:
    """Seconds since the epoch as whole milliseconds; the seconds must be finite and an int64's size."""
    return np.rint(time * 1000.0).astype(np.int64)


class Moments:
    """Gives each point of a series a millisecond of its own, block by block.

    Args:
        before: gives again the blocks that came so far; asked only when a point comes that is older
            than those before it, for which the milliseconds in use must be known one by one.
    """

    def __init__(self, before: Callable[[], Iterable[Columns]]) -> None:
        self._before = before
        self._last: dict[int, tuple[int, int]] = {}
        self._used: _Used | None = None

    def assign(self, columns: Columns) -> Columns:
        """The points with times that are whole milliseconds, none twice in a series.

        ``round(time * 1000)`` gives the millisecond back; ``logged`` has the times as they were.
        """
        raw = milliseconds(columns.time)
        own = self._in_order(columns.series, raw) if self._used is None else None
        if own is None:
            if self._used is None:
                used = _Used()
                for earlier in self._before():
                    used.assign(earlier.series, milliseconds(earlier.time))
                self._used = used  # only now: reading may fail in between
            own = self._used.assign(columns.series, raw)
        return Columns(own / 1000.0, columns.value, columns.series, columns.step, columns.time)

    def _in_order(self, series: NDArray[np.uint32], raw: NDArray[np.int64]) -> NDArray[np.int64] | None:
        own = np.empty_like(raw)
        for number, rows in _groups(series):
            taken = self._ascending(number, raw[rows])
            if taken is None:
                return None
            own[rows] = taken
        return own

    def _ascending(self, number: int, raw: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Where points come in the order of their times, the last stretch in use is all there is to know."""
        start, last = self._last.get(number, (_NEVER, _NEVER))
        if raw[0] > last and (raw[1:] > raw[:-1]).all():
            own = raw
            breaks = np.flatnonzero(raw[1:] != raw[:-1] + 1)
            if len(breaks):
                start = int(raw[breaks[-1] + 1])
            elif raw[0] != last + 1:
                start = int(raw[0])
            self._last[number] = start, int(raw[-1])
            return own
        taken = []
        for moment in raw.tolist():
            if moment > last:
                if moment != last + 1:
                    start = moment
                last = moment
            elif moment >= start:
                last += 1
            else:
                return None
            taken.append(last)
        self._last[number] = start, last
        return np.array(taken, np.int64)


class _Used:
    """The milliseconds in use, series by series, one by one."""

    def __init__(self) -> None:
        self._next: dict[int, dict[int, int]] = {}

    def assign(self, series: NDArray[np.uint32], raw: NDArray[np.int64]) -> NDArray[np.int64]:
        own = np.empty_like(raw)
        for number, rows in _groups(series):
            after = self._next.setdefault(number, {})
            own[rows] = [_first_free(after, moment) for moment in raw[rows].tolist()]
        return own


def _first_free(after: dict[int, int], moment: int) -> int:
    """Take the first free millisecond at or after one.

    ``after`` leads from each one in use towards a free one; the way is shortened as it is gone.
    """
    passed = []
    while moment in after:
        passed.append(moment)
        moment = after[moment]
    for one in (*passed, moment):
        after[one] = moment + 1
    return moment


def _groups(series: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each series' number and the places of its points, ascending."""
    order = np.argsort(series, kind="stable")
    ordered = series[order]
    if not len(ordered):
        return
    bounds = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for rows in np.split(order, bounds):
        yield int(series[rows[0]]), rows
