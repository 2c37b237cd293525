"""The table per epoch, computed the slow and plain way: one point after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.report.written import BEGAN, P

_NOT_FIRST = ("train.epoch", "train.epoch_energy_joules")


@dataclass
class Row:
    """One epoch as it should be."""

    process: int
    place: int
    number: int
    step: int
    end: float
    points: list[P]
    previous_end: float | None
    part: int | None = None
    joules: dict[str, float] = field(default_factory=dict)


_EPOCHS_OWN = ("train.epoch", "train.epoch_energy_joules")


def expected(processes: Sequence[Sequence[P]]) -> list[dict[str, object]]:
    """What :func:`mlops.report.epochs` must give, as dictionaries."""
    rows = [row for place, points in enumerate(processes) for row in _rows_of(place, points)]
    _number_parts(rows)
    _add_energy(rows, processes)
    rows.sort(key=lambda row: row.end)
    other = _names_with_other_steps(rows, processes)
    for row in rows:
        row.points = _without_steps(row.points, other)
    return [_told(row, _without_steps(processes[row.process], other)) for row in rows]


def _names_with_other_steps(rows: Sequence[Row], processes: Sequence[Sequence[P]]) -> set[str]:
    """Metrics whose steps are not those of epochs, nor of the one that is still under way."""
    known = {row.step for row in rows}
    known |= {max(known, default=0) + 1}
    return {
        point.name
        for points in processes
        for point in points
        if point.name not in _EPOCHS_OWN and point.step is not None and point.step not in known
    }


def _without_steps(points: Sequence[P], names: set[str]) -> list[P]:
    return [point._replace(step=None) if point.name in names else point for point in points]


def _rows_of(process: int, points: Sequence[P]) -> list[Row]:
    rows: list[Row] = []
    since: list[P] = []
    previous: float | None = None
    for point in points:
        since.append(point)
        if point.name != "train.epoch":
            continue
        before, previous = previous, point.value
        if not math.isfinite(point.value) or point.value < 1 or point.value != int(point.value):
            continue
        if point.step is None and before == point.value:
            continue
        number = int(point.value)
        end = BEGAN + point.time
        step = number if point.step is None else point.step
        rows.append(Row(process, len(rows), number, step, end, since, rows[-1].end if rows else None))
        since = []
    return rows


def _number_parts(rows: list[Row]) -> None:
    if len({row.number for row in rows}) == len(rows):
        return
    part, before = 1, 0
    for row in rows:
        if row.number <= before:
            part += 1
        before = row.number
        row.part = part


def _add_energy(rows: list[Row], processes: Sequence[Sequence[P]]) -> None:
    for process, points in enumerate(processes):
        for point in points:
            if point.name != "train.epoch_energy_joules" or point.step is None or not math.isfinite(point.value):
                continue
            fitting = [row for row in rows if row.step == point.step]
            own = [row for row in fitting if row.process == process]
            if own:
                row = own[-1]
            elif fitting:
                row = min(fitting, key=lambda one: abs(one.end - (BEGAN + point.time)))
            else:
                continue
            device = point.dimensions["device"]
            row.joules[device] = row.joules.get(device, 0.0) + point.value


def _told(row: Row, points: Sequence[P]) -> dict[str, object]:
    losses = [point.value for point in row.points if point.name == "train.loss"]
    finite = [value for value in losses if math.isfinite(value)]
    mean = (math.fsum(finite) / len(finite) if finite else math.nan) if losses else None
    explicit = _value(row, points, "train.epoch_loss")
    seconds = _value(row, points, "train.epoch_seconds")
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        seconds = _measured(row)
    joules = math.fsum(row.joules.values()) if row.joules else None
    metrics = {name: _value(row, points, f"valid.{name}") for name in ("accuracy", "f1")}
    return {
        "epoch": row.number,
        "process": row.part,
        "end": row.end,
        "train_loss": mean if explicit is None else explicit,
        "valid_loss": _value(row, points, "valid.loss"),
        "metrics": {name: value for name, value in metrics.items() if value is not None},
        "seconds": seconds,
        "joules": joules,
        "joules_by_device": row.joules,
        "watts": joules / seconds if joules is not None and seconds else None,
        "samples_per_second": _rate(row, seconds),
        "batches": len(losses),
        "not_finite": len(losses) - len(finite),
    }


def _measured(row: Row) -> float | None:
    start = row.previous_end
    if start is None:
        times = [BEGAN + p.time for p in row.points if p.name.startswith("train.") and p.name not in _NOT_FIRST]
        start = min(times, default=math.inf)
        if start >= row.end:
            return None
    return row.end - start


def _value(row: Row, points: Sequence[P], name: str) -> float | None:
    """The last one of the epoch under its step or none; else the last under its step; else the last of the epoch."""
    inside = [point for point in row.points if point.name == name]
    fitting = [point for point in inside if point.step is None or point.step == row.step]
    if fitting:
        return fitting[-1].value
    named = [point for point in points if point.name == name and point.step == row.step]
    if named and _is_last_of_its_step(row, points):
        return named[-1].value
    return inside[-1].value if inside else None


def _is_last_of_its_step(row: Row, points: Sequence[P]) -> bool:
    """Of several epochs of one process with one step, the last one has what was logged elsewhere under that step."""
    return row.place == max(other.place for other in _rows_of(row.process, points) if other.step == row.step)


def _rate(row: Row, seconds: float | None) -> float | None:
    rates = [point for point in row.points if point.name == "train.samples_per_second" and math.isfinite(point.value)]
    if not rates:
        return None
    before = row.end - seconds if seconds is not None else math.nan
    weighted = total = 0.0
    for point in rates:
        at = BEGAN + point.time
        weight = max(at - before, 0.0) if math.isfinite(before) else 0.0
        weighted += weight * point.value
        total += weight
        before = at
    return weighted / total if total > 0 else sum(point.value for point in rates) / len(rates)


def same(found: object, wanted: object) -> bool:
    """Whether two values agree, to rounding; nan agrees with nan."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in found)
    if isinstance(found, float) and isinstance(wanted, float | int):
        return (math.isnan(found) and math.isnan(wanted)) or math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-6)
    return found == wanted
