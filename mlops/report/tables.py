"""The table per epoch, and a run in a few numbers.

An epoch is what :meth:`mlops.run.Run.end_epoch` marks: a point ``train.epoch`` whose value is the
number of epochs completed.  To an epoch belong the points that its process logged since the mark
before; a run of ten million points is sorted into its epochs by a few passes over its columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops.devices.sampler import EPOCH_ENERGY
from mlops.record import Record
from mlops.report import words
from mlops.report.epoch_energy import NO_METHOD, add_once, epoch_energy, method_of
from mlops.report.marks import MARK, Marks
from mlops.report.meters import Curve, curves, why_not_metered
from mlops.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Epoch", "Epochs", "as_json", "epochs"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch, or a whole run without epochs; ``None`` is what is not known.

    Attributes:
        epoch: its number, from 1; ``None`` for a whole run.
        process: which of several trainings in one run, from 1; ``None`` if there is only one.
        start: seconds since the epoch of Unix time.
        end: likewise.
        train_loss: ``train.epoch_loss`` if it was logged, else the mean of ``train.loss`` over the
            batches whose loss was finite; nan if none was.
        valid_loss: ``valid.loss``.
        metrics: each other ``valid.<metric>``, by the name after ``valid.``.
        seconds: ``train.epoch_seconds`` if it was logged, else from the mark before to this one.
        joules: energy over all that was metered.
        joules_by_device: the same for each kind of device, such as ``gpu``.
        watts: mean power: ``joules / seconds``.
        samples_per_second: mean of ``train.samples_per_second``, each weighted by the time it stands for.
        method: how the energy was measured, such as ``gpu counter``; empty where it was not.
        batches: how many values of ``train.loss`` belong to it.
        not_finite: how many of these were nan or infinite.
    """

    epoch: int | None
    process: int | None
    start: float | None
    end: float | None
    train_loss: float | None
    valid_loss: float | None
    metrics: Mapping[str, float]
    seconds: float | None
    joules: float | None
    joules_by_device: Mapping[str, float]
    watts: float | None
    samples_per_second: float | None
    method: str
    batches: int
    not_finite: int


