"""Energy over time, one curve for each meter of a run, from what its devices recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops.devices.base import ENERGY_SUFFIX
from mlops.report.view import Line, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["METHODS", "POWER_SUFFIX", "Curve", "curves", "method_in_words", "trapezoid", "why_not_metered"]

POWER_SUFFIX: Final = ".power_watts"

METHODS: Final[Mapping[str, str]] = {
    "counter": "the GPU's own energy counter",
    "rapl": "the CPU's own energy counter (RAPL)",
    "power": "power sampled and integrated by the trapezoid rule",
    "replay": "a recorded trace played back, not a measurement of this machine",
}
"""How energy is measured, in words; where one device was measured in two ways at once, the first counts."""

_BRIDGED: Final = 10.0
"""Power is not integrated over a pause longer than this many times the usual one between two samples."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The energy that one meter counted, as a function of time.

    Attributes:
        device: ``gpu`` or ``host``.
        id: the GPU's UUID or the RAPL package.
        name: of the product; empty where it was not noted.
        method: a key of :data:`METHODS`, or what the device called it.
        time: seconds since the epoch, ascending.
        joules: counted by each time, beginning with 0.
        covered: seconds metered by each time, beginning with 0.
        check: what the power readings of the same time give when integrated, where the hardware counted
            and both are there.
    """

    device: str
    id: str
    name: str
    method: str
    time: NDArray[np.float64]
    joules: NDArray[np.float64]
    covered: NDArray[np.float64]
    check: float | None = None

    @property
    def total(self) -> float:
        """All the energy it counted, in joules."""
        return float(self.joules[-1])

    @property
    def seconds(self) -> float:
        """How long it counted."""
        return float(self.covered[-1])

    def between(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        """The energy of each span in joules, by linear interpolation; nan where a twentieth of it was not metered."""
        joules = np.interp(end, self.time, self.joules) - np.interp(start, self.time, self.joules)
        metered = np.interp(end, self.time, self.covered) - np.interp(start, self.time, self.covered)
        return np.where((end > start) & (metered >= 0.95 * (end - start)), joules, np.nan)


def curves(view: View) -> list[Curve]:
    """The energy of every meter of a run, GPUs first.

    A device that two processes metered at once is counted once.  One that recorded power and no
    energy is integrated here.
    """
    segments: dict[tuple[str, str], list[_Segment]] = {}
    for name in view.names():
        if name.endswith(ENERGY_SUFFIX) and name.partition(".")[0] + ENERGY_SUFFIX == name:
            _collect(view, name, ENERGY_SUFFIX, segments)
    power: dict[tuple[str, str], list[_Segment]] = {}
    for name in view.names():
        if name.endswith(POWER_SUFFIX) and name.partition(".")[0] + POWER_SUFFIX == name:
            _collect(view, name, POWER_SUFFIX, power)
    names = _product_names(view)
    found = []
    for key in sorted({*segments, *power}):
        joined = _joined(segments[key]) if key in segments else _joined(power[key])
        if joined is None:
            continue
        time, joules, covered, method = joined
        check = None
        if key in segments and key in power and method == "counter":
            check = _check(power[key], float(time[0]), float(time[-1]), float(joules[-1]))
        found.append(Curve(*key, names.get(key, ""), method, time, joules, covered, check))
    return found


def trapezoid(line: Line) -> NDArray[np.float64]:
    """Energy in joules of each interval between two power readings in watts, by the trapezoid rule.

    An interval more than ten times as long as the median one is nan: nobody knows what happened in it.
    """
    step = np.diff(line.time)
    joules = 0.5 * (line.value[1:] + line.value[:-1]) * step
    if len(step):
        usual = float(np.median(step))
        joules[step > max(_BRIDGED * usual, 1.0)] = np.nan
    return joules


def method_in_words(method: str) -> str:
    """How energy was measured, for people."""
    return METHODS.get(method, method or "a method that was not noted")


def why_not_metered(view: View) -> list[str]:
    """The sentences that say what was not metered, and why; at least one."""
    reasons = [str(reason).strip() for reason in view.noted("not_metered") if str(reason).strip()]
    if reasons:
        return reasons
    if any("meters" in notes for notes in (*view.record.notes, view.record.info.notes)):
        if view.noted("meters"):
            return ["the meters that were found gave no energy reading"]
        return ["no device was asked to meter energy (the setting devices)"]
    return ["the run noted no meters: it was recorded without devices, or ended before they were open"]


@dataclass(frozen=True, slots=True)
class _Segment:
    """What one process recorded of one meter: energy gained up to each time, and seconds covered."""

    line: Line
    gains: NDArray[np.float64]
    method: str

    @property
    def rank(self) -> int:
        order = list(METHODS)
        return order.index(self.method) if self.method in order else len(order)


def _collect(view: View, name: str, suffix: str, into: dict[tuple[str, str], list[_Segment]]) -> None:
    device = name.removesuffix(suffix)
    for number in view.numbers(name):
        dimensions = dict(view.series(number).dimensions)
        method = dimensions.pop("method", "power" if suffix == POWER_SUFFIX else "")
        rows = view.rows(number)
        processes = view.process_of(rows)
        for process in np.unique(processes):
            line = view.line(rows[processes == process]).finite()
            if len(line) < 2:  # noqa: PLR2004 - energy lies between two readings
                continue
            gains = trapezoid(line) if suffix == POWER_SUFFIX else np.maximum(np.diff(line.value), 0.0)
            key = (device, dimensions.get("uuid") or ",".join(dimensions.values()))
            into.setdefault(key, []).append(_Segment(line, gains, "power" if suffix == POWER_SUFFIX else method))


def _joined(
    segments: list[_Segment],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], str] | None:
    """The segments one after the other; of those that overlap the earlier or better one counts."""
    times: list[NDArray[np.float64]] = []
    gains: list[NDArray[np.float64]] = []
    covers: list[NDArray[np.float64]] = []
    methods: list[str] = []
    until = -np.inf
    for segment in sorted(segments, key=lambda one: (one.line.time[0], one.rank, -one.line.time[-1])):
        time, gain = segment.line.time, segment.gains
        if time[-1] <= until:
            continue
        known = np.isfinite(gain)
        cover = np.where(known, np.diff(time), 0.0)
        gain = np.where(known, gain, 0.0)
        if time[0] < until:
            at = int(np.searchsorted(time, until, side="right"))
            share = (time[at] - until) / (time[at] - time[at - 1])
            time = np.concatenate([[until], time[at:]])
            gain = np.concatenate([[gain[at - 1] * share], gain[at:]])
            cover = np.concatenate([[cover[at - 1] * share], cover[at:]])
        times.append(time)
        gains.append(np.concatenate([[0.0], gain]))
        covers.append(np.concatenate([[0.0], cover]))
        until = float(time[-1])
        if segment.method not in methods:
            methods.append(segment.method)
    if not times:
        return None
    return (
        np.concatenate(times),
        np.cumsum(np.concatenate(gains)),
        np.cumsum(np.concatenate(covers)),
        " and ".join(method for method in methods if method),
    )


def _check(power: list[_Segment], start: float, end: float, counted: float) -> float | None:
    """Integrated power over the time of a counter's curve; ``None`` where it does not reach that far."""
    joined = _joined(power)
    if joined is None or not counted:
        return None
    time, joules, covered, _ = joined
    inside = np.interp([start, end], time, joules)
    metered = np.interp([start, end], time, covered)
    if metered[1] - metered[0] < 0.95 * (end - start):
        return None
    return float(inside[1] - inside[0])


def _product_names(view: View) -> dict[tuple[str, str], str]:
    names: dict[tuple[str, str], str] = {}
    for meter in view.noted("meters"):
        if isinstance(meter, dict):
            fields: dict[str, Any] = meter
            names.setdefault((str(fields.get("device", "")), str(fields.get("id", ""))), str(fields.get("name", "")))
    return names
