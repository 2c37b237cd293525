"""Figures in words, for who cannot see them."""

from __future__ import annotations

from collections.abc import Sequence

from mlops.report import words
from mlops.report.panels import Panel

__all__ = ["described"]


def described(panels: Sequence[Panel]) -> str:
    """What the panels of a figure show: for each line where it begins and ends, its lowest and its highest value."""
    if not panels:
        return ""
    many = len(panels) > 1
    first = f"{words.count(len(panels), 'panel')}, one beneath the other, over {panels[0].x_label}. " if many else ""
    return first + " ".join(_of_panel(panel, with_axis=not many) for panel in panels)


def _of_panel(panel: Panel, *, with_axis: bool) -> str:
    axis = f" over {panel.x_label}" if with_axis else ""
    lines = []
    for drawn in panel.drawn:
        value = drawn.line.value
        if not len(value):
            continue
        show = _percent if panel.percent else words.number
        ends = f"from {show(float(value[0]))} to {show(float(value[-1]))}"
        spread = f"lowest {show(float(value.min()))}, highest {show(float(value.max()))}"
        lines.append(f"{drawn.name} {ends}, {spread}".strip())
    if panel.crosses:
        lines.append(f"values that are no finite number at {len(panel.crosses)} places or more")
    return f"{panel.title}{axis}: {'; '.join(lines)}."


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"
