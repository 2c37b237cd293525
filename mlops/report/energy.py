"""The energy of a run, how it was measured, and what it took to reach an accuracy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops.errors import ReportError
from mlops.record import Record
from mlops.report import words
from mlops.report.meters import Curve, curves, why_not_metered
from mlops.report.tables import Epochs, as_json, epochs_with
from mlops.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Energy", "MeterEnergy", "Reached", "Spent", "energy_to_reach", "energy_used", "lower_is_better", "spent"]

_LOWER: Final = re.compile(r"loss|error|err\b|perplexity|ppl\b|mse|mae|rmse|mape|distance|\bwer\b|\bcer\b|\bfid\b")
_MILESTONES: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999)
_SINGLE: Final = 1e-6
"""A value this close to the target (as a share of it) has reached it: frameworks compute metrics in single
precision, in which 90 right of 100 is 0.89999998."""


@dataclass(frozen=True, slots=True)
class MeterEnergy:
    """What one meter counted.

    Attributes:
        device: ``gpu`` or ``host``.
        id: the GPU's UUID or the RAPL package.
        name: of the product.
        method: how, such as ``counter``; see :data:`mlops.report.meters.METHODS`.
        joules: counted over ``seconds``.
        seconds: for how long.
        watts: mean power.
        check_joules: power readings integrated over the same time, where the hardware counted and both are there.
    """

    device: str
    id: str
    name: str
    method: str
    joules: float
    seconds: float
    watts: float | None
    check_joules: float | None

    @property
    def check_share(self) -> float | None:
        """By what share the integrated power differs from the energy counted."""
        return self.check_joules / self.joules - 1 if self.check_joules is not None and self.joules else None


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy of a run.

    Attributes:
        meters: what each meter counted, GPUs first.
        by_device: joules for each kind of device.
        joules: all of it; ``None`` where nothing was metered.
        watts: mean power of everything metered; ``None`` where nothing was.
        method: how it was measured, such as ``gpu counter, host rapl``.
        not_metered: what was not metered and why, a sentence each.
    """

    meters: tuple[MeterEnergy, ...]
    by_device: Mapping[str, float]
    joules: float | None
    watts: float | None
    method: str
    not_metered: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        plain: dict[str, Any] = as_json(asdict(self))
        return plain


@dataclass(frozen=True, slots=True)
class Spent:
    """A metric along with the time and energy spent by each of its values.

    Time and energy count from the beginning of the first epoch (from the first point of a run
    without epochs); pauses between two fits are not in them.

    Attributes:
        metric: its name without ``valid.``.
        value: finite.
        seconds: spent by then.
        joules: spent by then; nan where it was not metered.
        epoch: the epoch's number, 0 for a run without epochs.
        method: how the energy was measured.
    """

    metric: str
    value: NDArray[np.float64]
    seconds: NDArray[np.float64]
    joules: NDArray[np.float64]
    epoch: NDArray[np.int64]
    method: str

    @property
    def metered(self) -> bool:
        """Whether any energy is known."""
        return bool(np.isfinite(self.joules).any())


@dataclass(frozen=True, slots=True)
class Reached:
    """When a metric first reached a target, and what that had taken.

    Attributes:
        metric: its name without ``valid.``.
        target: what was to be reached.
        lower_is_better: whether "reached" means at most; else at least.
        reached: whether it was.
        value: at that moment; the best one where the target was not reached.
        epoch: at whose end; ``None`` for a run without epochs.
        seconds: spent training by then; of the whole training where it was not reached.
        joules: likewise; ``None`` where energy was not metered.
        method: how the energy was measured.
        why: a sentence on what is missing; empty where nothing is.
    """

    metric: str
    target: float
    lower_is_better: bool
    reached: bool
    value: float | None = None
    epoch: int | None = None
    seconds: float | None = None
    joules: float | None = None
    method: str = ""
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        plain: dict[str, Any] = as_json(asdict(self))
        return plain


def energy_used(record: Record | View) -> Energy:
    """The energy that the meters of a run counted."""
    view = View.of(record)
    return energy_with(view, curves(view))


def energy_with(view: View, found: list[Curve]) -> Energy:
    """:func:`energy_used`, for who has the curves already."""
    meters = tuple(
        MeterEnergy(
            device=curve.device,
            id=curve.id,
            name=curve.name,
            method=curve.method,
            joules=curve.total,
            seconds=curve.seconds,
            watts=curve.total / curve.seconds if curve.seconds > 0 else None,
            check_joules=curve.check,
        )
        for curve in found
    )
    by_device: dict[str, float] = {}
    methods: dict[str, list[str]] = {}
    for meter in meters:
        by_device[meter.device] = by_device.get(meter.device, 0.0) + meter.joules
        if meter.method not in methods.setdefault(meter.device, []):
            methods[meter.device].append(meter.method)
    noted = [str(reason) for reason in view.noted("not_metered") if str(reason).strip()]
    return Energy(
        meters=meters,
        by_device=by_device,
        joules=math.fsum(by_device.values()) if meters else None,
        watts=math.fsum(meter.watts or 0.0 for meter in meters) if meters else None,
        method=", ".join(f"{device} {' and '.join(names)}".strip() for device, names in methods.items()),
        not_metered=tuple(noted if meters else why_not_metered(view)),
    )


