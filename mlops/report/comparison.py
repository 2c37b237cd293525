"""Several runs side by side: the table that opens their page, and samples of their lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mlops.report import words
from mlops.report.cells import HEADLINES, Cell, Limits, Table, as_text
from mlops.report.energy import lower_is_better, milestones, reach
from mlops.report.style import VARIABLES, line_style
from mlops.report.subjects import Subject, differing

__all__ = ["comparison", "swatches"]

_DIFFERENCES: Final = 3
"""Columns for parameters that differ between runs, beside those that the runs are called by."""


def comparison(subjects: Sequence[Subject], limits: Limits, metric: str | None, targets: Sequence[float]) -> Table:
    """The runs in numbers, a row each; parameters that differ last, if the runs are not called by them."""
    keys = [key for key in differing(subjects) if f" {words.clean(key)}=" not in subjects[0].label]
    shown = keys[:_DIFFERENCES]
    wanted = _common_targets(subjects, metric, targets)
    metric_name = words.shorten(metric, 40).replace("_", " ") if metric else ""
    heads = [
        "Run",
        "Outcome",
        *([f"Best {metric_name}"] if metric and metric != "loss" else ["Validation loss"]),
        "Epochs",
        "Duration",
        "Energy",
        "Mean power",
        *(f"Energy to {words.metric_value(metric or '', target)}" for target in wanted),
        *(words.shorten(key, 40) for key in shown),
    ]
    rows = [_comparison_row(subject, shown, metric, wanted, limits) for subject in subjects]
    more = len(keys) - len(shown)
    note = f"{words.count(more, 'more parameter')} {'differs' if more == 1 else 'differ'}." if more > 0 else ""
    return Table("The runs in numbers", tuple(heads), tuple(rows), note)


def _comparison_row(
    subject: Subject, keys: Sequence[str], metric: str | None, targets: Sequence[float], limits: Limits
) -> tuple[Cell, ...]:
    facts = subject.facts
    course = subject.spent(metric) if metric else None
    if metric and metric != "loss":
        value = None
        if course is not None and len(course.value):
            value = float(course.value.min() if lower_is_better(metric) else course.value.max())
        result = words.metric_value(metric, value)
    else:
        result = words.number(facts.valid_loss)
    cells = [
        Cell(subject.label),
        Cell(HEADLINES.get(facts.outcome, words.shorten(facts.outcome, 40))),
        Cell(result),
        Cell(f"{facts.epochs}" if facts.epochs else "–"),
        Cell(words.duration(facts.seconds)),
        Cell(words.energy(facts.energy.joules) if facts.energy.joules is not None else "not metered"),
        Cell(words.power(facts.energy.watts)),
    ]
    for target in targets:
        found = reach(course, subject.view, target) if course is not None else None
        if found is None or not found.reached:
            cells.append(Cell("not reached"))
        else:
            cells.append(Cell(words.energy(found.joules) if found.joules is not None else "not metered"))
    letters = min(60, limits.letters)
    told = (as_text(facts.parameters[key]) if key in facts.parameters else "–" for key in keys)
    return (*cells, *(Cell(words.shorten(text, letters)) for text in told))


def _common_targets(subjects: Sequence[Subject], metric: str | None, targets: Sequence[float]) -> list[float]:
    """The targets given, else the highest round one that every run reached."""
    given = [float(target) for target in targets if math.isfinite(target)]
    if given or metric is None:
        return given[:3]
    reached = [milestones(course, 99) for subject in subjects if (course := subject.spent(metric)) is not None]
    common = set(reached[0]).intersection(*reached[1:]) if reached else set()
    return [max(common)] if common else []


def swatches(count: int) -> list[str]:
    """A sample of each run's line, as in the figures."""
    return [_swatch(place) for place in range(count)]


def _swatch(place: int) -> str:
    style = line_style(place)
    dash = (
        "" if style.dash == "solid" else f' stroke-dasharray="{" ".join(f"{1.6 * part:g}" for part in style.dash[1])}"'
    )
    hue = f"var({VARIABLES[style.hue]})"
    return (
        '<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">'
        f'<path d="M0 5H30" style="stroke: {hue}; stroke-width: 1.6; fill: none"{dash} />'
        f'<path d="{_SHAPES[style.marker]}" style="fill: {hue}" /></svg>'
    )


_SHAPES: Final = {
    "o": "M12 5a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "s": "M12 2h6v6h-6z",
    "^": "M15 1.5L18.5 8H11.5z",
    "D": "M15 1L19 5L15 9L11 5z",
    "v": "M15 8.5L18.5 2H11.5z",
    "P": "M14 1.5h2v2.5h2.5v2h-2.5v2.5h-2v-2.5h-2.5v-2h2.5z",
    "X": "M12 2.5l1.2-1.2L15 3.2l1.8-1.9L18 2.5L16.2 5L18 7.5l-1.2 1.2L15 6.8l-1.8 1.9L12 7.5L13.8 5z",
}
