"""A run in a few numbers and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from mlops.record import Record
from mlops.report import words
from mlops.report.energy import Energy, energy_with, lower_is_better
from mlops.report.meters import Curve, curves
from mlops.report.tables import Epochs, as_json, epochs_with
from mlops.report.view import View
from mlops.store import RUNNING

__all__ = ["Best", "Summary", "main_metric", "summary"]

_FIRST: Final = ("accuracy", "top_1_accuracy", "f1_score", "f1", "roc_auc", "error_rate", "perplexity", "rmse")
"""What a figure or a headline is about if a run has it, the first of these that it has."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of a metric, and the epoch that had it (``None`` in a run without epochs)."""

    metric: str
    value: float
    epoch: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in a few numbers; ``None`` is what is not known.

    Attributes:
        id, name, host, dimensions, parameters, versions, git_commit: as in ``run.json``.
        outcome: ``running`` or one of :data:`mlops.store.OUTCOMES`.
        reason: one sentence on why it ended so; empty when it went well.
        started: seconds since the epoch of Unix time.
        ended: likewise; of a run that ended without a word, the time of its last point.
        seconds: from start to end, or to the last point while it is running.
        epochs: how many were completed.
        points: how many are in the record.
        train_loss: mean over the last epoch.
        valid_loss: of the last epoch that has one.
        best: the best value of the main metric (see :func:`main_metric`).
        samples_per_second: median over the epochs.
        energy: see :func:`mlops.report.energy_used`.
        dropped: points that the run could not keep, and counted.
        refused: values that were no number, or came after the end.
        not_finite: points that are nan or infinite.
        missing: points that gaps in the record are known to have cost.
        gaps: what is damaged or missing in the record, a sentence each.
        remarks: see :attr:`mlops.report.Epochs.remarks`.
    """

    id: str
    name: str
    host: str
    dimensions: Mapping[str, str]
    parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    git_commit: str
    outcome: str
    reason: str
    started: float
    ended: float | None
    seconds: float | None
    epochs: int
    points: int
    train_loss: float | None
    valid_loss: float | None
    best: Best | None
    samples_per_second: float | None
    energy: Energy
    dropped: int
    refused: int
    not_finite: int
    missing: int
    gaps: tuple[str, ...]
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it; see :meth:`mlops.report.Epochs.as_json`."""
        plain: dict[str, Any] = as_json(asdict(self))
        return plain

    @property
    def complete(self) -> bool:
        """Whether every point that the run took in is in the record, as far as can be known."""
        return not (self.dropped or self.missing or self.gaps)


def summary(record: Record | View) -> Summary:
    """A run in a few numbers."""
    view = View.of(record)
    meters = curves(view)
    return summary_with(view, epochs_with(view, meters), meters)


def summary_with(view: View, table: Epochs, meters: Sequence[Curve]) -> Summary:
    """:func:`summary`, for who has the parts already."""
    info = view.record.info
    ended, seconds = _ending(view)
    rows = table.rows
    rates = [row.samples_per_second for row in rows if row.samples_per_second is not None]
    return Summary(
        id=info.id,
        name=info.name,
        host=info.host,
        dimensions=info.dimensions,
        parameters=info.parameters,
        versions=info.versions,
        git_commit=info.git_commit,
        outcome=info.outcome,
        reason=info.reason,
        started=info.started,
        ended=ended,
        seconds=seconds,
        epochs=0 if table.whole_run else len(rows),
        points=len(view.columns),
        train_loss=next((row.train_loss for row in reversed(rows) if row.train_loss is not None), None),
        valid_loss=next((row.valid_loss for row in reversed(rows) if row.valid_loss is not None), None),
        best=best_of(view, table, metric) if (metric := main_metric(table)) else None,
        samples_per_second=float(np.median(rates)) if rates else None,
        energy=energy_with(view, list(meters)),
        dropped=_counted(view, "dropped"),
        refused=_counted(view, "refused"),
        not_finite=int(np.count_nonzero(~np.isfinite(view.columns.value))),
        missing=sum(gap.points for gap in view.record.gaps),
        gaps=tuple(f"{words.clean(gap.file)}: {words.clean(gap.what)}" for gap in view.record.gaps),
        remarks=table.remarks,
    )


def main_metric(table: Epochs) -> str | None:
    """The metric that headlines and figures are about: accuracy if there is one; ``None`` if there is no metric."""
    for name in _FIRST:
        if name in table.metrics:
            return name
    return next((name for name in table.metrics if "accuracy" in name), table.metrics[0] if table.metrics else None)


def best_of(view: View, table: Epochs, metric: str) -> Best | None:
    """The best value of a metric, the first of several; ``None`` if none is a finite number."""
    better = min if lower_is_better(metric) else max
    if table.whole_run:
        line = view.line_named(f"valid.{metric}").finite()
        return Best(metric, float(better(line.value)), None) if len(line) else None
    having = [row for row in table.rows if math.isfinite(row.metrics.get(metric, math.nan))]
    if not having:
        return None
    row = better(having, key=lambda one: one.metrics[metric])
    return Best(metric, row.metrics[metric], row.epoch)


def _ending(view: View) -> tuple[float | None, float | None]:
    """When the run ended, and how long it took.

    A run that ended without a word is taken to have ended with its last point: what the file system says
    would change when the run is copied.
    """
    info = view.record.info
    span = view.times()
    last = span[1] if span else None
    if info.outcome == RUNNING:
        return None, last - info.started if last is not None else None
    ended = last if info.outcome == "killed" and last is not None else info.ended
    return ended, ended - info.started if ended is not None else None


def _counted(view: View, key: str) -> int:
    """A count that every process noted at its end; the owner's ``run.json`` has only its own."""
    in_files = sum(entry for notes in view.record.notes if isinstance(entry := notes.get(key), int))
    in_info = view.record.info.notes.get(key)
    return max(in_files, in_info if isinstance(in_info, int) else 0)
