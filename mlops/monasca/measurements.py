"""Reading measurements and statistics back, exactly: every point that the API has, once.

Statistics are what dashboards ask for, and the cheap way to learn how many points have arrived::

    found = Measurements(PatientMonasca.connect("mycloud"), {"run_id": "20261122-231500-digits-3fa9c1"})
    found.count("train.loss")
    found.statistics("gpu.power_watts", ("avg", "max"), period=60, merge=False)
    found.read(["train.loss", "gpu.power_watts"]).lines
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mlops.errors import CloudError, CloudUnavailableError, MissingExtraError
from mlops.monasca.client import Monasca
from mlops.monasca.listing import MOST, query_of
from mlops.monasca.parsing import Line, Statistic, iso, measurements_of, statistics_of
from mlops.monasca.points import EARLIEST, LATEST
from mlops.monasca.windows import Window, plan

__all__ = ["FIRST", "LAST", "Measurements", "PatientMonasca", "Progress", "ReadBack"]

FIRST: Final = int(EARLIEST * 1000)
LAST: Final = int(LATEST * 1000)
"""All of the time that Monasca keeps, in milliseconds since the epoch."""

CONNECTIONS: Final = 4
"""Answers that are waited for at once: the API takes most of the time, and has several workers."""

_EVER: Final = 9_000_000_000
"""Seconds: a period as long as all of that time."""
_TRIES: Final = 6
_PATIENCE: Final = 60.0
_LONGEST_WAIT: Final = 8.0

_Parts = dict[tuple[str, tuple[tuple[str, str], ...]], list[Line]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far reading has got.

    Attributes:
        done: points read.
        total: points that there are, as counted; 0 until they are counted.
        trouble: why nothing goes on just now; empty if it does.
    """

    done: int
    total: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What was read.

    Attributes:
        lines: each series' points, metric by metric in the order in which they were asked for.
        counted: how many points of each metric the API counted before they were read.
    """

    lines: list[Line] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)


class PatientMonasca(Monasca):
    """A Monasca API whose queries are asked again, a few times, where it cannot answer now.

    Attributes:
        on_trouble: told each error after which a query is asked again.
    """

    on_trouble: Callable[[CloudUnavailableError], None] = staticmethod(lambda _error: None)

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """See :meth:`Monasca.get`; six attempts, and no new one after a minute.

        Raises:
            CloudUnavailableError: it still cannot, or asks to be left alone for longer.
        """
        try:
            import tenacity
        except ImportError as error:
            raise MissingExtraError("tenacity", "monasca") from error

        backoff = tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT)

        def wait(state: tenacity.RetryCallState) -> float:
            return getattr(_error_of(state), "retry_after", None) or backoff(state)

        def tell(state: tenacity.RetryCallState) -> None:
            error = _error_of(state)
            if isinstance(error, CloudUnavailableError):
                self.on_trouble(error)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(CloudUnavailableError),
            stop=tenacity.stop_any(tenacity.stop_after_attempt(_TRIES), tenacity.stop_before_delay(_PATIENCE)),
            wait=wait,
            before_sleep=tell,
            reraise=True,
        )
        return retrying(super().get, path, params)


class Measurements:
    """What the API has of the series with some dimensions, over a span of time.

    Args:
        monasca: where.
        dimensions: which series: those that have these, among others.  A value may be several, as ``a|b``; the
            API then gives all of these, and may give more.
        start, end: milliseconds since the epoch, the end not included.
        limit: elements to ask for at once.

    All methods raise :class:`~mlops.errors.CloudError` and its kin as :meth:`Monasca.get` does, and where an
    answer is none that the API would give.
    """

    def __init__(
        self,
        monasca: Monasca,
        dimensions: Mapping[str, str],
        *,
        start: int = FIRST,
        end: int = LAST,
        limit: int = MOST,
    ) -> None:
        self._monasca = monasca
        self._dimensions = query_of(dimensions)
        self._span = start, end
        self._limit = limit

    def read(
        self, names: Sequence[str], *, on_progress: Callable[[Progress], None] = lambda _progress: None
    ) -> ReadBack:
        """All points of some metrics.

        Args:
            names: of the metrics.
            on_progress: told how it goes, on the calling thread.
        """
        parts: _Parts = {}
        with ThreadPoolExecutor(CONNECTIONS, "mlops-read") as pool:
            plans = dict(zip(names, pool.map(self._plan, names), strict=True))
            counted = {name: sum(window.points for window in windows) for name, windows in plans.items()}
            total, done = sum(counted.values()), 0
            on_progress(Progress(done, total))
            work = [(name, window.start, window.end) for name, windows in plans.items() for window in windows]
            for lines in pool.map(lambda item: self._lines(*item), work):
                _gather(lines, parts)
                done += sum(map(len, lines))
                on_progress(Progress(done, max(total, done)))
        return ReadBack([Line.join(found) for found in parts.values()], counted)

    def statistics(
        self, name: str, which: Sequence[str] = ("avg",), *, period: int, merge: bool = True
    ) -> list[Statistic]:
        """Statistics of a metric by period.

        Args:
            name: of the metric.
            which: of ``avg``, ``min``, ``max``, ``count``, ``sum``.
            period: seconds; periods begin at multiples of it since the epoch.
            merge: over all series together; else of each by itself.

        Returns:
            One for each series; of merged ones a single one; none where there are no points.
        """
        asked = {
            "name": name,
            "statistics": ",".join(which),
            "period": period,
            **({"merge_metrics": "true"} if merge else {"group_by": "*"}),
        }
        return self._statistics(asked, *self._span)

    def count(self, name: str) -> int:
        """How many points of a metric the API has, over all series."""
        found = self.statistics(name, ("count",), period=_EVER)
        return int(sum(one.columns["count"].sum() for one in found))

    def _statistics(self, asked: Mapping[str, Any], start: int, end: int) -> list[Statistic]:
        answered = statistics_of(self._get("/metrics/statistics", asked, start, end))
        if answered.whole:
            return answered.content
        step = 1000 * int(asked["period"])
        middle = max((start + end) // 2 // step, start // step + 1) * step
        if middle >= end:
            raise self._too_many(asked["name"])
        return _joined(self._statistics(asked, low, high) for low, high in ((start, middle), (middle, end)))

    def _plan(self, name: str) -> list[Window]:
        def counts(start: int, end: int, seconds: int) -> Iterable[tuple[int, int]]:
            asked = {"name": name, "statistics": "count", "period": seconds, "merge_metrics": "true"}
            for one in self._statistics(asked, start, end):
                yield from zip(one.time.tolist(), one.columns["count"].astype(np.int64).tolist(), strict=True)

        return plan(counts, *self._span, self._limit - 1)  # the API calls a full answer not whole

    def _lines(self, name: str, start: int, end: int) -> list[Line]:
        """Each series' points in a window; one that proves too large is halved until each half comes whole."""
        asked = {"name": name, "group_by": "*"}
        answered = measurements_of(self._get("/metrics/measurements", asked, start, end))
        if answered.whole:
            return [inside for line in answered.content if len(inside := line.between(start, end))]
        if end - start <= 1:
            raise self._too_many(name)
        middle = (start + end) // 2
        parts: _Parts = {}
        for low, high in ((start, middle), (middle, end)):
            _gather(self._lines(name, low, high), parts)
        return [Line.join(found) for found in parts.values()]

    def _get(self, path: str, asked: Mapping[str, Any], start: int, end: int) -> Any:
        where = {"dimensions": self._dimensions, "start_time": iso(start), "end_time": iso(end), "limit": self._limit}
        return self._monasca.get(path, {**asked, **where})

    def _too_many(self, name: str) -> CloudError:
        return CloudError(
            f"{self._monasca.cloud.name} has more series of {name} with points at the same time than its Monasca API "
            "gives at once",
            remedy="Ask for fewer series.",
        )


def _gather(lines: Iterable[Line], parts: _Parts) -> None:
    for line in lines:
        parts.setdefault((line.name, tuple(sorted(line.dimensions.items()))), []).append(line)


def _joined(halves: Iterable[Iterable[Statistic]]) -> list[Statistic]:
    parts: dict[tuple[tuple[str, str], ...], list[Statistic]] = {}
    for half in halves:
        for one in half:
            parts.setdefault(tuple(sorted(one.dimensions.items())), []).append(one)
    return [
        Statistic(
            found[0].name,
            found[0].dimensions,
            np.concatenate([one.time for one in found]),
            {key: np.concatenate([one.columns[key] for one in found]) for key in found[0].columns},
        )
        for found in parts.values()
    ]


def _error_of(state: Any) -> BaseException | None:
    error: BaseException | None = state.outcome.exception()
    return error
