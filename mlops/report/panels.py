"""What the panels of a figure show: lines chosen, reduced and named, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from mlops.report import words
from mlops.report.energy import Spent, lower_is_better
from mlops.report.meters import why_not_metered
from mlops.report.power import power_lines, together
from mlops.report.reduce import bucket_means, min_max
from mlops.report.style import FAINT, line_style
from mlops.report.subjects import Subject, common_metric
from mlops.report.view import Line

__all__ = ["Drawn", "Layout", "Panel", "energy_panels", "history_panels", "label_once", "nothing_metered", "title_of"]

_SMOOTH: Final = 200
"""Spans over which a training loss of many batches is averaged where no smoothed one was logged."""

_MARKED: Final = 40
_MARKED_IN_ALL: Final = 200
"""So many values of a line are marked at most, and so many of a panel."""

_METERS: Final = 4
"""Up to so many GPUs have a line each; of more the sum is drawn."""

_LOG_FROM: Final = 50.0
"""A loss that falls to this fraction is drawn on a logarithmic scale."""

_NEAR_ONE: Final = 0.1
_STRETCH_FROM: Final = 5.0
"""Shares whose distance from 1 shrinks to less than a tenth, and to this fraction, are drawn stretched."""

_SHARED: Final = 4
_UNITS: Final = (("seconds", 1.0, 180.0), ("minutes", 60.0, 3 * 3600.0), ("hours", 3600.0, 4 * 86400.0))
_LINES_PER_SHEET: Final = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes in points.

    Attributes:
        width: of the whole figure.
        heights: of the panels for loss, metrics and power.
        buckets: spans of time that a line is reduced to, with at most two points each.
    """

    width: float
    heights: tuple[float, float, float]
    buckets: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One line of a panel.

    Attributes:
        name: what it is, for who cannot see it.
        line: its points, ``time`` being whatever the panel's horizontal axis is.
        options: for matplotlib's ``Axes.plot``.
        area: whether the space beneath is tinted.
        keyed: whether the panel's key has it; a panel with one line of its own needs none.
    """

    name: str
    line: Line
    options: dict[str, Any]
    area: bool = False
    keyed: bool = True

    @property
    def label(self) -> str:
        """Its entry in the panel's key; empty if it has none."""
        return self.name if self.keyed else ""


@dataclass(slots=True)
class Panel:
    """One panel of a figure.

    Attributes:
        title: what it shows, with the unit.
        height: of its axes, in points.
        x_label: of its horizontal axis; panels that share it are drawn with one.
        drawn: its lines, the first one at the back.
        log: whether the vertical axis is logarithmic.
        from_zero: whether the vertical axis begins at 0.
        share: whether the values are shares, of which none exceeds 1.
        stretch: of shares that come close to 1, half the smallest distance from it: the vertical axis is then
            logarithmic in the distance from 1, since 98 and 99 % are as far apart as 96 and 98 %; 0 for a plain axis.
        percent: whether the vertical axis is labelled in per cent.
        note: a text beside a point.
        crosses: horizontal positions of values that are no finite number.
    """

    title: str
    height: float
    x_label: str
    drawn: list[Drawn] = field(default_factory=list)
    log: bool = False
    from_zero: bool = False
    share: bool = False
    stretch: float = 0.0
    percent: bool = False
    note: tuple[float, float, str] | None = None
    crosses: list[float] = field(default_factory=list)


def history_panels(subjects: Sequence[Subject], layout: Layout) -> tuple[list[Panel], list[str]]:
    """The panels for loss, metrics and power over time, and a sentence for each that cannot be drawn."""
    longest = max(subject.seconds for subject in subjects)
    unit, factor = next(((name, by) for name, by, most in _UNITS if longest <= most), ("days", 86400.0))
    axis = _Axis(f"{unit} since the start", factor, _buckets(layout, len(subjects)))
    panels: list[Panel] = []
    missing: list[str] = []
    if len(subjects) == 1:
        _add(panels, _one_loss(subjects[0], axis, layout))
        _add(panels, _one_metric(subjects[0], axis, layout))
    else:
        _add(panels, _losses(subjects, axis, layout))
        _add(panels, _metrics(subjects, axis, layout))
    if not panels:
        missing.append("No loss and no metric was recorded.")
    _add(panels, _power(subjects, axis, layout))
    if len(subjects) > 1:
        label_once(panels)
    missing += nothing_metered(subjects)
    return panels, missing


def label_once(panels: Sequence[Panel]) -> None:
    """Keep each run's entry in the key of the first panel that shows it."""
    seen: set[str] = set()
    for panel in panels:
        panel.drawn = [replace(drawn, keyed=drawn.keyed and drawn.name not in seen) for drawn in panel.drawn]
        seen.update(drawn.name for drawn in panel.drawn)


