"""The thread that feeds one sink from the store.

It follows this process's points file behind a cursor: a slow sink costs no memory and no point,
it merely lags.  What goes wrong in a sink is warned of once and counted, and ends nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from mlops.blocks import Columns
from mlops.errors import MlopsError
from mlops.record import PointsReader
from mlops.sinks.base import Points, RunIdentity, Sink

__all__ = ["Feed"]

_log = logging.getLogger("mlops")
_IDLE_SECONDS = 0.5
"""How often a sink is called without news, at the least."""


class Feed:
    """Feeds a sink from a points file, on a thread of its own.

    Args:
        sink: the destination.
        path: the points file, which exists.
        run: whose points they are.
        label: what messages call the sink.
    """

    def __init__(self, sink: Sink, path: Path, run: RunIdentity, label: str) -> None:
        self.sink = sink
        self.label = label
        self._run = run
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

    def _work(self) -> None:
        while not self._ending.is_set():
            self._news.wait(_IDLE_SECONDS)
            self._news.clear()
            self._feed()
        self._feed()
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
