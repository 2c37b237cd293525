"""Fewer points for a picture, with every extreme kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops.report.view import Line

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bucket_means", "min_max"]


def min_max(line: Line, buckets: int) -> Line:
    """At most two points for each of so many equal spans of time: the lowest and the highest of it.

    The first and the last point are kept besides; a line that is short enough is returned as it is.

    Args:
        line: finite values, in the order of time.
        buckets: how many spans; about one for each pixel of the picture's width.
    """
    if len(line) <= 2 * buckets:
        return line
    starts = _starts(line, buckets)
    counts = np.diff(starts, append=len(line))
    kept = [np.array([0, len(line) - 1])]
    for extreme in (np.minimum, np.maximum):
        there = line.value == np.repeat(extreme.reduceat(line.value, starts), counts)
        places = np.flatnonzero(there)
        first = np.searchsorted(places, starts)
        kept.append(places[first])
    chosen = np.unique(np.concatenate(kept))
    return Line(line.time[chosen], line.value[chosen])


def bucket_means(line: Line, buckets: int) -> Line:
    """The mean time and value of each of so many equal spans of time that has points.

    Args:
        line: finite values, in the order of time.
        buckets: how many spans.
    """
    if len(line) <= buckets:
        return line
    starts = _starts(line, buckets)
    counts = np.diff(starts, append=len(line))
    offset = line.time[0]
    time = np.add.reduceat(line.time - offset, starts) / counts + offset
    return Line(time, np.add.reduceat(line.value, starts) / counts)


def _starts(line: Line, buckets: int) -> NDArray[np.int64]:
    """Where each span that has points begins."""
    edges = np.linspace(line.time[0], line.time[-1], buckets + 1)[1:-1]
    return np.unique(np.concatenate([[0], np.searchsorted(line.time, edges, side="left")]))