def lower_is_better(metric: str) -> bool:
    """Whether a metric is better the lower it is, judged by its name: losses, errors, perplexities."""
    return bool(_LOWER.search(metric.lower()))


def spent(view: View, table: Epochs, meters: list[Curve], metric: str) -> Spent:
    """A metric's values with the time and energy spent by each.

    Raises:
        ReportError: the run recorded no such metric.
    """
    name = metric.removeprefix("valid.")
    known = [*(["loss"] if any(row.valid_loss is not None for row in table.rows) else []), *table.metrics]
    if name not in known:
        has = f"It recorded: {', '.join(words.clean(entry) for entry in known)}." if known else "It recorded none."
        raise ReportError(f"Run {view.record.info.id} recorded no validation metric {words.clean(name)!r}", remedy=has)
    return _spent_by_points(view, meters, name) if table.whole_run else _spent_by_epochs(table, name)


def _spent_by_epochs(table: Epochs, name: str) -> Spent:
    values = [row.valid_loss if name == "loss" else row.metrics.get(name) for row in table.rows]
    value = np.array([math.nan if entry is None else entry for entry in values])
    seconds = np.cumsum([math.nan if row.seconds is None else row.seconds for row in table.rows])
    joules = np.cumsum([math.nan if row.joules is None else row.joules for row in table.rows])
    epoch = np.array([row.epoch or 0 for row in table.rows], np.int64)
    methods = dict.fromkeys(row.method for row in table.rows if row.method)
    good = np.isfinite(value)
    return Spent(name, value[good], seconds[good], joules[good], epoch[good], "; ".join(methods))


def _spent_by_points(view: View, meters: list[Curve], name: str) -> Spent:
    line = view.line_named(f"valid.{name}").finite()
    span = view.times()
    start = np.full(len(line), span[0] if span else math.nan)
    joules = np.full(len(line), math.nan)
    if meters:
        joules = np.sum([curve.between(start, line.time) for curve in meters], axis=0)
    return Spent(
        name, line.value, line.time - start, joules, np.zeros(len(line), np.int64), energy_with(view, meters).method
    )


def energy_to_reach(
    record: Record | View, metric: str, target: float, *, lower_is_better: bool | None = None
) -> Reached:
    """The time and energy spent until ``valid.<metric>`` first reached a target.

    Args:
        record: the run.
        metric: with or without ``valid.``, such as ``accuracy``.
        target: the value to be reached, such as ``0.97``.
        lower_is_better: whether to reach means to fall to it; judged by the metric's name if not given.

    Raises:
        ReportError: the run recorded no such metric, or the target is no finite number.
    """
    view = View.of(record)
    meters = curves(view)
    return reach(spent(view, epochs_with(view, meters), meters, metric), view, target, lower_is_better)


def reach(line: Spent, view: View, target: float, lower: bool | None = None) -> Reached:
    """:func:`energy_to_reach`, for who has the metric's course already."""
    if not math.isfinite(target):
        raise ReportError(f"The target {target} of {line.metric!r} is no finite number")
    falling = lower_is_better(line.metric) if lower is None else lower
    if not len(line.value):
        why = f"every value of {line.metric} is nan or infinite"
        return Reached(line.metric, target, falling, reached=False, why=why)
    slack = _SINGLE * abs(target)
    hits = np.flatnonzero(line.value <= target + slack if falling else line.value >= target - slack)
    at = int(hits[0]) if len(hits) else len(line.value) - 1
    best = float(line.value.min() if falling else line.value.max())
    joules = float(line.joules[at]) if math.isfinite(line.joules[at]) else None
    why = "" if joules is not None else words.not_metered(why_not_metered(view))
    if not len(hits):
        wanted, had = words.metric_value(line.metric, target), words.metric_value(line.metric, best)
        why = f"{line.metric} did not reach {wanted}: the best was {had}"
    return Reached(
        metric=line.metric,
        target=target,
        lower_is_better=falling,
        reached=bool(len(hits)),
        value=float(line.value[at]) if len(hits) else best,
        epoch=int(line.epoch[at]) or None,
        seconds=float(line.seconds[at]) if math.isfinite(line.seconds[at]) else None,
        joules=joules,
        method=line.method if joules is not None else "",
        why=why,
    )


def milestones(line: Spent, most: int = 5) -> list[float]:
    """Targets worth telling of a metric that is a share: the highest round ones that it reached, ascending."""
    value = line.value
    if lower_is_better(line.metric) or not len(value) or value.min() < 0 or value.max() > 1:
        return []
    best = float(value.max())
    return [target for target in _MILESTONES if target <= best + _SINGLE * target][-most:]
