"""Figures: loss and metrics over time with power beneath, and a metric against the energy it took.

Drawn with matplotlib's object interface: no global state, no display.  Panels share one width and
are placed by the point, so that a figure looks the same wherever it is drawn.
"""

from __future__ import annotations

import math
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from mlops.errors import MissingExtraError, ReportError
from mlops.record import Record
from mlops.report import words
from mlops.report.files import replaced
from mlops.report.panels import Drawn, Layout, Panel, energy_panels, history_panels, label_once
from mlops.report.style import INK, MUTED, rc
from mlops.report.subjects import Subject, subjects_of
from mlops.report.terminal import OUTCOME_WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NARROW", "WIDE", "figure", "quiet_style", "sheet", "write_png"]

WIDE: Final = Layout(width=720, heights=(190, 130, 110), buckets=560)
NARROW: Final = Layout(width=340, heights=(160, 120, 100), buckets=280)

_LEFT: Final = 44.0
_RIGHT: Final = 12.0
_TITLE: Final = 21.0
_ROW: Final = 13.8
_BOTTOM: Final = 34.0
_GAP: Final = 12.0
_ENTRY: Final = 40.0
_LETTER: Final = 5.4
_DPI: Final = 144
_STEPS: Final = [1, 2, 2.5, 5, 10]
_SHARES: Final = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
_KEYED: Final = "in the key"
"""What matplotlib is told is a line's label, since it leaves out labels that begin with an underscore."""


def figure(records: Record | Sequence[Record], kind: Literal["history", "energy"] = "history") -> Figure:
    """A matplotlib figure of one run, or of several in the same axes.

    Args:
        records: the runs.
        kind: ``history`` for loss, metrics and power over time, ``energy`` for the main metric
            against the energy spent.

    Raises:
        ReportError: there is nothing to draw, or no such kind of figure.
        MissingExtraError: matplotlib is not installed.
    """
    if kind not in ("history", "energy"):
        raise ReportError(f"There is no figure {kind!r}", remedy="The figures are history and energy.")
    subjects = subjects_of(records)
    panels, missing = (history_panels if kind == "history" else energy_panels)(subjects, WIDE)
    if not panels:
        raise ReportError(f"There is nothing to draw: {' '.join(missing)}")
    with quiet_style():
        return sheet(panels, WIDE)


