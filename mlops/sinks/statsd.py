"""To the monasca-agent of this node, live: one summary of each series an interval.

The agent keeps one value of a gauge per interval of its own (20 s), so sending every point would
lose all but the last.  Each series is summed up instead, under its own name for the last value
and ``.mean``, ``.min``, ``.max`` and ``.count`` for the rest, all of them gauges: an agent's counters
are cut to integers.  A series' first summary goes out at once, then one an interval, and what is
left at the end: that last one comes early and may replace the one before it in the agent, so it tells
of both.  Every single point, with its own time, is in the store.

The agent never forgets a series, so there are few and they live long: a run's *name* is a dimension
(``run``), its id is not.  The rank is one where a training has several processes.  The host is
not: the agent stamps its own ``hostname`` on what has none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

import numpy as np

from mlops.errors import SeriesError, SinkURLError
from mlops.series import MAX_LENGTH, Mender, Series
from mlops.settings import Settings
from mlops.sinks._address import Lookup
from mlops.sinks._delivery import BYTES_PER_SECOND, Delivery
from mlops.sinks._wire import AGENT_READS, PackingConnection, Summary, open_gauge
from mlops.sinks.base import Points, RunIdentity, Sink, SinkURL

__all__ = ["DEFAULT_PORT", "StatsdSink"]

DEFAULT_PORT: Final = 8125
DEFAULT_SECONDS: Final = Settings().statsd_seconds
"""Between two summaries of a series.  The agent waits 20 s and then flushes, so that its interval is 20 s and
what a flush takes.  Measured on 10.0.0: 20.003 to 20.009 s with 50 metrics, 20.03 to 20.09 s with 4000."""
DEFAULT_BYTES: Final = 1432
"""Of a datagram: what fits into an Ethernet frame of 1500 whatever is wrapped around it, so that IP
need not cut it into pieces that are lost together."""
LEAST_BYTES: Final = 256
MAX_PORT: Final = 65535
FORM: Final = "Write statsd://HOST[:PORT], for example statsd://localhost:8125."
SUFFIXES: Final = ("", ".mean", ".min", ".max", ".count")
_SLICE_SECONDS: Final = 0.25
"""How long one call of ``write`` may send; what is left goes with the next."""
_SHARE: Final = 0.9
"""Of the time that closing may take; the rest is for whoever waits for it to see that it is over."""

_log = logging.getLogger("mlops")


class _Window:
    """What has come of one series since its last summary."""

    __slots__ = ("before", "count", "dimensions", "due", "high", "last", "low", "mean", "name")

    def __init__(self, name: str, dimensions: dict[str, str]) -> None:
        self.name = name
        self.dimensions = dimensions
        self.due = 0.0
        self.before: tuple[int, float, float, float] | None = None
        self._clear()

    def reset(self) -> None:
        """Begin anew, once a summary has been made."""
        self.before = (self.count, self.mean, self.low, self.high)
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self.last = self.mean = 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, count: int, last: float, mean: float, low: float, high: float) -> None:
        total = self.count + count
        self.low, self.high = min(self.low, low), max(self.high, high)
        # Weights, not sums: a sum of finite numbers can be infinite, and a mean never is.
        weighted = self.mean * (self.count / total) + mean * (count / total)
        self.mean = min(max(weighted, self.low), self.high)
        self.count = total
        self.last = last

    def widen(self) -> None:
        """Let this summary tell of the one before it too, which it will replace in the agent."""
        if self.before is not None:
            count, mean, low, high = self.before
            self.add(count, self.last, mean, low, high)

    def values(self) -> tuple[float, float, float, float, int]:
        """In the order of :data:`SUFFIXES`."""
        return self.last, self.mean, self.low, self.high, self.count


class _Outgoing(Summary):
    """A summary on its way, and the window that it was made of."""

    __slots__ = ("window",)

    def __init__(self, window: _Window) -> None:
        super().__init__(window.count)
        self.window = window


class StatsdSink(Sink):
    """Sends summaries to a monasca-agent's statsd daemon.

    A point counts as ``sent`` when every line of the summary that it is part of was taken by the
    kernel and refused by nobody; it counts as ``dropped`` when it is nan or infinite, when its
    series cannot be put on the wire, or when a line of its summary was given up.  After
    :meth:`close` the two add up to what was written.

    Args:
        host: name or numeric address of the agent's host.
        port: where its statsd daemon listens.
        interval: seconds between two summaries of a series; more than the agent's own 20, or it
            keeps one of two.
        max_bytes: of a datagram.
        bytes_per_second: the pace; the agent's socket overflows when sent too much at once.
        lookup: resolves the name; for tests.
        clock: seconds that never go back; for tests.

    Raises:
        SinkURLError: there can be no such host or port.
    """

    def __init__(
        self,
        host: str,
        port: int = DEFAULT_PORT,
        *,
        interval: float = DEFAULT_SECONDS,
        max_bytes: int = DEFAULT_BYTES,
        bytes_per_second: float = BYTES_PER_SECOND,
        lookup: Lookup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.where = f"statsd://{f'[{host}]' if ':' in host else host}:{port}"
        if not _may_be_host(host):
            raise SinkURLError(f"{self.where}: {host!r} cannot be the name of a host", remedy=FORM)
        if not 0 < port <= MAX_PORT:
            raise SinkURLError(f"{self.where} has port {port}", remedy=f"Ports are 1 to {MAX_PORT}. {FORM}")
        self.sent = 0
        self.dropped = 0
        self._interval = interval
        self._max_bytes = max_bytes
        self._clock = clock
        self._closed = False
        self._said: set[str] = set()
        self._dropped_before = 0
        self._windows: dict[tuple[str, tuple[tuple[str, str], ...]], _Window] = {}
        self._menders: dict[str, Mender] = {}
        self._known: dict[tuple[str, int], _Window | None] = {}
        self._connection = PackingConnection(max_bytes)
        self._gauge: Any = open_gauge(self._connection)
        self._delivery = Delivery(
            self._connection,
            lookup or Lookup(host, port),
            patience=interval,
            bytes_per_second=bytes_per_second,
            on_done=self._done,
            on_trouble=self._trouble,
            on_recovery=self._recovered,
            clock=clock,
        )

    @classmethod
    def from_url(cls, url: SinkURL, settings: Settings) -> StatsdSink:
        """``statsd://HOST[:PORT][?interval=SECONDS&max_bytes=N]``.

        Raises:
            SinkURLError: the URL has no host, or something else than this.
        """
        if not url.host:
            raise SinkURLError(f"The sink URL {url} names no host", remedy=FORM)
        if url.path not in {"", "/"}:
            raise SinkURLError(f"The sink URL {url} has a path, {url.path!r}", remedy=FORM)
        url.only("interval", "max_bytes")
        return cls(
            unquote(url.host),
            DEFAULT_PORT if url.port is None else url.port,
            interval=url.number("interval", settings.statsd_seconds, 0.1, 3600),
            max_bytes=int(url.number("max_bytes", DEFAULT_BYTES, LEAST_BYTES, AGENT_READS)),
        )

    def write(self, points: Points) -> None:
        """Sum these points up, and send what is due; takes at most about a quarter of a second."""
        if self._closed:
            self.dropped += len(points)
            self._say("closed", f"{self.where}: points came after the end; they were not sent.")
            return
        if len(points):
            self._sum_up(points)
        if self._delivery.is_idle:
            now = self._clock()
            self._pack(window for window in self._windows.values() if window.count and window.due <= now)
        self._delivery.work(_SLICE_SECONDS)

    def close(self, timeout: float) -> None:
        """Send what is left and let go of the socket; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        dropped = self.dropped
        self._pack((window for window in self._windows.values() if window.count), last=True)
        self._delivery.finish(timeout * _SHARE)
        if self.dropped > dropped and "away" not in self._said:
            self._say(
                "late",
                f"{self.where}: {self.dropped - dropped} points could not be sent within the {timeout:.1f} s that were "
                "left when the run ended; they are in the store. Raise MLOPS_CLOSE_SECONDS.",
            )
        if self.sent or self.dropped:
            _log.info("%s: %d points were sent, as summaries; %d were dropped.", self.where, self.sent, self.dropped)

    # -- points to summaries ----------------------------------------------------------------------

    def _sum_up(self, points: Points) -> None:
        columns = points.columns
        finite = np.isfinite(columns.value)
        if not finite.all():
            first = int(np.argmin(finite))
            series = points.series.get(int(columns.series[first]), "a series")
            self.dropped += len(columns) - int(np.count_nonzero(finite))
            self._say(
                "finite",
                f"{series} is {columns.value[first]}. Monasca takes finite numbers only: such values are recorded in "
                "the store and counted, and not sent.",
            )
            columns = columns.pick(finite)
        if not len(columns):
            return
        order = np.argsort(columns.series, kind="stable")
        ids, values = columns.series[order], columns.value[order]
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        counts = np.diff(np.append(starts, len(ids)))
        rows = zip(
            ids[starts].tolist(),
            counts.tolist(),
            values[starts + counts - 1].tolist(),
            _means(values, starts, counts).tolist(),
            np.minimum.reduceat(values, starts).tolist(),
            np.maximum.reduceat(values, starts).tolist(),
            strict=True,
        )
        for number, count, last, mean, low, high in rows:
            window = self._window(points, number)
            if window is None:
                self.dropped += count
            else:
                window.add(count, last, mean, low, high)

    def _window(self, points: Points, number: int) -> _Window | None:
        """The window of a series, by its number in the store; ``None`` if it cannot be put on the wire."""
        key = (points.run.id, number)
        if key not in self._known:
            series = points.series.get(number)
            if series is None:
                self._say("unnamed", f"{self.where}: the store has points whose series' name was lost; not sent.")
                return None
            self._known[key] = self._admit(points.run, series)
        return self._known[key]

    def _admit(self, run: RunIdentity, series: Series) -> _Window | None:
        """A series of the store as one of the wire.

        Two of a run never come to the same; those of two runs of one name share a window, or the agent would take
        the later one's value for both.
        """
        mender = self._menders.get(run.id)
        if mender is None:
            derived = {"run": run.name} if run.rank is None else {"run": run.name, "rank": str(run.rank)}
            mender = self._menders[run.id] = Mender({**derived, **run.dimensions})
            if mender.why:
                self._say(f"run {run.id}", f"{self.where}: {mender.why}; it is sent mended.")
        try:
            good, why = mender.mend(series)
        except SeriesError as error:
            self._say(f"refused {series}", f"{self.where}: {error} It is in the store and not sent.")
            return None
        name, dimensions = good.name, dict(good.dimensions)
        longest = name + max(SUFFIXES, key=len)
        if len(longest) > MAX_LENGTH:
            self._say(
                "long",
                f"{self.where}: {name[:40]}… has {len(name)} characters; with .count after it, Monasca takes at most "
                f"{MAX_LENGTH}. It is in the store and not sent. Give it a shorter name.",
            )
            return None
        size = self._connection.longest(longest, dimensions)
        if size > self._max_bytes:
            self._say(
                "large",
                f"{self.where}: a line of {series.name[:80]} takes {size} bytes with its {len(dimensions)} dimensions, "
                f"more than a datagram's {self._max_bytes}. It is in the store and not sent. Use fewer or shorter "
                f"dimensions, or add ?max_bytes=N, at most {AGENT_READS}.",
            )
            return None
        if why:
            self._say(f"mended {series}", f"{self.where}: {why}; it is sent as {str(good)!r}.")
        return self._windows.setdefault((name, tuple(dimensions.items())), _Window(name, dimensions))

    # -- summaries to lines -----------------------------------------------------------------------

    def _pack(self, windows: Iterator[_Window], *, last: bool = False) -> None:
        now = self._clock()
        for window in windows:
            self._connection.summary = _Outgoing(window)
            if last and now < window.due:
                window.widen()
            for suffix, value in zip(SUFFIXES, window.values(), strict=True):
                name = window.name + suffix
                if suffix and (name, tuple(window.dimensions.items())) in self._windows:
                    self._say(
                        "suffix",
                        f"{self.where}: {name} is logged itself, so the {suffix[1:]} of {window.name} is not sent. "
                        "Rename one of them.",
                    )
                    continue
                self._gauge.send(name, value, window.dimensions)
            window.reset()
        self._delivery.begin()

    def _done(self, summary: Summary) -> None:
        if summary.lost:
            self.dropped += summary.points
        else:
            self.sent += summary.points
        if isinstance(summary, _Outgoing):
            summary.window.due = 0.0 if summary.lost else self._clock() + self._interval

    # -- what is said -----------------------------------------------------------------------------

    def _trouble(self, why: str) -> None:
        """Nothing gets through any more: a warning the first time, a note later on."""
        self._dropped_before = self.dropped
        if "away" in self._said:
            _log.info("%s takes nothing again: %s.", self.where, why)
        self._say(
            "away",
            f"{self.where} takes nothing: {why}. Training goes on and every point is in the store; those that "
            "cannot be sent are counted, and sending goes on as soon as it can. Start the monasca-agent on that "
            "host, or name another one: MLOPS_SINKS=statsd://HOST:PORT.",
        )

    def _recovered(self) -> None:
        missed = self.dropped - self._dropped_before
        _log.info("%s takes points again; %d were dropped meanwhile.", self.where, missed)

    def _say(self, key: str, message: str) -> None:
        """One warning for each key in the life of this sink."""
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", message)


def _means(values: Any, starts: Any, counts: Any) -> Any:
    """The mean of each group of values, also where their sum is too large for a float."""
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.add.reduceat(values, starts) / counts
        if not np.isfinite(means).all():
            shares = np.add.reduceat(values / np.repeat(counts, counts), starts)
            means = np.where(np.isfinite(means), means, shares)
    return means


def _may_be_host(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return bool(host) and host.isprintable() and not any(character.isspace() for character in host)
