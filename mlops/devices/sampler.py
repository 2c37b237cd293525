"""The thread that samples the devices, and counts the energy of each epoch."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from mlops.devices.base import ENERGY_SUFFIX, Device, Reading
from mlops.series import Series

__all__ = ["Put", "Sampler"]

_log = logging.getLogger("mlops")

EPOCH_ENERGY = "train.epoch_energy_joules"


class Put(Protocol):
    """Where readings go: :meth:`mlops.recorder.Recorder.put`."""

    def __call__(self, series: Series, value: float, *, time: float | None = None, step: int | None = None) -> None:
        """Record one value of one series."""


class Sampler:
    """Opens devices and samples them at an interval, on a thread of its own.

    Args:
        openers: make the devices (see :func:`mlops.devices.base.opener`).
        put: takes the readings.
        interval: seconds between two samples.
        publish: whether readings are recorded; if not, only the epochs' energy is. A process that
            joined a run whose owner samples the same devices does not record them twice.
        on_open: told of the devices once they are open.
    """

    def __init__(
        self,
        openers: Sequence[Callable[[], Device]],
        put: Put,
        *,
        interval: float,
        publish: bool = True,
        on_open: Callable[[Sequence[Device]], None] | None = None,
    ) -> None:
        self._openers = openers
        self._put = put
        self._interval = interval
        self._publish = publish
        self._on_open = on_open
        self._devices: list[Device] = []
        self._laps: deque[int | None] = deque()
        self._joules: dict[Series, float] = {}
        self._lap_joules: dict[Series, float] = {}
        self._fresh: set[Series] = set()
        self._bell = threading.Lock()  # an Event is not to be set in a signal handler, nor in a forked child
        self._bell.acquire()
        self._opened = threading.Event()
        self._ending = False
        self._given_up = False
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="mlops-sampler", daemon=True)
        self._thread.start()

    def lap(self, step: int | None) -> None:
        """End an epoch: its energy is counted up to now and recorded under this step; never blocks.

        Args:
            step: the epoch's number; ``None`` to begin one: what was used before it belongs to none.
        """
        self._laps.append(step)
        self._ring_bell()

    def wait_open(self, timeout: float) -> bool:
        """Wait until the devices are open; whether they were in time."""
        return self._opened.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Sample once more, count what laps are open, close the devices.

        Args:
            timeout: seconds to wait; a hung driver must not hold up the end of a training.

        Returns:
            Whether it was done in time.
        """
        self._ending = True
        self._ring_bell()
        self._thread.join(timeout)
        self._given_up = self._thread.is_alive()
        return not self._given_up

    def _ring_bell(self) -> None:
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def _work(self) -> None:
        self._devices = [make() for make in self._openers]
        self._sample()
        self._lap_joules = dict(self._joules)
        self._opened.set()
        self._tell()
        due = time.monotonic() + self._interval
        while not self._ending:
            self._bell.acquire(timeout=max(0.0, due - time.monotonic()))
            laps = self._take_laps()
            self._sample()
            self._count(laps)
            due = _next_due(due, time.monotonic(), self._interval)
        laps = self._take_laps()
        self._sample()
        self._count(laps)
        for device in self._devices:
            try:
                device.close()
            except Exception as error:  # noqa: BLE001 - a device may raise whatever it likes
                _log.warning("%s cannot be closed: %s.", type(device).__name__, error)

    def _tell(self) -> None:
        """Tell of the open devices; one that cannot say what it is is sampled all the same."""
        if self._on_open is None:
            return
        try:
            self._on_open(self._devices)
        except Exception as error:  # noqa: BLE001 - a device may raise whatever it likes
            _log.warning("The run could not note what it is metered by: %s: %s.", type(error).__name__, error)

    def _take_laps(self) -> list[int | None]:
        """Laps that were asked for before the sample that is about to be taken."""
        return [self._laps.popleft() for _ in range(len(self._laps))]

    def _sample(self) -> None:
        now = time.time()
        self._fresh.clear()
        for device in self._devices:
            try:
                readings = device.sample()
            except Exception as error:  # noqa: BLE001 - a lost GPU must not end the others, or the training
                self._warn_once(device, error)
                continue
            self._take(readings, now)

    def _take(self, readings: Sequence[Reading], now: float) -> None:
        if self._given_up:  # the run has ended without waiting for a device that hung
            return
        for reading in readings:
            if reading.series.name.endswith(ENERGY_SUFFIX):
                self._joules[reading.series] = reading.value
                self._fresh.add(reading.series)
            if self._publish:
                self._put(reading.series, reading.value, time=now)

    def _count(self, laps: Sequence[int | None]) -> None:
        """Record the energy since the last lap, summed over the meters of a kind and method.

        Laps that came in between two samples share their energy evenly: they were shorter than
        the meters can tell.  A meter of which nothing is known since the last lap counts for
        nothing: an epoch without any has no energy, which is not 0 J.
        """
        if not laps or self._given_up:
            return
        sums: dict[tuple[str, str], float] = {}
        for series, joules in self._joules.items():
            kind = series.name.removesuffix(ENERGY_SUFFIX)
            method = dict(series.dimensions).get("method", "")
            since = joules - self._lap_joules.get(series, 0.0)
            if not since and series not in self._fresh:
                continue
            sums[kind, method] = sums.get((kind, method), 0.0) + since
        self._lap_joules = dict(self._joules)
        steps = [step for step in laps if step is not None]
        for (kind, method), joules in sums.items():
            series = Series.of(EPOCH_ENERGY, {"device": kind, "method": method})
            for step in steps:
                self._put(series, joules / len(steps), step=step)

    def _warn_once(self, device: Device, error: Exception) -> None:
        name = type(device).__name__
        if name not in self._said:
            self._said.add(name)
            why = str(error).rstrip(".") or type(error).__name__
            _log.warning("%s cannot be sampled any more: %s. The training goes on without it.", name, why)


def _next_due(due: float, now: float, interval: float) -> float:
    """When the next sample is due; samples missed by a device slower than the interval are skipped, not made up for."""
    late = now - due
    return due if late < 0 else due + interval * (1 + late // interval)
