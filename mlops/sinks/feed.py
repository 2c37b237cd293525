"""The thread that feeds one sink from the store.

It follows this process's points file behind a cursor: a slow sink costs no memory and no point,
it merely lags.  What goes wrong in a sink is warned of once and counted, and ends nothing.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from pathlib import Path

from mlops.blocks import Columns
from mlops.errors import CloudUnavailableError, MlopsError, SinkUnavailableError
from mlops.record import PointsReader
from mlops.sinks._patience import patiently
from mlops.sinks.base import DurableSink, Points, RunIdentity, Sink
from mlops.sinks.spool import Spool

__all__ = ["DurableFeed", "Feed", "begin"]

_log = logging.getLogger("mlops")
_IDLE_SECONDS = 0.5
"""How often a sink is called without news, at the least."""


def begin(sink: Sink, path: Path, run: RunIdentity, label: str) -> Feed:
    """Begin to feed a sink from a points file.

    Args:
        sink: the destination.
        path: the points file, which exists.
        run: whose points they are.
        label: what messages call the sink.
    """
    if isinstance(sink, DurableSink):
        return DurableFeed(sink, path, run, label)
    return Feed(sink, path, run, label)


class Feed:
    """Feeds a sink from a points file, on a thread of its own; :func:`begin` tells the arguments."""

    def __init__(self, sink: Sink, path: Path, run: RunIdentity, label: str) -> None:
        self.sink = sink
        self.label = label
        self._run = run
        self._path = path
        self._reader = PointsReader(path)
        self._news = threading.Event()
        self._ending = threading.Event()
        self._close_by = 0.0
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._work, name=f"mlops-{label}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there are new points; never blocks."""
        self._news.set()

    def end(self, timeout: float) -> None:
        """Have the feed finish within so many seconds, without waiting: several feeds end side by side."""
        self._close_by = time.monotonic() + timeout
        self._ending.set()
        self._news.set()

    def close(self, timeout: float) -> bool:
        """Feed what the file holds by now, then close the sink.

        Args:
            timeout: seconds to wait for both.

        Returns:
            Whether it was done in time; if not, the thread is left behind and ends with the process.
        """
        if not self._ending.is_set():
            self.end(timeout)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def late(self) -> str:
        """What is to be said where :meth:`close` was not done in time."""
        return f"{self.label} did not finish in time; what it has not sent is in {self._path.parent}."

    def _work(self) -> None:
        while not self._ending.is_set():
            self._news.wait(_IDLE_SECONDS)
            self._news.clear()
            self._feed()
        self._feed()
        self._close_sink()

    def _close_sink(self) -> None:
        try:
            self.sink.close(max(0.0, self._close_by - time.monotonic()))
        except Exception as error:  # noqa: BLE001 - a sink of the user's own may raise whatever it likes
            self._warn(error, 0)

    def _feed(self) -> None:
        fed = False
        try:
            for columns in self._reader.read():
                self._write(columns)
                fed = True
        except Exception as error:  # noqa: BLE001 - a sink may raise whatever it likes
            self._warn(error, 0)
        if not fed:
            self._write(Columns.join(()))

    def _write(self, columns: Columns) -> None:
        try:
            self.sink.write(Points(self._run, columns, self._reader.series))
        except Exception as error:  # noqa: BLE001 - a sink may raise whatever it likes
            self.sink.dropped += len(columns)
            self._warn(error, len(columns))

    def _warn(self, error: Exception, points: int) -> None:
        key = f"{type(error).__name__}"
        if key in self._said:
            return
        self._said.add(key)
        if isinstance(error, MlopsError):
            _log.warning("%s: %s", self.label, error)
        else:
            _log.warning(
                "%s failed: %s: %s. %d points were dropped for it; they are in the store.",
                self.label,
                type(error).__name__,
                error,
                points,
            )


class DurableFeed(Feed):
    """Delivers a points file to a durable sink, and waits for its destination as long as the run goes on.

    What is not delivered when the run's end can wait no longer stays in the store, behind the cursor,
    for ``mlops upload``.
    """

    sink: DurableSink
    _trouble: BaseException | None = None

    def _work(self) -> None:
        spool = Spool(self._path, self.sink)
        try:
            while not self._ending.wait(self.sink.interval):
                self._deliver(spool)
            self._deliver(spool)
        except Exception as error:  # noqa: BLE001 - whatever it is, the points are in the store
            self._trouble = error
        finally:
            self._say_what_is_left()
            spool.close()
        self._close_sink()

    def _deliver(self, spool: Spool) -> None:
        """Deliver what the file holds by now, and tell about the run; waits where it must."""
        retrying = patiently(stop=self._is_over, sleep=self._wait, before_sleep=self._away)
        while retrying(spool.advance):
            self._back()
        retrying(spool.describe)
        self._back()

    def late(self) -> str:
        """See :meth:`Feed.late`."""
        self._said.add("left")
        return self._left(self._trouble)

    def _is_over(self, error: BaseException) -> bool:
        """Whether to try no more: once the run has ended, what waiting does not mend is not waited for."""
        hopeful = isinstance(error, SinkUnavailableError | CloudUnavailableError | OSError)
        return self._ending.is_set() and (not hopeful or time.monotonic() >= self._close_by)

    def _wait(self, seconds: float) -> None:
        """Wait so long; the run's end cuts it short once, then its deadline does."""
        if self._ending.is_set():
            time.sleep(max(0.0, min(seconds, self._close_by - time.monotonic())))
        else:
            self._ending.wait(seconds)

    def _away(self, error: BaseException) -> None:
        if self._trouble is None:
            say = _log.warning if "away" not in self._said else _log.info
            self._said.add("away")
            say(
                "%s takes nothing: %s Training goes on; every point is in the store, and what is there is sent as "
                "soon as it can be.",
                self.label,
                _sentence(error),
            )
        self._trouble = error

    def _back(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            say = _log.warning if "back" not in self._said else _log.info
            self._said.add("back")
            say("%s takes points again.", self.label)

    def _say_what_is_left(self) -> None:
        if self._trouble is not None and "left" not in self._said:
            _log.warning("%s", self._left(self._trouble))

    def _left(self, trouble: BaseException | None) -> str:
        url = self.label.partition("?")[0]
        to = f" --to {shlex.quote(url)}" if ":" in url else ""  # else it is a sink that has no URL
        why = f": {_sentence(trouble)}" if trouble is not None else "."
        return (
            f"{self.label}: not all points of {self._run.id} had been sent when the run ended{why} "
            f"Send the rest with: mlops upload {self._run.id}{to}"
        )


def _sentence(error: BaseException) -> str:
    text = str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}"
    return text if text.endswith((".", "!", "?")) else f"{text}."