def write_png(records: Record | Sequence[Record], path: str | os.PathLike[str]) -> None:
    """One picture of a run, or of several in the same axes: both figures, with a headline.

    Args:
        records: the runs.
        path: the file to write.

    Raises:
        ReportError: there are no runs or too many, or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    subjects = subjects_of(records)
    history, missing = history_panels(subjects, WIDE)
    energy, also = energy_panels(subjects, WIDE)
    sentences = list(dict.fromkeys([*missing, *(also if energy or not missing else [])]))
    head = [_headline(subjects), *(line for text in sentences for line in textwrap.wrap(text, 118))]
    panels = [*history, *energy]
    if len(subjects) > 1:
        label_once(panels)
    with quiet_style(), replaced(path) as file:
        drawn = sheet(panels, WIDE, head=head)
        drawn.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})


@contextmanager
def quiet_style() -> Iterator[None]:
    """Matplotlib with our style for a while, and without its warnings about letters that its font lacks.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    with style.context(["default", rc()]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def sheet(panels: Sequence[Panel], layout: Layout, *, head: Sequence[str] = ()) -> Figure:
    """The panels, one beneath the other.

    Neighbours with the same horizontal axis share it: its numbers stand beneath the last of them.

    Args:
        panels: at least one, unless there is a head.
        layout: the sizes.
        head: lines of text above them, the first one large.
    """
    from matplotlib.figure import Figure

    ends = [
        place + 1 == len(panels) or panels[place + 1].x_label != panel.x_label for place, panel in enumerate(panels)
    ]
    heads = [_key_rows(panel, layout) for panel in panels]
    top = 18.0 + 16.0 * len(head) + (10.0 if head else 0.0) if head else 4.0
    height = top + sum(
        _TITLE + (rows - 1) * _ROW + panel.height + (_BOTTOM if last else _GAP)
        for panel, last, rows in zip(panels, ends, heads, strict=True)
    )
    height += 6.0
    drawn = Figure(figsize=(layout.width / 72, height / 72), dpi=72)
    for place, text in enumerate(head):
        size = {"fontsize": 12, "fontweight": "bold", "color": INK} if place == 0 else {"color": MUTED}
        drawn.text(8 / layout.width, 1 - (22 + 17 * place) / height, text, va="baseline", **size)
    width = layout.width - _LEFT - _RIGHT
    spans = {
        label: _span([panel for panel in panels if panel.x_label == label]) for label in {p.x_label for p in panels}
    }
    shared: Axes | None = None
    for panel, last, rows in zip(panels, ends, heads, strict=True):
        top += _TITLE + (rows - 1) * _ROW
        box = (_LEFT / layout.width, 1 - (top + panel.height) / height, width / layout.width, panel.height / height)
        axes = drawn.add_axes(box, sharex=shared)
        shared = None if last else shared or axes
        _draw(axes, panel, layout, rows, labelled=last)
        axes.set_xlim(spans[panel.x_label])
        top += panel.height + (_BOTTOM if last else _GAP)
    return drawn


def _span(panels: Sequence[Panel]) -> tuple[float, float]:
    """The limits of the horizontal axis that panels share: from 0 to the last point of any, and a little more."""
    lines = [drawn.line for panel in panels for drawn in panel.drawn if len(drawn.line)]
    places = [0.0, *(float(line.time[end]) for line in lines for end in (0, -1))]
    places += [cross for panel in panels for cross in panel.crosses]
    low, high = min(places), max(places)
    room = 0.012 * ((high - low) or 1.0)
    return low - room, high + room


def _draw(axes: Axes, panel: Panel, layout: Layout, rows: int, *, labelled: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for drawn in panel.drawn:
        _plot(axes, drawn)
    for place, cross in enumerate(panel.crosses):
        label = _KEYED if place == 0 else "_"
        axes.plot([cross], [0.04], "x", color=INK, transform=axes.get_xaxis_transform(), label=label, clip_on=False)
    _scale(axes, panel)
    axes.xaxis.set_major_locator(MaxNLocator(4 if layout.width < 500 else 8, steps=_STEPS))  # noqa: PLR2004 - a phone's width
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.tick_params(axis="x", labelbottom=labelled)
    if labelled:
        axes.set_xlabel(panel.x_label, loc="right")
    _title(axes, panel, layout, rows)
    if panel.note is not None:
        _note(axes, panel.note)


def _plot(axes: Axes, drawn: Drawn) -> None:
    one = len(drawn.line) == 1
    options = {**drawn.options, "marker": drawn.options.get("marker", "o")} if one else drawn.options
    axes.plot(drawn.line.time, drawn.line.value, label=_KEYED if drawn.label else "_", **options)
    if drawn.area and not one:
        axes.fill_between(drawn.line.time, drawn.line.value, color=drawn.options["color"], alpha=0.12, linewidth=0)


def _scale(axes: Axes, panel: Panel) -> None:
    """The vertical axis: its scale, limits, ticks and their labels."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axes.margins(y=0.08)
    formatter = FuncFormatter(lambda value, _: _percent(value) if panel.percent else _tick(value))
    if panel.log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(FixedLocator(_log_ticks(low, high)))
        axes.yaxis.set_minor_locator(NullLocator())
    elif panel.stretch:
        _stretch(axes, panel)
        axes.yaxis.set_major_locator(FixedLocator(_share_ticks(*axes.get_ylim())))
    else:
        _limit(axes, panel)
        axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3, steps=_STEPS))
    axes.yaxis.set_major_formatter(formatter)
    if not panel.drawn:
        axes.set_yticks([])


def _limit(axes: Axes, panel: Panel) -> None:
    low, high = axes.get_ylim()
    if panel.from_zero:
        axes.set_ylim(0, high if high > 0 else 1)
    elif panel.share and high > 1:
        axes.set_ylim(max(low, -0.02), 1 + 0.02 * (1 - max(low, 0.0)))


def _stretch(axes: Axes, panel: Panel) -> None:
    """A vertical axis logarithmic in the distance from 1; a share of 1 itself is drawn at ``panel.stretch`` from it."""
    import numpy as np

    def forth(share: Any) -> Any:
        return -np.log10(np.maximum(1 - np.asarray(share), panel.stretch))

    def back(height: Any) -> Any:
        return 1 - 10.0 ** -np.asarray(height)

    heights = forth(np.concatenate([drawn.line.value for drawn in panel.drawn]))
    room = 0.08 * (heights.max() - heights.min())
    axes.set_yscale("function", functions=(forth, back))
    axes.set_ylim(back(heights.min() - room), min(back(heights.max() + room), 1 - panel.stretch))


def _share_ticks(low: float, high: float) -> list[float]:
    """Shares worth a line on a stretched axis: 0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99 and so on, six at most."""
    inside = [share for share in _SHARES if low <= share <= high]
    return inside[:: -max(1, math.ceil(len(inside) / 6))] if inside else [low, high]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with their doubles and fives where there are few of them; five or so."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:  # noqa: PLR2004 - fewer say little about a scale
            break
    return ticks[:: max(1, math.ceil(len(ticks) / 6))]


def _title(axes: Axes, panel: Panel, layout: Layout, rows: int) -> None:
    lift = (rows - 1) * _ROW + 6 if _key_below(panel, layout) else 6
    axes.annotate(
        panel.title,
        (0, 1),
        xycoords="axes fraction",
        xytext=(-_LEFT + 8, lift),
        textcoords="offset points",
        fontweight="bold",
        fontsize=10,
    )
    handles, _ = axes.get_legend_handles_labels()
    labels = _key_labels(panel)
    if not labels:
        return
    below = _key_below(panel, layout)
    key = axes.legend(
        handles,
        labels,
        loc="lower left" if below else "lower right",
        bbox_to_anchor=(-0.02 if below else 1.0, 1.0),
        ncols=_key_columns(panel, layout),
        handlelength=2.8,
        columnspacing=1.4,
        borderaxespad=0.1,
        borderpad=0.2,
        labelspacing=0.35,
        handletextpad=0.6,
    )
    for handle in key.legend_handles:
        if handle is not None and hasattr(handle, "set_linewidth"):
            handle.set_linewidth(1.8)


def _note(axes: Axes, note: tuple[float, float, str]) -> None:
    """A ring about the point, and its text in the corner that a course towards it leaves free."""
    x, y, text = note
    axes.plot([x], [y], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, clip_on=False)
    _, height = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
    low = height > 0.5  # noqa: PLR2004 - the middle
    axes.text(0.99, 0.05 if low else 0.95, text, transform=axes.transAxes, ha="right", va="bottom" if low else "top")


def _key_labels(panel: Panel) -> list[str]:
    return [drawn.label for drawn in panel.drawn if drawn.label] + (["not a number"] if panel.crosses else [])


def _key_below(panel: Panel, layout: Layout) -> bool:
    """Whether the key has rows of its own beneath the title; else it stands beside it."""
    labels = _key_labels(panel)
    wanted = sum(_ENTRY + _LETTER * len(label) for label in labels) + 7.5 * len(panel.title) + 20
    return bool(labels) and wanted > layout.width - _RIGHT


def _key_columns(panel: Panel, layout: Layout) -> int:
    labels = _key_labels(panel)
    if not _key_below(panel, layout):
        return max(1, len(labels))
    widest = _ENTRY + _LETTER * max(map(len, labels))
    return max(1, min(len(labels), int((layout.width - _LEFT) // widest)))


def _key_rows(panel: Panel, layout: Layout) -> int:
    """Rows of text above a panel's axes, the title's included."""
    if not _key_below(panel, layout):
        return 1
    return 1 + math.ceil(len(_key_labels(panel)) / _key_columns(panel, layout))


def _percent(value: float) -> str:
    return f"{100 * value:.6g} %"


def _tick(value: float) -> str:
    """A number on an axis: short, with a true minus."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:  # noqa: PLR2004 - beyond what fits beside an axis
        return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e−").replace("-", "−")
    return f"{value:,.6g}".replace("-", "−")


def _headline(subjects: Sequence[Subject]) -> str:
    if len(subjects) > 1:
        return f"{len(subjects)} runs side by side"
    facts = subjects[0].facts
    parts = [words.shorten(facts.name, 40), OUTCOME_WORDS.get(facts.outcome, facts.outcome)]
    if facts.seconds is not None:
        parts[-1] += f" after {words.duration(facts.seconds)}"
    if facts.best is not None:
        parts.append(
            f"best {words.shorten(facts.best.metric, 30)} {words.metric_value(facts.best.metric, facts.best.value)}"
        )
    if facts.energy.joules is not None:
        parts.append(words.energy(facts.energy.joules))
    return " · ".join(parts)
