"""Spans of time of which the API can give all points in one answer.

The API gives at most ten thousand points at once.  Its own way on, an ``offset``, cannot be gone where a
metric has several series: the offset names a series and a time, and the API heeds but the time, so that the
other series lose what they have before it (seen on 11.0.0).  So points are counted first, which costs the
API next to nothing, and then read span by span, each small enough to come whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

__all__ = ["Count", "Window", "plan"]

DAY: Final = 86_400
_ROWS: Final = 5_000
"""Periods to be counted at once; the API gives ten thousand."""
_SPARE: Final = 10
"""Periods that are to fit into one window: points do not come evenly."""


class Window(NamedTuple):
    """A span of time.

    Attributes:
        start, end: milliseconds since the epoch, the end not included.
        points: how many lie in it, as counted, or about how many.
    """

    start: int
    end: int
    points: int


Count = Callable[[int, int, int], Iterable[tuple[int, int]]]
"""Counts points from a start to before an end, both in milliseconds, by periods of so many seconds.

It gives when each period that has points begins, in milliseconds, and how many it has, in the order of time.
"""


def plan(count: Count, start: int, end: int, most: int) -> list[Window]:
    """Windows in the order of time that have all points from ``start`` to before ``end``, and none twice.

    Args:
        count: counts points.
        start, end: milliseconds since the epoch.
        most: points that a window may have.  Where points come after they were counted, or more than
            these within a second, one may have more.
    """
    return list(_merged(_periods(count, start, end, DAY, most), most))


def _periods(count: Count, start: int, end: int, seconds: int, most: int) -> Iterator[Window]:
    """The periods that have points, those with more than ``most`` divided."""
    crowded: list[Window] = []
    for begin, points in count(start, end, seconds):
        period = Window(max(begin, start), min(begin + 1000 * seconds, end), points)
        if crowded and (points <= most or period.start != crowded[-1].end):
            yield from _divided(count, crowded, seconds, most)
            crowded = []
        if points <= most:
            yield period
        else:
            crowded.append(period)
    if crowded:
        yield from _divided(count, crowded, seconds, most)


def _divided(count: Count, crowded: Sequence[Window], seconds: int, most: int) -> Iterator[Window]:
    """Periods that follow one another and have more than ``most`` points each, counted more finely."""
    if seconds == 1:
        for period in crowded:
            yield from _shared(period, most)
        return
    start, end = crowded[0].start, crowded[-1].end
    wanted = seconds * most // (_SPARE * max(period.points for period in crowded))
    affordable = -(-(end - start) // (1000 * _ROWS))
    finer = max(1, min(max(wanted, affordable), seconds // 2))
    yield from _periods(count, start, end, finer, most)


def _shared(second: Window, most: int) -> Iterator[Window]:
    """Parts of a second, as if its points came evenly."""
    length = second.end - second.start
    parts = min(length, -(-2 * second.points // most))
    for part in range(parts):
        yield Window(
            second.start + part * length // parts,
            second.start + (part + 1) * length // parts,
            second.points // parts + (part < second.points % parts),
        )


def _merged(windows: Iterable[Window], most: int) -> Iterator[Window]:
    """Neighbours joined, as long as they have no more than ``most`` points together."""
    held: Window | None = None
    for window in windows:
        if held is not None and held.points + window.points <= most:
            held = Window(held.start, window.end, held.points + window.points)
            continue
        if held is not None:
            yield held
        held = window
    if held is not None:
        yield held