def energy_panels(subjects: Sequence[Subject], layout: Layout) -> tuple[list[Panel], list[str]]:
    """The panel of the main metric against the energy spent, and a sentence for each run that is not in it."""
    metric = common_metric(subjects)
    if metric is None:
        return [], ["No metric was validated, so there is none to set against energy."]
    courses = [(subject, course) for subject in subjects if (course := subject.spent(metric)) is not None]
    metered = [(subject, course) for subject, course in courses if course.metered]
    missing = nothing_metered(subjects)
    if not metered:
        return [], missing or ["No energy was metered while metrics were validated."]
    most = max(float(np.nanmax(course.joules)) for _, course in metered)
    unit, factor = next(((name, by) for name, by in (("MJ", 1e6), ("kJ", 1e3)) if most >= 2 * by), ("J", 1.0))
    share = all(bool((course.value <= 1).all() and (course.value >= 0).all()) for _, course in metered)
    panel = Panel(f"{title_of(metric)} against energy", layout.heights[0], f"{unit} spent training", share=share)
    for subject, course in metered:
        known = np.isfinite(course.joules)
        line = Line(course.joules[known] / factor, course.value[known])
        style = _marked(subjects.index(subject), len(line), len(subjects))
        panel.drawn.append(Drawn(subject.label, line, style, keyed=len(subjects) > 1))
    if len(metered) == 1:
        panel.note = _best_note(metered[0][1], factor)
    return [_as_shares(panel, metric)], missing


def nothing_metered(subjects: Sequence[Subject]) -> list[str]:
    """For each run without a meter the plain sentence why."""
    sentences = []
    for subject in subjects:
        if not subject.meters:
            whose = f"{subject.label}: energy" if len(subjects) > 1 else "Energy"
            sentences.append(words.not_metered(why_not_metered(subject.view), whose))
    return sentences


@dataclass(frozen=True, slots=True)
class _Axis:
    """The horizontal axis of a history."""

    label: str
    factor: float
    buckets: int

    def of(self, subject: Subject, line: Line) -> Line:
        return Line((line.time - subject.start) / self.factor, line.value)

    def reduced(self, subject: Subject, line: Line) -> Line:
        return self.of(subject, min_max(line.finite(), self.buckets))


def _one_loss(subject: Subject, axis: _Axis, layout: Layout) -> Panel | None:
    panel = Panel("Loss", layout.heights[0], axis.label)
    raw = subject.view.line_named("train.loss")
    smooth = subject.view.line_named("train.smooth_loss").finite()
    good = raw.finite()
    label = "training, smoothed"
    if not len(smooth) and len(good) > 2 * _SMOOTH:
        smooth, label = bucket_means(good, _SMOOTH), "training, mean"
    if len(smooth):
        panel.drawn.append(
            Drawn("training, each batch", axis.reduced(subject, raw), {"color": FAINT, "linewidth": 0.9})
        )
    else:
        smooth, label = good, "training"
    panel.drawn.append(Drawn(label, axis.reduced(subject, smooth), _plain(0)))
    valid = axis.reduced(subject, subject.view.line_named("valid.loss"))
    panel.drawn.append(Drawn("validation", valid, _marked(1, len(valid))))
    panel.drawn = [drawn for drawn in panel.drawn if len(drawn.line)]
    bad = Line(raw.time[~np.isfinite(raw.value)], np.zeros(int((~np.isfinite(raw.value)).sum())))
    if len(bad):
        panel.crosses = axis.of(subject, bucket_means(bad, 60)).time.tolist()
    return _scaled(panel) if panel.drawn or panel.crosses else None


def _one_metric(subject: Subject, axis: _Axis, layout: Layout) -> Panel | None:
    main = common_metric([subject])
    if main is None or main == "loss":
        return None
    found = {
        name: subject.view.line_named(f"valid.{name}").finite() for name in subject.table.metrics if "{" not in name
    }
    names = [main]
    if _is_share(found.get(main)):
        others = [name for name in found if name != main and _is_share(found[name])]
        names += others[: _SHARED - 1]
    panel = Panel(title_of(main) if len(names) == 1 else "Metrics", layout.heights[1], axis.label)
    panel.share = _is_share(found.get(main))
    for place, name in enumerate(names):
        line = axis.reduced(subject, found.get(name, Line(np.empty(0), np.empty(0))))
        if len(line):
            style = _marked(2 + place, len(line))
            panel.drawn.append(Drawn(words.shorten(name, 28), line, style, keyed=len(names) > 1))
    return _as_shares(panel, main) if panel.drawn else None


def _losses(subjects: Sequence[Subject], axis: _Axis, layout: Layout) -> Panel | None:
    validated = any(row.valid_loss is not None for subject in subjects for row in subject.table.rows)
    panel = Panel("Validation loss" if validated else "Training loss", layout.heights[0], axis.label)
    for place, subject in enumerate(subjects):
        line = subject.view.line_named("valid.loss" if validated else "train.smooth_loss").finite()
        if not validated and not len(line):
            line = bucket_means(subject.view.line_named("train.loss").finite(), _SMOOTH)
        if len(line):
            reduced = axis.reduced(subject, line)
            style = _marked(place, len(reduced), len(subjects)) if validated else _plain(place)
            panel.drawn.append(Drawn(subject.label, reduced, style))
    return _scaled(panel) if panel.drawn else None


