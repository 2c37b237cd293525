"""How old a point can get before it is on the disk itself: what a power cut would cost.

Every completed sync is noted with the number of points that were in the file when it began.  A
point is safe once a sync that began after it was written has ended; the figure is the longest time
from ``log`` to there, over every point of a slow run and of one that logs as fast as it can.
(``kill -9`` costs nothing at all: the tests count that.)
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import mlops
from benchmarks._figures import Figure
from mlops.record import read_run
from mlops.store import PointsWriter, RunFolder

__all__ = ["run"]

SECONDS = 6.0


def run() -> list[Figure]:
    """The longest wait at both paces."""
    return [
        Figure("oldest point that a power cut takes, 20 a second", _oldest(0.05), "s", most=1),
        Figure("oldest point that a power cut takes, without a pause", _oldest(0.0), "s", most=1),
    ]


def _oldest(pause: float) -> float:
    synced: list[tuple[int, float]] = []
    real = PointsWriter.sync

    def sync(writer: PointsWriter, *given: Any) -> None:
        count = writer.seq
        real(writer, *given)
        synced.append((count, time.time()))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(PointsWriter, "sync", sync):
        with mlops.Run("durability", devices=[], sinks=[], runs_dir=Path(folder)) as opened:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                opened.log({"train.loss": 0.5})
                if pause:
                    time.sleep(pause)
        logged = read_run(RunFolder(opened.dir)).columns.time
    counts = np.array([count for count, _ in synced])
    ends = np.array([end for _, end in synced])
    first = np.searchsorted(counts, np.arange(1, len(logged) + 1))
    return float((ends[first] - logged).max())
