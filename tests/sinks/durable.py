"""A destination that keeps every point, in this process; runs written block by block; what must arrive of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlops.blocks import Columns
from mlops.errors import SinkUnavailableError
from mlops.monasca.moments import Moments
from mlops.monasca.points import sendable
from mlops.ring import POINT, SLOT_BYTES, SUFFIX
from mlops.series import Series
from mlops.sinks import DurableSink, Points, RunIdentity
from mlops.store import PointsWriter, RunFolder, RunInfo

__all__ = ["BEGAN", "Key", "Ledger", "Row", "WrittenRun", "columns_of", "expected", "milliseconds_of"]

BEGAN: Final = 1_795_390_000.0

Row = tuple[int, float, float]
"""A point: its series' number, seconds after :data:`BEGAN`, its value."""

Key = tuple[str, str, str, int]
"""What makes a point one: run, process or rank, series, millisecond."""


class Ledger(DurableSink):
    """Stands in for Monasca: of two points of one series and millisecond it keeps the later.

    It is no Monasca: it refuses only what a test tells it to refuse.  It gives points their milliseconds
    as the real sink does.

    Args:
        most: points in one call of ``write``.
        where: its destination.

    Attributes:
        points: what it holds.
        changed: points that came again with another value, which must never be.
        calls: how often ``write`` was called.
        told: what it was told about runs.
        trouble: raised by the next calls, one each; ``None`` among them stands for a call that goes well.
        refuse: tells which points it will never take.
    """

    def __init__(self, most: int = 1000, where: str = "ledger here") -> None:
        self.most = most
        self.where = where
        self.points: dict[Key, float] = {}
        self.changed: list[Key] = []
        self.calls = 0
        self.told: list[tuple[RunIdentity, RunInfo]] = []
        self.trouble: list[Exception | None] = []
        self.refuse: Callable[[Series], bool] = lambda _: False
        self.identities: set[tuple[Any, ...]] = set()

    def destination(self) -> str:
        """See :meth:`DurableSink.destination`."""
        return self.where

    def preparer(self, before: Callable[[], Iterable[Columns]]) -> Callable[[Columns], Columns]:
        """As the real sink's."""
        moments = Moments(lambda: (columns.pick(sendable(columns)) for columns in before()))
        return lambda columns: moments.assign(columns.pick(sendable(columns)))

    def write(self, points: Points) -> None:
        """Take them, or raise what it was told to."""
        self.calls += 1
        trouble = self.trouble.pop(0) if self.trouble else None
        if trouble is not None:
            raise trouble
        assert 0 < len(points) <= self.most
        run = points.run
        self.identities.add((run.id, run.name, run.host, run.rank, run.process, tuple(sorted(run.dimensions.items()))))
        for point in points:
            series = Series.of(point.name, dict(point.dimensions))
            if self.refuse(series):
                self.dropped += 1
                continue
            self.sent += 1
            whose = run.process if run.rank is None else str(run.rank)
            key = (run.id, whose, str(series), round(point.time * 1000))
            if self.points.setdefault(key, point.value) != point.value:
                self.changed.append(key)

    def describe(self, run: RunIdentity, info: RunInfo) -> None:
        """Note it."""
        self.told.append((run, info))

    def away(self, times: int, **about: Any) -> None:
        """Have the next calls raise that it cannot now."""
        self.trouble += [SinkUnavailableError("It is away", **about) for _ in range(times)]


class WrittenRun:
    """A run's folder, written block by block as its processes would.

    Args:
        runs_dir: the folder of runs.
        tail: of the run's id.
        **info: fields of ``run.json``.
    """

    def __init__(self, runs_dir: Path, tail: str = "0a1b2c", **info: Any) -> None:
        self.folder = RunFolder(runs_dir / f"20261122-232640-digits-{tail}")
        self.folder.create()
        fields = {"started": BEGAN, "ended": BEGAN + 100, "outcome": "finished", "host": "node-1", "pid": 1, **info}
        self.info = RunInfo(self.folder.id, "digits", **fields)
        self.folder.write_info(self.info)

    def process(self, pid: int = 1, *, series: int = 3, **notes: Any) -> PointsWriter:
        """Begin the points file of a process that notes who it is and names its series."""
        writer = PointsWriter(self.folder.path / f"node-1-{pid}-0.points")
        writer.write_notes({"name": "digits", "host": "node-1", "pid": pid, "process": "", "rank": None, **notes})
        writer.write_series({number: Series(f"metric.{number}") for number in range(series)})
        return writer

    def whole(self, blocks: Sequence[Sequence[Row]], pid: int = 1, **notes: Any) -> Path:
        """A process that wrote these blocks and ended well."""
        writer = self.process(pid, **notes)
        for rows in blocks:
            writer.write_points(columns_of(rows), 0)
        writer.write_notes({"points": writer.seq})
        writer.close()
        return writer.path

    def buffer(self, path: Path, rows: Sequence[Row]) -> None:
        """What that process left in its buffer when it was killed."""
        memory = bytearray(SLOT_BYTES * max(64, len(rows)))
        for place, (number, moment, value) in enumerate(rows):
            point = (BEGAN + moment, value, 0, number + 1)
            POINT.pack_into(memory, place * SLOT_BYTES, *point, *point)
        path.with_suffix(SUFFIX).write_bytes(memory)


def columns_of(rows: Sequence[Row]) -> Columns:
    """Points by column."""
    return Columns(
        np.array([BEGAN + moment for _, moment, _ in rows], np.float64),
        np.array([value for _, _, value in rows], np.float64),
        np.array([number for number, _, _ in rows], np.uint32),
        np.zeros(len(rows), np.uint32),
    )


def milliseconds_of(rows: Iterable[tuple[int, float]]) -> Iterator[int]:
    """The millisecond of each point (series, time), by the rule in its plainest form."""
    used: set[tuple[int, int]] = set()
    for number, time in rows:
        own = round(time * 1000)
        while (number, own) in used:
            own += 1
        used.add((number, own))
        yield own


def expected(run_id: str, rows: Sequence[Row], whose: str = "") -> dict[Key, float]:
    """What must arrive of these points of one process."""
    good = [row for row in rows if np.isfinite(row[2])]
    moments = milliseconds_of((number, BEGAN + moment) for number, moment, _ in good)
    return {
        (run_id, whose, f"metric.{number}", own): value for (number, _, value), own in zip(good, moments, strict=True)
    }
