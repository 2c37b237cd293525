"""What figures and pages are about: runs, each read once, with a label that tells it from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlops.errors import ReportError
from mlops.record import Record
from mlops.report import words
from mlops.report.energy import Spent, spent
from mlops.report.meters import Curve, curves
from mlops.report.overview import Summary, main_metric, summary_with
from mlops.report.tables import Epochs, epochs_with
from mlops.report.view import View

__all__ = ["MOST", "Subject", "common_metric", "differing", "subjects_of"]

MOST: Final = 24
"""Runs in one figure or page; more cannot be told apart."""

_LABEL: Final = 40


@dataclass(frozen=True, slots=True)
class Subject:
    """One run with all that is derived from it.

    Attributes:
        view: its points.
        meters: its meters' curves.
        table: its epochs.
        facts: its summary.
        label: what it is called, cleaned and short.
        start: time of its first point; 0 for a run without points.
        seconds: from there to its last point.
    """

    view: View
    meters: list[Curve]
    table: Epochs
    facts: Summary
    label: str
    start: float
    seconds: float

    def spent(self, metric: str) -> Spent | None:
        """The metric's course in time and energy; ``None`` if the run has no such metric."""
        try:
            return spent(self.view, self.table, self.meters, metric)
        except ReportError:
            return None


def subjects_of(records: Record | Sequence[Record]) -> list[Subject]:
    """The runs of a figure or page, in the order given.

    Raises:
        ReportError: there is none, or there are more than can be told apart.
    """
    chosen = [records] if isinstance(records, Record) else list(records)
    if not chosen:
        raise ReportError("There is no run to report", remedy="Name at least one; list them with: mlops runs")
    if len(chosen) > MOST:
        raise ReportError(f"{len(chosen)} runs cannot be told apart in one report", remedy=f"Name at most {MOST}.")
    return [_subject(record, label) for record, label in zip(chosen, _labels(chosen), strict=True)]


def _subject(record: Record, label: str) -> Subject:
    view = View(record)
    meters = curves(view)
    table = epochs_with(view, meters)
    start, end = view.times() or (0.0, 0.0)
    return Subject(view, meters, table, summary_with(view, table, meters), label, start, end - start)


def common_metric(subjects: Sequence[Subject]) -> str | None:
    """The main metric of the first run that has one; ``loss`` where only that was validated; else ``None``."""
    for subject in subjects:
        if (metric := main_metric(subject.table)) is not None:
            return metric
    losses = any(row.valid_loss is not None for subject in subjects for row in subject.table.rows)
    return "loss" if losses else None


def differing(subjects: Sequence[Subject]) -> list[str]:
    """The parameters that are not the same in all runs, in the order in which they were met."""
    return _differing([subject.facts.parameters for subject in subjects])


def _differing(parameters: Sequence[Any]) -> list[str]:
    keys = dict.fromkeys(key for one in parameters for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in parameters}) > 1]


def _labels(records: Sequence[Record]) -> list[str]:
    """Names where they differ; else with two parameters that differ, or with the ids' last digits."""
    names = [words.shorten(record.info.name or record.info.id, _LABEL) for record in records]
    if len(set(names)) == len(names):
        return names
    keys = _differing([record.info.parameters for record in records])[:2]
    told = [
        " ".join([name, *(f"{key}={record.info.parameters.get(key, '–')}" for key in keys)])
        for name, record in zip(names, records, strict=True)
    ]
    if len(set(told)) == len(told) and all(len(label) <= _LABEL for label in told):
        return [words.clean(label) for label in told]
    tails = [record.info.id.rpartition("-")[2][:12] for record in records]
    labels = [f"{name} {words.clean(tail)}" for name, tail in zip(names, tails, strict=True)]
    again = Counter(labels)
    return [f"{label} ({place + 1})" if again[label] > 1 else label for place, label in enumerate(labels)]
