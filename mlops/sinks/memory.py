"""A sink that keeps points in a list: for tests and for looking at what a sink is given."""

from __future__ import annotations

from mlops.settings import Settings
from mlops.sinks.base import Point, Points, Sink, SinkURL

__all__ = ["MemorySink"]


class MemorySink(Sink):
    """Keeps every point.

    Args:
        limit: at most so many points are kept; further ones count as dropped.

    Attributes:
        points: what was written, in order.
        closed: whether :meth:`close` was called.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self.points: list[Point] = []
        self.closed = False
        self._limit = limit

    @classmethod
    def from_url(cls, url: SinkURL, settings: Settings) -> MemorySink:
        """``memory:`` or ``memory:?limit=N``."""
        url.only("limit")
        return cls(int(url.number("limit", 1_000_000, 0, 1e9)))

    def write(self, points: Points) -> None:
        """Keep the points."""
        room = self._limit - len(self.points)
        taken = list(points)[:room]
        self.points.extend(taken)
        self.sent += len(taken)
        self.dropped += len(points) - len(taken)

    def close(self, timeout: float) -> None:
        """Note that it was called."""
        self.closed = True
