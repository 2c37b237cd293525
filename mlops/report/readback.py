"""A run as the Monasca API has it, made into the same record as its folder would give.

What was sent tells whose a series is by its dimensions (see :mod:`mlops.monasca.points`); here they are taken
off again, and the points of each process are put in the order in which it logged them.  What is known not to
be there is said as a gap.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from mlops.blocks import Columns
from mlops.members import STALE_SECONDS
from mlops.monasca.about import RUN_METRIC
from mlops.monasca.client import Monasca
from mlops.monasca.listing import metric_names
from mlops.monasca.measurements import Measurements, Progress, ReadBack
from mlops.monasca.parsing import Line
from mlops.monasca.points import OWN_DIMENSIONS
from mlops.monasca.runs import info_from, not_there, run_ids
from mlops.record import Gap, Record
from mlops.report import words
from mlops.report.hosts import Borrowed, borrowed
from mlops.report.marks import MARK
from mlops.series import Series, mend_dimensions
from mlops.store import RUNNING, RunInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_back"]

_STAMP: Final = "%Y%m%d-%H%M%S"
_STAMP_LETTERS: Final = len("20261122-231500")


class _Process(NamedTuple):
    """What tells one process of a run from the others; sorts as processes are shown."""

    rank: int
    hostname: str
    mark: str

    @classmethod
    def of(cls, dimensions: Mapping[str, str]) -> _Process:
        rank = dimensions.get("rank", "")
        return cls(int(rank) if rank.isdecimal() else -1, dimensions.get("hostname", ""), dimensions.get("process", ""))

    def __str__(self) -> str:
        parts = (self.hostname, f"rank {self.rank}" if self.rank >= 0 else "", self.mark)
        return " ".join(part for part in parts if part) or "process"

    def notes(self) -> dict[str, Any]:
        """What the process would have noted of itself."""
        return {"host": self.hostname, "process": self.mark, "rank": self.rank if self.rank >= 0 else None}


def read_back(
    monasca: Monasca, run_id: str, *, on_progress: Callable[[Progress], None] = lambda _progress: None
) -> Record:
    """A run as far as it has arrived.

    Args:
        monasca: where.
        run_id: the run's id.
        on_progress: told how it goes, on the calling thread.

    Raises:
        RunNotFoundError: nothing of that run is there; the message lists the newest that are.
        CloudError: as :meth:`mlops.monasca.Monasca.get` raises it, or an answer is none that the API would give.
    """
    told = info_from(monasca, run_id)
    names = [name for name in metric_names(monasca, {"run_id": run_id}) if name != RUN_METRIC]
    if told is None and not names:
        raise not_there(monasca, run_id, run_ids(monasca))
    found = Measurements(monasca, {"run_id": run_id}).read(names, on_progress=on_progress)
    lines = [line for line in found.lines if line.dimensions.get("run_id") == run_id]
    info = told or _guessed(run_id, lines)
    assembly = _Assembly()
    own = _Own(info)
    processes: dict[_Process, list[tuple[Series, Line]]] = {}
    for line in lines:
        processes.setdefault(_Process.of(line.dimensions), []).append((own.series(line), line))
    for process, its in sorted(processes.items()):
        assembly.add(str(process), process.notes(), its)
    for loan in borrowed(monasca, info, lines):
        assembly.add(loan.label, _notes_of(loan), loan.lines)
    gaps = _gaps(monasca.cloud.name, info, lines, found, told=told is not None)
    if cut := info.notes.get("cut"):
        remark = (
            f"The run's {words.listed(str(cut).split(','))} did not all fit into what was sent; its folder has them."
        )
        info.notes["remarks"] = [remark]
    return assembly.record(info, gaps)


class _Own:
    """Takes off a series' dimensions what is the run's and not its own."""

    def __init__(self, info: RunInfo) -> None:
        self._common = mend_dimensions({**info.dimensions, "run": info.name})

    def series(self, line: Line) -> Series:
        dimensions = {
            key: text
            for key, text in line.dimensions.items()
            if (key == "run" or key not in OWN_DIMENSIONS) and self._common.get(key) != text
        }
        return Series.of(line.name, dimensions)


class _Assembly:
    """A record on its way: one process after the other."""

    def __init__(self) -> None:
        self._table: dict[Series, int] = {}
        self._parts: list[Columns] = []
        self._processes: list[tuple[str, int, int]] = []
        self._notes: list[dict[str, Any]] = []
        self._total = 0

    def add(self, label: str, notes: dict[str, Any], lines: Iterable[tuple[Series, Line]]) -> None:
        """A process's points, in the order in which it logged them as far as their times tell.

        Of points with the same time the mark of an epoch's end comes last, as :meth:`mlops.run.Run.end_epoch` logs it.
        """
        parts, marks = [], []
        for series, line in lines:
            number = np.full(len(line), self._table.setdefault(series, len(self._table)), np.uint32)
            parts.append(Columns(_times(line), line.value, number, line.step))
            marks.append(np.full(len(line), series.name == MARK))
        columns = Columns.join(parts)
        order = np.lexsort((np.concatenate(marks), columns.time)) if parts else np.empty(0, np.intp)
        self._parts.append(columns.pick(order))
        self._processes.append((label, self._total, self._total + len(columns)))
        self._notes.append(notes)
        self._total += len(columns)

    def record(self, info: RunInfo, gaps: Sequence[Gap]) -> Record:
        """All of it."""
        columns = Columns.join(self._parts)
        return Record(info, tuple(self._table), columns, tuple(self._processes), tuple(self._notes), tuple(gaps))


def _times(line: Line) -> NDArray[np.float64]:
    """When points were logged: to the millisecond, or exactly where that was sent."""
    return np.where(np.isfinite(line.logged), line.logged, line.time / 1000.0)


def _notes_of(loan: Borrowed) -> dict[str, Any]:
    return {"host": loan.hostname, "rank": None, "meters": loan.meters, "remarks": [loan.remark]}


def _guessed(run_id: str, lines: Sequence[Line]) -> RunInfo:
    """What can be known of a run that told nothing of itself."""
    first = min((int(line.time[0]) for line in lines), default=0) / 1000.0
    last = max((int(line.time[-1]) for line in lines), default=0) / 1000.0
    try:
        started = min(float(_utc(run_id[:_STAMP_LETTERS])), first)
    except ValueError:
        started = first
    names = Counter(line.dimensions["run"] for line in lines if "run" in line.dimensions)
    hosts = Counter(line.dimensions["hostname"] for line in lines if "hostname" in line.dimensions)
    goes_on = time.time() - last < STALE_SECONDS
    return RunInfo(
        run_id,
        names.most_common(1)[0][0] if names else run_id,
        max(started, 0.0),
        None if goes_on else last,
        RUNNING if goes_on else "killed",
        "" if goes_on else "nothing there tells how it ended",
        host=hosts.most_common(1)[0][0] if hosts else "",
    )


def _utc(stamp: str) -> int:
    import calendar

    return calendar.timegm(time.strptime(stamp, _STAMP))


def _gaps(where: str, info: RunInfo, lines: Sequence[Line], found: ReadBack, *, told: bool) -> list[Gap]:
    """What is known not to be there."""
    gaps = []
    if not told:
        what = f"no measurement {RUN_METRIC} tells of the run: its parameters, dimensions, meters and end are not known"
        gaps.append(Gap(where, what, 0))
    elif info.outcome == RUNNING:
        what = (
            "the end of the run has not arrived: it goes on, or was killed, or the rest of it waits to be sent "
            f"(mlops upload {info.id})"
        )
        gaps.append(Gap(where, what, 0))
    unsent = _noted(info, "not_finite")
    if unsent:
        what = f"{words.count(unsent, 'value')} recorded as nan or infinite: Monasca takes finite numbers only"
        gaps.append(Gap(where, what, unsent))
    missing = _recorded(info) - unsent - _arrived(info, lines)
    if missing > 0:
        what = (
            f"{words.count(missing, 'point')} recorded that did not arrive: not sent yet (mlops upload {info.id}), "
            "or refused"
        )
        gaps.append(Gap(where, what, missing))
    received = Counter[str]()
    for line in found.lines:
        received[line.name] += len(line)
    for name, counted in found.counted.items():
        if (short := counted - received[name]) > 0:
            what = f"the API counts {words.count(short, 'point')} of {name} that it did not give"
            gaps.append(Gap(where, what, short))
    return gaps


def _recorded(info: RunInfo) -> int:
    """How many points the run's owner says that it recorded; 0 if it did not."""
    counts = info.notes.get("points")
    if not isinstance(counts, dict):
        return 0
    return sum(count for count in counts.values() if isinstance(count, int))


def _arrived(info: RunInfo, lines: Sequence[Line]) -> int:
    """How many points of the run's owner are there; perhaps with those of others that do not differ from it."""
    points = Counter[_Process]()
    for line in lines:
        points[_Process.of(line.dimensions)] += len(line)
    if len(points) == 1:
        return points.total()
    owner = min((one for one in points if (one.hostname, one.mark) == (info.host, "")), default=None)
    return points[owner] if owner is not None else 0


def _noted(info: RunInfo, key: str) -> int:
    count = info.notes.get(key)
    return count if isinstance(count, int) else 0
