"""The energy of each epoch: as it was recorded, else read off the meters' curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from mlops.devices.sampler import EPOCH_ENERGY
from mlops.report.marks import Marks
from mlops.report.meters import Curve
from mlops.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NO_METHOD", "Joules", "add_once", "epoch_energy", "method_of"]

NO_METHOD: Final = "method not noted"


@dataclass(slots=True)
class Joules:
    """Energy by epoch of one kind of device, nan where there is none, and how it was measured."""

    values: NDArray[np.float64]
    methods: list[str] = field(default_factory=list)


def epoch_energy(
    view: View, marks: Marks, starts: NDArray[np.float64], ends: NDArray[np.float64], meters: list[Curve]
) -> dict[str, Joules]:
    """The energy of each epoch by kind of device.

    Args:
        view: the run.
        marks: its epochs.
        starts, ends: of each epoch, seconds since the epoch of Unix time.
        meters: the curves of its meters, for epochs whose energy was not recorded as such.
    """
    found: dict[str, Joules] = {}
    for number in view.numbers(EPOCH_ENERGY):
        dimensions = dict(view.series(number).dimensions)
        rows = view.rows(number)
        entry = _entries(view, marks, rows)
        value = view.columns.value[rows]
        good = (entry >= 0) & np.isfinite(value)
        if not good.any():
            continue
        sums = np.bincount(entry[good], weights=value[good], minlength=len(marks))
        hit = np.bincount(entry[good], minlength=len(marks)) > 0
        into = found.setdefault(dimensions.get("device", ""), Joules(np.full(len(marks), np.nan)))
        into.values[hit] = np.nan_to_num(into.values[hit]) + sums[hit]
        add_once(into.methods, dimensions.get("method") or NO_METHOD)
    _fill_from_curves(found, starts, ends, meters)
    return found


def _entries(view: View, marks: Marks, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The epoch that each energy point counts: of its own process, else the nearest of that number."""
    step = view.columns.step[rows].astype(np.int64) - 1
    entry = marks.by_step(view.process_of(rows), step)
    entry[step < 0] = -1
    for place in np.flatnonzero((entry < 0) & (step >= 0)):
        entry[place] = marks.nearest(int(step[place]), float(view.columns.time[rows[place]]))
    return entry


def _fill_from_curves(
    found: dict[str, Joules], starts: NDArray[np.float64], ends: NDArray[np.float64], meters: list[Curve]
) -> None:
    by_device: dict[str, list[Curve]] = {}
    for meter in meters:
        by_device.setdefault(meter.device, []).append(meter)
    for device, group in by_device.items():
        into = found.setdefault(device, Joules(np.full(len(starts), np.nan)))
        empty = np.isnan(into.values)
        if not empty.any():
            continue
        sums = np.sum([curve.between(starts[empty], ends[empty]) for curve in group], axis=0)
        into.values[empty] = sums
        if np.isfinite(sums).any():
            for curve in group:
                add_once(into.methods, curve.method or NO_METHOD)


def method_of(methods: Mapping[str, list[str]]) -> str:
    """How energy was measured by kind of device, such as ``gpu counter, host rapl``."""
    return ", ".join(f"{device} {' and '.join(names)}".strip() for device, names in sorted(methods.items()) if names)


def add_once(names: list[str], name: str) -> None:
    """Append a name that the list lacks."""
    if name not in names:
        names.append(name)
