"""Runs written by hand, point by point, so that a test knows what a report must say.

Every reading of a device in here is made up: no GPU was near.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlops.blocks import Columns
from mlops.record import Record, read_run
from mlops.series import Series
from mlops.store import PointsWriter, RunFolder, RunInfo

BEGAN = 1_795_390_000.0
"""When the runs in here began: 2026-11-22 23:26:40 UTC."""

GPU = "GPU-00000000-made-up-0000-000000000000"


class P(NamedTuple):
    """One point: its time after :data:`BEGAN`, name, value, dimensions and step."""

    time: float
    name: str
    value: float
    dimensions: Mapping[str, str] = {}
    step: int | None = None


class Written:
    """A run's folder that is written by hand.

    Args:
        runs_dir: the folder of runs.
        tail: of the run's id.
        **info: fields of ``run.json``.
    """

    def __init__(self, runs_dir: Path, tail: str = "0a1b2c", **info: Any) -> None:
        name = info.pop("name", "digits")
        self.folder = RunFolder(runs_dir / f"20261122-232640-digits-{tail}")
        self.folder.create()
        fields = {"started": BEGAN, "ended": BEGAN + 100, "outcome": "finished", "host": "node-1", **info}
        self.info = RunInfo(self.folder.id, name, **fields)
        self.folder.write_info(self.info)

    def process(self, points: Iterable[P], notes: Mapping[str, Any] | None = None) -> Path:
        """Write what one process logged, in this order."""
        rows = list(points)
        table: dict[Series, int] = {}
        ids = [table.setdefault(Series.of(row.name, row.dimensions), len(table)) for row in rows]
        columns = Columns(
            np.array([BEGAN + row.time for row in rows], np.float64),
            np.array([row.value for row in rows], np.float64),
            np.array(ids, np.uint32),
            np.array([0 if row.step is None else row.step + 1 for row in rows], np.uint32),
        )
        return self.columns(columns, {number: series for series, number in table.items()}, notes)

    def columns(self, columns: Columns, series: Mapping[int, Series], notes: Mapping[str, Any] | None = None) -> Path:
        """Write what one process logged, by column."""
        writer = PointsWriter(self.folder.new_points_path())
        writer.write_series(series)
        for start in range(0, len(columns), 1 << 15):
            writer.write_points(columns.pick(slice(start, start + (1 << 15))), 0)
        if notes is not None:
            writer.write_notes(notes)
        writer.close()
        return writer.path

    def read(self) -> Record:
        """The run as read back."""
        return read_run(self.folder)


METERS: dict[str, Any] = {
    "meters": [{"device": "gpu", "id": GPU, "name": "NVIDIA Made-Up 100", "method": "counter"}],
    "not_metered": ["host: RAPL is not readable on this machine (no /sys/class/powercap)"],
}
"""Notes of a process with one metered GPU."""

NO_METERS: dict[str, Any] = {
    "meters": [],
    "not_metered": ["nvidia: no NVIDIA driver on this machine (NVMLError_LibraryNotFound)"],
}
"""Notes of a process that found nothing to meter."""


def epoch(number: int, end: float, seconds: float = 10.0, **values: float) -> list[P]:
    """What ``Run.end_epoch`` logs; keys are the names after ``valid.``."""
    found = {f"valid.{name}": value for name, value in values.items()}
    found |= {"train.epoch_seconds": seconds, "train.epoch": float(number)}
    return [P(end, name, value, step=number) for name, value in found.items()]


def batches(first: float, seconds: float, count: int, loss: float, *, smooth: bool = True) -> list[P]:
    """Training batches with a loss that falls from ``loss`` to its half, a little noise on it."""
    points = []
    for number in range(count):
        at = first + seconds * (number + 1) / (count + 1)
        value = loss * 0.5 ** (number / count) * (1 + 0.25 * math.sin(12.9898 * (at + number)))
        points.append(P(at, "train.loss", value))
        if smooth:
            points.append(P(at, "train.smooth_loss", loss * 0.5 ** (number / count)))
        points.append(P(at, "train.lr", 0.003))
        points.append(P(at, "train.samples_per_second", 64 * count / seconds))
    return points


def readings(
    seconds: float, watts: float = 230.0, *, uuid: str = GPU, energy: bool = True, every: float = 1.0
) -> list[P]:
    """Made-up readings of one GPU, with power that swings about ``watts``."""
    points = []
    joules = 0.0
    for number in range(int(seconds / every) + 1):
        at = number * every
        power = watts * (1 + 0.18 * math.sin(at / 3) + 0.05 * math.sin(7.7 * at)) * (0.35 if at < 3 else 1.0)
        points.append(P(at, "gpu.power_watts", power, {"uuid": uuid}))
        points.append(P(at, "gpu.utilisation_percent", 94.0, {"uuid": uuid}))
        if energy:
            points.append(P(at, "gpu.energy_joules", joules, {"uuid": uuid, "method": "counter"}))
        joules += power * every
    return points


def in_order(*parts: Iterable[P]) -> list[P]:
    """Points of several sources as one process would log them."""
    return sorted(itertools.chain(*parts), key=lambda point: point.time)


def digits(
    runs_dir: Path,
    tail: str = "0a1b2c",
    *,
    epochs: int = 12,
    watts: float = 230.0,
    seconds: float = 8.0,
    per_epoch: int = 40,
    notes: Mapping[str, Any] | None = METERS,
    **info: Any,
) -> Written:
    """A training that goes well: losses that fall, an accuracy that rises, a GPU that is metered."""
    parts: list[P] = []
    for number in range(1, epochs + 1):
        end = 2 + number * seconds
        loss = 2.2 * 0.62 ** (number - 1) + 0.01
        parts += batches(end - seconds, 0.8 * seconds, per_epoch, loss)
        accuracy = 0.991 - 0.45 * 0.55 ** (number - 1) - (0.004 if number == 9 else 0)
        parts += epoch(number, end, seconds, loss=0.9 * loss + 0.015, accuracy=accuracy)
    if notes is METERS:
        parts += readings(2 + epochs * seconds + 1, watts)
    defaults: dict[str, Any] = {
        "parameters": {
            "epochs": epochs,
            "batch_size": 64,
            "lr": 0.003,
            "model": "Sequential",
            "model_parameters": 24170,
        },
        "dimensions": {"team": "vision", "site": "north"},
        "versions": {"python": "3.11.2", "mlops": "0.1.0", "torch": "2.13.0", "fastai": "2.8.5"},
        "git_commit": "4d80f9b7c2d2f0c9c9a1e7f3b3a0a5d1c0ffee00+",
        "ended": BEGAN + 2 + epochs * seconds + 1,
    }
    run = Written(runs_dir, tail, **{**defaults, **info})
    run.process(in_order(parts), notes)
    return run
