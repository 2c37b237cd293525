"""The last value of every series of a run, and how Prometheus is shown them.

A sink writes into a :class:`Table`; :class:`Tables` collects what stands in several of them whenever a server is
asked.  A lock is held while a batch is noted or the values are copied, and no longer.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mlops.errors import SeriesError
from mlops.series import METRICS, Exposed, Series, exposed, mend_dimensions, mend_name
from mlops.sinks._distinct import Distinct
from mlops.sinks.base import Points, RunIdentity

__all__ = ["INFO", "Table", "Tables"]

INFO: Final = "mlops_run"
"""The family that says which runs are shown; its samples are ``mlops_run_info``."""

_ABOUT_INFO: Final = "The runs that are shown here. Only this series has their ids, so that the others outlive them."
_OURS: Final = ("run", "run_id", "rank", "process")
_NOT_IN_LABELS: Final = re.compile("[^a-zA-Z0-9_]")

Labels = tuple[tuple[str, str], ...]


class _Slot:
    """Where a series' last value stands."""

    __slots__ = ("value", "what")

    def __init__(self, what: Exposed) -> None:
        self.what = what
        self.value: float | None = None


class _Family(NamedTuple):
    what: Exposed
    slots: dict[Labels, _Slot]


class Table:
    """The last value of every series of a run, of several of its processes if need be.

    Args:
        say: told what cannot be shown, or is shown under another name, with a key for each kind of trouble.
    """

    def __init__(self, say: Callable[[str, str], object]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._families: dict[str, _Family] = {}
        self._runs: set[Labels] = set()
        self._known: dict[tuple[str, str, int], _Slot | None] = {}
        counted = [exposed(name).name.removesuffix("_total") for name, metric in METRICS.items() if metric.counter]
        taken = [INFO, f"{INFO}_info", *counted, *(f"{name}_created" for name in counted)]
        self._name = Distinct(lambda name: exposed(name).name, self._renamed, taken)
        self._label = Distinct(_as_label, self._relabelled)
        for name in METRICS:
            self._name(name)
        for key in _OURS:
            self._label(key)

    def introduce(self, run: RunIdentity) -> None:
        """Say whose points there will be."""
        with self._lock:
            self._runs.add(self._labels({**_derived(run), "run_id": run.id}))

    def take(self, points: Points, source: str = "") -> int:
        """Note the last value of each series.

        Args:
            points: of one process of the run.
            source: tells that process from the run's others, whose series have the same numbers.

        Returns:
            How many of the points there is no place for.
        """
        columns = points.columns
        if not len(columns):
            return 0
        order = np.argsort(columns.series, kind="stable")
        numbers, values = columns.series[order], columns.value[order]
        starts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
        refused = 0
        news: list[tuple[_Slot, float]] = []
        for start, group in zip(starts.tolist(), np.split(values, starts[1:]), strict=True):
            slot = self._slot(points, source, int(numbers[start]))
            fit = group if slot is None or slot.what.kind == "gauge" else group[group >= 0]  # nan is not >= 0
            refused += len(group) - (len(fit) if slot else 0)
            if slot and len(fit) < len(group):
                self._say(
                    "counter",
                    f"{slot.what.name} counts, and was given a value that is negative or not a number: "
                    "Prometheus would refuse everything for it. It is in the store and not shown.",
                )
            if slot and len(fit):
                news.append((slot, float(fit[-1]) / slot.what.divisor))
        with self._lock:
            for slot, value in news:
                slot.value = value
        return refused

    def shown(self) -> tuple[list[Labels], list[tuple[str, Exposed, list[tuple[Labels, float]]]]]:
        """What there is to show now: the runs' labels; each family with the labels and value of its series."""
        with self._lock:
            families = [
                (
                    name,
                    family.what,
                    [(labels, slot.value) for labels, slot in family.slots.items() if slot.value is not None],
                )
                for name, family in self._families.items()
            ]
            return sorted(self._runs), families

    def _slot(self, points: Points, source: str, number: int) -> _Slot | None:
        key = (points.run.id, source, number)
        if key not in self._known:
            series = points.series.get(number)
            if series is None:
                self._say("unnamed", "the store has points whose series' name was lost; they are not shown.")
                return None
            self._known[key] = self._admit(points.run, series)
        return self._known[key]

    def _admit(self, run: RunIdentity, series: Series) -> _Slot | None:
        """A place for a series; two that have the same name and dimensions share it."""
        try:
            name = mend_name(series.name)
        except SeriesError as error:
            self._say("name", f"{error} It is in the store and not shown.")
            return None
        labels = self._labels({**_derived(run), **run.dimensions, **dict(series.dimensions)})
        what = exposed(name)
        with self._lock:
            family = self._families.setdefault(self._name(name), _Family(what, {}))
            return family.slots.setdefault(labels, _Slot(what))

    def _labels(self, dimensions: dict[str, str]) -> Labels:
        mended = mend_dimensions(dimensions)
        return tuple(sorted((self._label(key), mended[key]) for key in sorted(mended)))

    def _renamed(self, name: str, wanted: str, given: str) -> None:
        self._say(f"name {name}", f"{name} is shown as {given}, since {wanted} is another metric's name.")

    def _relabelled(self, key: str, wanted: str, given: str) -> None:
        self._say(f"label {key}", f"the dimension {key} is shown as {given}, since {wanted} is another one's name.")


class Tables(Collector):
    """Shows what stands in several tables as one."""

    def __init__(self) -> None:
        self._tables: list[Table] = []

    def __len__(self) -> int:
        return len(self._tables)

    def add(self, table: Table) -> None:
        """Show what stands in it too."""
        self._tables = [*self._tables, table]

    def remove(self, table: Table) -> None:
        """Show it no longer."""
        self._tables = [other for other in self._tables if other is not table]

    def collect(self) -> Iterator[Metric]:
        """Every family with its samples, by name; a series that two tables have is shown once."""
        runs: dict[Labels, float] = {}
        families: dict[str, tuple[Exposed, dict[Labels, float]]] = {}
        for table in self._tables:
            there, found = table.shown()
            runs.update(dict.fromkeys(there, 1.0))
            for name, what, samples in found:
                families.setdefault(name, (what, {}))[1].update(samples)
        if runs:
            yield _metric(INFO, f"{INFO}_info", "info", "", _ABOUT_INFO, runs)
        for name, (what, values) in sorted(families.items()):
            if values:
                yield _metric(
                    name.removesuffix("_total" * (what.kind == "counter")),
                    name,
                    what.kind,
                    what.unit,
                    what.help,
                    values,
                )


def _metric(family: str, name: str, kind: str, unit: str, about: str, values: dict[Labels, float]) -> Metric:
    metric = Metric(family, about, kind, unit if family.endswith(f"_{unit}") else "")
    for labels, value in values.items():
        metric.add_sample(name, dict(labels), value)
    return metric


def _derived(run: RunIdentity) -> dict[str, str]:
    """The dimensions that tell a process's series from those of others that are scraped at the same place."""
    rank = {} if run.rank is None else {"rank": str(run.rank)}
    process = {"process": run.process} if run.process else {}
    return {"run": run.name, **rank, **process}


def _as_label(key: str) -> str:
    """A dimension's key as a label's name, of which two underscores at the beginning are Prometheus' own."""
    mended = _NOT_IN_LABELS.sub("_", key).lstrip("_") or "dimension"
    return f"_{mended}" if mended[0].isdigit() else mended