def _metrics(subjects: Sequence[Subject], axis: _Axis, layout: Layout) -> Panel | None:
    metric = common_metric(subjects)
    if metric is None or metric == "loss":
        return None
    panel = Panel(title_of(metric), layout.heights[1], axis.label, share=True)
    for place, subject in enumerate(subjects):
        line = subject.view.line_named(f"valid.{metric}").finite()
        if len(line):
            panel.share = panel.share and _is_share(line)
            reduced = axis.reduced(subject, line)
            panel.drawn.append(Drawn(subject.label, reduced, _marked(place, len(reduced), len(subjects))))
    return _as_shares(panel, metric) if panel.drawn else None


def _power(subjects: Sequence[Subject], axis: _Axis, layout: Layout) -> Panel | None:
    panel = Panel("Power (W)", layout.heights[2], axis.label, from_zero=True)
    if len(subjects) == 1:
        subject = subjects[0]
        lines = power_lines(subject)
        if len(lines) > _METERS:
            kind = "GPUs" if all(label.startswith("GPU") for label, _ in lines) else "devices"
            lines = [(f"{len(lines)} {kind} together", together([line for _, line in lines]))]
        for place, (label, line) in enumerate(lines):
            options = {**_plain(place), "linewidth": 1.2}
            alone = len(lines) == 1
            keyed = not alone or label != "GPU"
            panel.drawn.append(Drawn(label, axis.reduced(subject, line), options, area=alone, keyed=keyed))
        return panel if panel.drawn else None
    for place, subject in enumerate(subjects):
        lines = power_lines(subject)
        if lines:
            total = together([line for _, line in lines])
            options = {**_plain(place), "linewidth": 1.2}
            panel.drawn.append(Drawn(subject.label, axis.reduced(subject, total), options))
    return panel if panel.drawn else None


def _best_note(course: Spent, factor: float) -> tuple[float, float, str] | None:
    known = np.flatnonzero(np.isfinite(course.joules))
    if not len(known):
        return None
    value = course.value[known]
    at = known[int(np.argmin(value) if lower_is_better(course.metric) else np.argmax(value))]
    best, joules = float(course.value[at]), float(course.joules[at])
    text = f"best: {words.metric_value(course.metric, best)} with {words.energy(joules)}"
    return joules / factor, best, text


def _scaled(panel: Panel) -> Panel:
    """On a logarithmic scale where what matters spans decades."""
    main = [drawn.line.value for drawn in panel.drawn if drawn.options.get("color") != FAINT]
    values = np.concatenate(main) if main else np.empty(0)
    if len(values) and values.min() > 0 and values.max() / values.min() >= _LOG_FROM:
        panel.log = True
        panel.title += ", logarithmic scale"
        panel.drawn = [replace(drawn, line=_positive(drawn.line)) for drawn in panel.drawn]
    return panel


def _as_shares(panel: Panel, metric: str) -> Panel:
    """Stretched towards 1 where what matters happens there."""
    if not panel.share:
        return panel
    panel.percent = "accuracy" in metric
    left = 1 - np.concatenate([drawn.line.value for drawn in panel.drawn])
    some = left[left > 0]
    if (
        len(some)
        and not lower_is_better(metric)
        and some.min() <= _NEAR_ONE
        and left.max() / some.min() >= _STRETCH_FROM
    ):
        panel.stretch = float(some.min()) / 2
        panel.title += ", axis stretched towards " + ("100 %" if panel.percent else "1")
    return panel


def _positive(line: Line) -> Line:
    above = line.value > 0
    return Line(line.time[above], line.value[above])


def _is_share(line: Line | None) -> bool:
    return line is not None and len(line) > 0 and bool((line.value >= 0).all() and (line.value <= 1).all())


def title_of(metric: str) -> str:
    """What a panel about a metric is called."""
    text = words.shorten(metric, 40).replace("_", " ")
    return "Validation loss" if metric == "loss" else text[:1].upper() + text[1:]


def _plain(place: int) -> dict[str, Any]:
    style = line_style(place)
    return {"color": style.hue, "linestyle": style.dash}


def _marked(place: int, points: int, runs: int = 1) -> dict[str, Any]:
    style = line_style(place)
    every = max(1, math.ceil(points / max(4, min(_MARKED, _MARKED_IN_ALL // runs))))
    return {**_plain(place), "marker": style.marker, "markevery": every}


def _buckets(layout: Layout, runs: int) -> int:
    return max(60, layout.buckets * _LINES_PER_SHEET // max(_LINES_PER_SHEET, runs))


def _add(panels: list[Panel], panel: Panel | None) -> None:
    if panel is not None:
        panels.append(panel)
