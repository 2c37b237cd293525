"""Signs of trouble that a training's own points give: nan, silence, a loss that rises.

An alarm of Monasca compares what arrives with a number.  It never sees nan, which Monasca does not take; it holds
a period without measurements for unknown, not for silence; and it knows nothing of an earlier value.  So these
are told as metrics of their own:

* ``mlops.not_finite_points`` with the dimension ``metric``, whenever a value is nan or infinite: how many of that
  metric have been so far;
* ``mlops.silent_seconds`` from the first minute of silence on: how long the training, which has logged before, has
  logged nothing.  Once it logs again: 0.  What the devices show is no sign of life, and where a training has not
  logged anything yet, as in the process of ``mlops run``, nothing is told;
* ``train.progress_lost_percent`` once a minute in which there was a ``train.loss``: how much of what it has fallen
  since the first minute it has risen again, by means over a minute.  0 is the best so far, 100 where it began, or
  above; what a loss is measured in, its sign and its size do not matter.

A training in which nothing is wrong pays for it with one comparison of each value, on the drain thread.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from mlops.blocks import Columns
from mlops.series import Series

__all__ = ["LOST", "NOT_FINITE", "SILENT", "Signs"]

NOT_FINITE: Final = "mlops.not_finite_points"
SILENT: Final = "mlops.silent_seconds"
LOST: Final = "train.progress_lost_percent"

WATCHED: Final = "train.loss"
QUIET: Final = 60.0
"""Seconds without a point after which a training counts as silent."""
REPEAT: Final = 15.0
"""Seconds between two words about the same silence: several in each minute, which is Monasca's shortest period."""
MINUTE: Final = 60.0
_METERS: Final = ("gpu.", "host.", "mlops.")


class Signs:
    """What one process's points say about its training; called on the drain thread alone.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bad: Counter[str] = Counter()
        self._is_training = np.zeros(0, np.bool_)
        self._is_watched = np.zeros(0, np.bool_)
        self._heard: float | None = None
        self._said: float | None = None
        self._minute: float | None = None
        self._sum = 0.0
        self._count = 0
        self._first: float | None = None
        self._best = math.inf

    def __call__(self, columns: Columns, series: Sequence[Series]) -> list[tuple[Series, float]]:
        """What is to be told now.

        Args:
            columns: points that are new; called without any too, at least about once a second.
            series: what the ids in ``columns.series`` stand for.
        """
        now = self._clock()
        if len(columns):
            self._learn(series)
        return [*self._not_finite(columns, series), *self._silence(columns, now), *self._rise(columns, now)]

    def _learn(self, series: Sequence[Series]) -> None:
        fresh = series[len(self._is_training) :]
        if fresh:
            training = [not one.name.startswith(_METERS) for one in fresh]
            watched = [one.name == WATCHED for one in fresh]
            self._is_training = np.append(self._is_training, training)
            self._is_watched = np.append(self._is_watched, watched)

    def _not_finite(self, columns: Columns, series: Sequence[Series]) -> Iterator[tuple[Series, float]]:
        bad = ~np.isfinite(columns.value)
        if not bad.any():
            return
        numbers, counts = np.unique(columns.series[bad], return_counts=True)
        met: Counter[str] = Counter()
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            met[series[number].name] += count
        self._bad.update(met)
        for name in met:
            yield Series.of(NOT_FINITE, {"metric": name}), float(self._bad[name])

    def _silence(self, columns: Columns, now: float) -> Iterator[tuple[Series, float]]:
        if len(columns) and self._is_training[columns.series].any():
            if self._said is not None:
                yield Series.of(SILENT), 0.0
            self._heard, self._said = now, None
            return
        since = self._said if self._said is not None else -math.inf
        if self._heard is not None and now - self._heard >= QUIET and now - since >= REPEAT:
            yield Series.of(SILENT), now - self._heard
            self._said = now

    def _rise(self, columns: Columns, now: float) -> Iterator[tuple[Series, float]]:
        if self._minute is not None and now - self._minute >= MINUTE:
            if self._count and math.isfinite(self._sum):
                yield Series.of(LOST), self._lost(self._sum / self._count)
            self._minute, self._sum, self._count = None, 0.0, 0
        if not len(columns):
            return
        losses = columns.value[self._is_watched[columns.series]]
        losses = losses[np.isfinite(losses)]
        if len(losses):
            if self._minute is None:
                self._minute = now
            with np.errstate(over="ignore"):
                self._sum += float(losses.sum())
            self._count += len(losses)

    def _lost(self, mean: float) -> float:
        if self._first is None:
            self._first = mean
        self._best = min(self._best, mean)
        if mean <= self._best:
            return 0.0
        fallen = self._first - self._best
        risen = mean - self._best
        return 100.0 * min(risen / fallen, 1.0) if fallen > 0 else 100.0