@dataclass(frozen=True, slots=True)
class Epochs:
    """The table per epoch.

    Attributes:
        rows: in the order of time.
        metrics: the names of the metrics that rows have, in alphabetical order.
        whole_run: no epoch was completed, so the one row is the whole run.
        not_metered: why energy is missing, a sentence each; empty where every row has it.
        remarks: what else a reader must know, a sentence each.
    """

    rows: tuple[Epoch, ...]
    metrics: tuple[str, ...]
    whole_run: bool
    not_metered: tuple[str, ...]
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it: ``None`` for what is not known, the text ``NaN`` or ``Infinity`` for such values."""
        plain: dict[str, Any] = as_json(asdict(self))
        return plain

    def __len__(self) -> int:
        return len(self.rows)


def as_json(value: Any) -> Any:
    """Nested values as JSON can hold them; nan and infinities become the texts that ``float()`` reads."""
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def epochs(record: Record | View) -> Epochs:
    """The table per epoch of a run; one row for the whole run where it has no epochs."""
    view = View.of(record)
    return epochs_with(view, curves(view))


def epochs_with(view: View, meters: list[Curve]) -> Epochs:
    """:func:`epochs`, for who has the curves already."""
    marks = Marks(view)
    table = _Table(view, marks, meters)
    rows = table.rows() if len(marks) else _whole_run(view, meters)
    metrics = sorted({name for row in rows for name in row.metrics})
    missing = any(row.joules is None for row in rows)
    return Epochs(
        rows=tuple(rows),
        metrics=tuple(metrics),
        whole_run=not len(marks),
        not_metered=tuple(why_not_metered(view)) if missing else (),
        remarks=tuple(_remarks(view, marks, rows)),
    )


class _Table:
    """What is known of each epoch, by column."""

    def __init__(self, view: View, marks: Marks, meters: list[Curve]) -> None:
        self.view = view
        self.marks = marks
        self.ends = marks.times
        self._find_losses()
        self.seconds = self._values("train.epoch_seconds")
        previous = np.where(marks.after >= 0, view.columns.time[np.maximum(marks.after, 0)], np.nan)
        first = np.roll(marks.processes, 1) != marks.processes
        if len(first):
            first[0] = True
        previous[first] = self._first_times()[first]
        known = np.isfinite(self.seconds) & (self.seconds >= 0)
        self.seconds = np.where(known, self.seconds, self.ends - previous)
        self.starts = self.ends - self.seconds
        self.joules = epoch_energy(view, marks, self.starts, self.ends, meters)

    def _find_losses(self) -> None:
        rows = self.view.rows_named("train.loss")
        entry = self.marks.epoch_of(rows)
        rows, entry = rows[entry >= 0], entry[entry >= 0]
        value = self.view.columns.value[rows]
        good = np.isfinite(value)
        size = len(self.marks)
        self.batches = np.bincount(entry, minlength=size)
        counted = np.bincount(entry[good], minlength=size)
        sums = np.bincount(entry[good], weights=value[good], minlength=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums / counted
        self.not_finite = self.batches - counted
        explicit, present = self._found("train.epoch_loss")
        self.train_loss = np.where(present, explicit, mean)
        self.has_loss = present | (self.batches > 0)

    def _first_times(self) -> NDArray[np.float64]:
        """The time of the first training point in each epoch; nan where there is none before its mark."""
        found = np.full(len(self.marks), np.inf)
        for name in self.view.names("train."):
            if name in (MARK, EPOCH_ENERGY):
                continue
            rows = self.view.rows_named(name)
            place = np.searchsorted(rows, self.marks.after, side="right")
            inside = place < len(rows)
            inside[inside] = rows[place[inside]] < self.marks.rows[inside]
            found[inside] = np.fmin(found[inside], self.view.columns.time[rows[place[inside]]])
        found[~(found < self.ends)] = np.nan
        return found

    def _values(self, name: str) -> NDArray[np.float64]:
        value, present = self._found(name)
        return np.where(present, value, np.nan)

    def _found(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return self._of_epochs(self.view.rows_named(name))

    def _of_epochs(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The value of each epoch among these rows, and whether there is one.

        It is the last one logged in the epoch under its step or under none; else the last one that
        its process logged under its step, wherever; else the last one logged in it at all.  Steps among which there
        are some that are no epoch's, nor the next one's, count something else, such as batches, and are not heeded.
        """
        value = np.full(len(self.marks), np.nan)
        present = np.zeros(len(self.marks), np.bool_)
        if not len(rows) or not len(self.marks):
            return value, present
        step = self.view.columns.step[rows].astype(np.int64) - 1
        known = np.append(self.marks.steps, self.marks.steps.max() + 1)
        if not np.isin(step[step >= 0], known).all():
            step[:] = -1
        inside = self.marks.epoch_of(rows)
        named = self.marks.by_step(self.view.process_of(rows), step)
        named[step < 0] = -1
        fits = (inside >= 0) & ((step < 0) | (step == self.marks.steps[inside]))
        logged = self.view.columns.value[rows]
        for chosen, entry in ((inside >= 0, inside), (named >= 0, named), (fits, inside)):
            value[entry[chosen]] = logged[chosen]  # of entries named twice the last one stays
            present[entry[chosen]] = True
        return value, present

    def rows(self) -> list[Epoch]:
        marks = self.marks
        columns = self._metric_columns()
        valid_loss = columns.pop("loss", None)
        rate = self._rates()
        process = self._process_numbers()
        order = np.argsort(np.where(np.isfinite(marks.times), marks.times, np.inf), kind="stable")
        devices = sorted(self.joules)
        rows = []
        for entry in order.tolist():
            joules = {
                device: float(self.joules[device].values[entry])
                for device in devices
                if np.isfinite(self.joules[device].values[entry])
            }
            seconds = _known(self.seconds[entry])
            total = math.fsum(joules.values()) if joules else None
            rows.append(
                Epoch(
                    epoch=int(marks.numbers[entry]),
                    process=process[entry],
                    start=_known(self.starts[entry]),
                    end=_known(marks.times[entry]),
                    train_loss=float(self.train_loss[entry]) if self.has_loss[entry] else None,
                    valid_loss=float(valid_loss[0][entry]) if valid_loss and valid_loss[1][entry] else None,
                    metrics={name: float(value[entry]) for name, (value, has) in columns.items() if has[entry]},
                    seconds=seconds,
                    joules=total,
                    joules_by_device=joules,
                    watts=total / seconds if total is not None and seconds else None,
                    samples_per_second=_known(rate[entry]),
                    method=method_of({device: self.joules[device].methods for device in joules}),
                    batches=int(self.batches[entry]),
                    not_finite=int(self.not_finite[entry]),
                )
            )
        return rows

    def _metric_columns(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """Each ``valid.*`` by its name; series that differ by dimensions only are columns of their own."""
        columns = {}
        for name in self.view.names("valid."):
            for label, rows in labelled(self.view, name):
                columns[label] = self._of_epochs(rows)
        return columns

    def _rates(self) -> NDArray[np.float64]:
        rows = self.view.rows_named("train.samples_per_second")
        return _mean_rates(self.view, rows, self.marks.epoch_of(rows), self.starts)

    def _process_numbers(self) -> list[int | None]:
        """Which training each epoch belongs to, where the epochs' numbers alone do not tell."""
        if len(np.unique(self.marks.numbers)) == len(self.marks):
            return [None] * len(self.marks)
        again = np.zeros(len(self.marks), np.int64)
        again[1:] = self.marks.numbers[1:] <= self.marks.numbers[:-1]
        numbers: list[int | None] = (1 + np.cumsum(again)).tolist()
        return numbers


def labelled(view: View, name: str) -> list[tuple[str, NDArray[np.int64]]]:
    """The rows of a ``valid.*`` metric by what its column is called."""
    short = name.removeprefix("valid.")
    numbers = view.numbers(name)
    plain = [number for number in numbers if not view.series(number).dimensions]
    found = [(short, view.leading(view.rows(number))) for number in plain]
    for number in numbers:
        if number not in plain:
            inside = str(view.series(number)).removeprefix(name)
            found.append((short if len(numbers) == 1 else short + inside, view.leading(view.rows(number))))
    return found


def _mean_rates(
    view: View, rows: NDArray[np.int64], entry: NDArray[np.int64], starts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean rate of each entry; a rate stands for the time since the one before it, or since the entry's start."""
    chosen = (entry >= 0) & np.isfinite(view.columns.value[rows])
    rows, entry = rows[chosen], entry[chosen]
    value, time = view.columns.value[rows], view.columns.time[rows]
    before = np.roll(time, 1)
    first = np.ones(len(rows), np.bool_)
    first[1:] = entry[1:] != entry[:-1]
    before[first] = starts[entry[first]]
    weight = np.nan_to_num(np.maximum(time - before, 0.0), posinf=0.0)
    size = len(starts)
    total = np.bincount(entry, weights=weight, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        plain = np.bincount(entry, weights=value, minlength=size) / np.bincount(entry, minlength=size)
        weighted = np.bincount(entry, weights=value * weight, minlength=size) / total
    return np.where(total > 0, weighted, plain)


def _whole_run(view: View, meters: list[Curve]) -> list[Epoch]:
    """The one row of a run without epochs; none for a run without points."""
    span = view.times()
    if span is None:
        return []
    losses = view.columns.value[view.rows_named("train.loss")]
    good = losses[np.isfinite(losses)]
    values = {
        label: float(view.columns.value[rows[-1]])
        for name in view.names("valid.")
        for label, rows in labelled(view, name)
        if len(rows)
    }
    rates = view.rows_named("train.samples_per_second")
    joules: dict[str, float] = {}
    for curve in meters:
        joules[curve.device] = joules.get(curve.device, 0.0) + curve.total
    methods: dict[str, list[str]] = {}
    for curve in meters:
        add_once(methods.setdefault(curve.device, []), curve.method or NO_METHOD)
    seconds = span[1] - span[0]
    metered = max((curve.seconds for curve in meters), default=0.0)
    total = math.fsum(joules.values()) if joules else None
    return [
        Epoch(
            epoch=None,
            process=None,
            start=span[0],
            end=span[1],
            train_loss=(float(good.mean()) if len(good) else math.nan) if len(losses) else None,
            valid_loss=values.pop("loss", None),
            metrics=values,
            seconds=seconds,
            joules=total,
            joules_by_device=joules,
            watts=total / metered if total is not None and metered else None,
            samples_per_second=_known(_mean_rates(view, rates, np.zeros(len(rates), np.int64), np.array([span[0]]))[0]),
            method=method_of(methods),
            batches=len(losses),
            not_finite=len(losses) - len(good),
        )
    ]


def _remarks(view: View, marks: Marks, rows: list[Epoch]) -> list[str]:
    remarks = [words.clean(remark) for remark in view.noted("remarks")]
    if not len(marks):
        remarks.append("No epoch was completed; the row is the whole run." if rows else "The run recorded no points.")
        return remarks
    batches = view.rows_named("train.loss")
    last = np.zeros(len(view.record.processes), np.int64) - 1
    last[marks.processes] = marks.rows
    left = int(np.count_nonzero(batches > last[view.process_of(batches)]))
    if left:
        remarks.append(
            f"An epoch was begun and not completed: {words.count(left, 'batch', 'batches')} trained after the last "
            "completed one are in no row."
        )
    bad = sum(row.not_finite for row in rows)
    if bad:
        remarks.append(
            f"{words.count(bad, 'batch', 'batches')} had a loss that is not a finite number; "
            "the mean training loss is over the others."
        )
    return remarks


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
