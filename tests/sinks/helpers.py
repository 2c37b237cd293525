"""Points for sinks, made by hand; a clock that is set by hand; a name that leads nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from mlops.blocks import Columns
from mlops.series import Series
from mlops.sinks import Points, RunIdentity, Sink
from mlops.sinks._address import Lookup

__all__ = ["RUN", "Clock", "Nowhere", "Offer", "Table"]

RUN = RunIdentity("digits-20260101-000000-abcd", "digits", {"team": "vision"}, "node-1", None)


class Table:
    """Makes points as a feed would: with one growing table of series."""

    def __init__(self, run: RunIdentity = RUN) -> None:
        self.run = run
        self.series: dict[int, Series] = {}
        self._ids: dict[Series, int] = {}

    def points(self, *values: tuple[str, float], dimensions: Mapping[str, str] | None = None) -> Points:
        """Points of these names and values, in this order, of now."""
        return self.of((Series.of(name, dimensions), value) for name, value in values)

    def of(self, values: Iterable[tuple[Series, float]]) -> Points:
        """Points of these series and values."""
        given = list(values)
        for series, _ in given:
            self.series[self._ids.setdefault(series, len(self._ids))] = series
        columns = Columns(
            np.full(len(given), 1.7e9),
            np.array([value for _, value in given], np.float64),
            np.array([self._ids[series] for series, _ in given], np.uint32),
            np.zeros(len(given), np.uint32),
        )
        return Points(self.run, columns, self.series)


class Offer:
    """Writes to a sink and counts what it offered.

    Attributes:
        count: points offered so far.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.count = 0
        self._table = Table()

    def write(self, *values: tuple[str, float]) -> None:
        """Offer points of these names and values."""
        self.sink.write(self._table.points(*values))
        self.count += len(values)

    def until(self, condition: Callable[[], object], *values: tuple[str, float]) -> Callable[[], bool]:
        """A condition to wait for, before each look at which these points are offered."""

        def written() -> bool:
            self.write(*values)
            return bool(condition())

        return written


class Nowhere(Lookup):
    """A name that is never resolved, so that what is packed stays packed."""

    def __init__(self) -> None:
        super().__init__("nowhere.invalid", 8125)

    def address(self, patience: float) -> None:
        """Nothing yet."""


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now
