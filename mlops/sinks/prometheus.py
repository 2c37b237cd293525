"""To Prometheus, which asks: an HTTP endpoint with the last value of every series, for as long as the run goes on.

``prometheus://[HOST]:PORT`` listens at that address (no host: all addresses of this machine; no port: 9400;
port 0: any that is free, and the log says which) and answers ``GET /metrics`` in Prometheus' text format or
OpenMetrics, whichever is asked for.  Nothing is pushed, and no time is given with a value: Prometheus takes the
time at which it asked.

Names are derived by :func:`mlops.series.exposed`.  Labels are ``run`` (its name), ``rank`` and ``process`` where
there are any, the run's dimensions and the series' own.  The run's id is not one of them: each new one would make
every series a new one, for as long as Prometheus keeps its data.  It is in ``mlops_run_info``, one series a run, to
be joined: ``mlops_train_loss * on (run) group_left (run_id) mlops_run_info``.

One address serves a run on one host.  Of the processes of a run that are given the same address (a training under
``mlops run`` or ``mlops notebook`` and that command, ranks that joined one run) the first one listens and shows
the others' series too, which it reads from the run's folder; when it ends, another one takes its place.  Runs of one
process share the address.  Ranks whose runs are not one, under a launcher that sets LOCAL_RANK, listen at PORT +
LOCAL_RANK.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from mlops.errors import MissingExtraError, SinkError, SinkURLError
from mlops.settings import Settings
from mlops.sinks._siblings import Siblings
from mlops.sinks.base import Points, RunIdentity, Sink, SinkURL

if TYPE_CHECKING:
    from mlops.sinks._endpoint import Endpoint

__all__ = ["DEFAULT_PORT", "PrometheusSink"]

DEFAULT_PORT: Final = 9400
FORM: Final = "Write prometheus://[HOST]:PORT, for example prometheus://:9400."
_RETRY_SECONDS: Final = 15.0
"""Between two attempts to get a port that another process has: as often as Prometheus asks by itself."""

_log = logging.getLogger("mlops")


class PrometheusSink(Sink):
    """Shows the last value of every series to Prometheus.

    A point counts as ``sent`` when it was there to be asked for, if only until the next one of its series: nobody
    knows who asks, or when.  It counts as ``dropped`` when nobody could ask, since the port was another process',
    or when its series cannot be shown; counters are shown neither nan nor negative values.

    Args:
        host: a name or address of this machine; empty for all that it has.
        port: where to listen; 0 for any port that is free.
        clock: seconds that never go back; for tests.

    Attributes:
        port: where it listens; ``None`` while it does not.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(
        self, host: str = "", port: int = DEFAULT_PORT, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            import prometheus_client as _  # noqa: F401 - only to see whether it is there
        except ImportError as error:
            raise MissingExtraError("prometheus_client", "prometheus") from error
        from mlops.sinks._exposition import Table

        self.sent = 0
        self.dropped = 0
        self.where = f"prometheus://{f'[{host}]' if ':' in host else host}:{port}"
        self._host = host
        self._asked_port = port
        self._clock = clock
        self._table = Table(self._say)
        self._endpoint: Endpoint | None = None
        self._siblings: Siblings | None = None
        self._shown_by_another = False
        self._retry_at = 0.0
        self._closed = False
        self._said: set[str] = set()

    @classmethod
    def from_url(cls, url: SinkURL, settings: Settings) -> PrometheusSink:
        """``prometheus://[HOST][:PORT][/metrics]``.

        Raises:
            SinkURLError: the URL has something else than this.
            MissingExtraError: prometheus-client is not installed.
        """
        if url.path not in {"", "/", "/metrics"}:
            raise SinkURLError(f"The sink URL {url} has a path, {url.path!r}", remedy=FORM)
        url.only()
        return cls(unquote(url.host), DEFAULT_PORT if url.port is None else url.port)

    @property
    def port(self) -> int | None:
        """See the class."""
        return self._endpoint.port if self._endpoint else None

    def write(self, points: Points) -> None:
        """Note the last values; the first call begins to listen."""
        if self._closed:
            self.dropped += len(points)
            self._say("closed", "points came after the end; they were not shown.")
            return
        if self._endpoint is None and self._clock() >= self._retry_at:
            self._listen(points.run)
        refused = self._table.take(points)
        is_shown = self._endpoint is not None or self._shown_by_another
        self.sent += len(points) - refused if is_shown else 0
        self.dropped += refused if is_shown else len(points)
        if self._siblings is not None:
            for name, theirs in self._siblings.news():
                self._table.introduce(theirs.run)
                self._table.take(theirs, name)

    def close(self, timeout: float) -> None:
        """Show nothing any more, and let go of the port; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._endpoint is not None:
            self._endpoint.leave(self._table)
            self._endpoint = None

    def _listen(self, run: RunIdentity) -> None:
        from mlops.sinks._endpoint import address, open_endpoint, runs_shown_at

        joined = run.info is not None and run.info.pid != os.getpid()
        port = self._asked_port + (0 if joined or not self._asked_port else _local_rank())
        self._table.introduce(run)
        try:
            self._endpoint = open_endpoint(self._host, port, self._table)
        except SinkError as error:
            self._retry_at = self._clock() + _RETRY_SECONDS
            self._shown_by_another = run.id in (runs_shown_at(self._host, port) or ())
            if self._shown_by_another:
                self._tell("kin", f"another process of {run.id} listens and shows these points too.")
            else:
                self._say(
                    "away",
                    f"{error} Training goes on and every point is in the store, but nobody can ask for them here.",
                )
            return
        self._shown_by_another = False
        self._tell(
            "here", f"listens at http://{address(self._host or socket.gethostname(), self._endpoint.port)}/metrics."
        )
        if run.folder is not None:
            self._siblings = Siblings(run.folder, run)

    def _say(self, key: str, message: str) -> None:
        """One warning for each key in the life of this sink."""
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s: %s", self.where, message)

    def _tell(self, key: str, message: str) -> None:
        """The same as a note."""
        if key not in self._said:
            self._said.add(key)
            _log.info("%s: %s", self.where, message)


def _local_rank() -> int:
    """Which of the processes that a launcher started on this host this is; 0 without one."""
    text = os.environ.get("LOCAL_RANK", "")
    return int(text) if text.isascii() and text.isdigit() else 0
