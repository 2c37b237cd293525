"""How things are shown.  A panel takes its units from what its curves measure, and never says one itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Final, Literal, TypeVar

from grafana_foundation_sdk.builders import common, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardRangeMapOptions,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    RangeMap,
    Threshold,
    ThresholdsMode,
    ValueMappingResult,
)

from k8s.dashboards.builder.roads import Curve, Road, Variable

__all__ = ["BAD", "GOOD", "PLAIN", "WARN", "Level", "Maker", "Style"]

P = TypeVar("P")

Style = Literal["lines", "points", "bars", "stacked"]
"""Lines; lines with each value marked, for one an epoch; bars or areas on each
other, whose upper edge is the sum."""

GOOD: Final = "green"
WARN: Final = "orange"
BAD: Final = "red"
PLAIN: Final = "text"
_HEIGHT: Final = 8
_MEAN: Final = "Mean"
"""What Grafana's transformation ``reduce`` calls a column of means."""


@dataclass(frozen=True, slots=True)
class Level:
    """From here on a value means something else; the panel's description says what.

    Attributes:
        value: in the library's unit.
        color: one of Grafana's names.
    """

    value: float
    color: str


class Maker:
    """Makes panels for one data source.

    Args:
        road: the data source.
        scope: the variables that every curve obeys, as far as it has their dimensions.
    """

    def __init__(self, road: Road, scope: Sequence[Variable]) -> None:
        self._road = road
        self._scope = scope

    def lines(
        self,
        title: str,
        about: str,
        *curves: Curve,
        width: int = 8,
        unit: str = "",
        levels: Sequence[Level] = (),
        style: Style = "lines",
        from_zero: bool = True,
        link: str = "",
    ) -> timeseries.Panel:
        """Values over time; curves of a second unit have an axis of their own on the right.

        Args:
            title: short.
            about: what to look for.
            curves: what to draw.
            width: of 24.
            unit: Grafana's word for it, where the library has none.
            levels: drawn as lines.
            style: see :data:`Style`.
            from_zero: the axis begins there.
            link: page that a line leads to, where lines tell their run.
        """
        panel = (
            timeseries.Panel()
            .line_width(1)
            .fill_opacity(30 if style in ("stacked", "bars") else 0)
            .show_points(VisibilityMode.ALWAYS if style == "points" else VisibilityMode.NEVER)
            .point_size(6)
            .span_nulls(span_nulls=style == "points")
            .draw_style(GraphDrawStyle.BARS if style == "bars" else GraphDrawStyle.LINE)
            .legend(
                common.VizLegendOptions()
                .show_legend(show_legend=True)
                .display_mode(LegendDisplayMode.TABLE)
                .placement(LegendPlacement.BOTTOM)
                .calcs(["lastNotNull", "min", "max"])
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
            .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        )
        if style in ("stacked", "bars"):
            panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
        if from_zero:
            panel.min(0)
        if levels:
            panel.thresholds(self._levels(levels, curves[0], GOOD))
            panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
        if link and (address := self._road.line_link(link)):
            panel.data_links([DashboardLink(f"This run's {link}").url(address)])
        for ref, curve in zip(ascii_uppercase, curves, strict=False):
            if own := self._own_style(curve, curves[0]):
                panel.override_by_query(ref, own)
        return self._finish(panel, title, about, curves, width=width, unit=unit)

    def now(
        self,
        title: str,
        about: str,
        curve: Curve,
        *,
        levels: Sequence[Level] = (),
        empty: str = "–",
        decimals: int | None = None,
    ) -> stat.Panel:
        """The last value of each line, with its course behind it."""
        panel = self._number("lastNotNull", levels, curve, empty).graph_mode(BigValueGraphMode.AREA)
        if decimals is not None:
            panel.decimals(decimals)
        return self._finish(panel, title, about, [curve], width=3, height=4)

    def total(
        self,
        title: str,
        about: str,
        curve: Curve,
        *,
        of_last: str,
        calc: str,
        below: float | None = None,
        above: float | None = None,
        levels: Sequence[Level] = (),
    ) -> stat.Panel:
        """One number for all lines together.

        Args:
            title: short.
            about: what to look for.
            curve: what there is a line for each of.
            of_last: how much of the time up to now is looked at, such as ``5m``; what sent nothing in it is not there.
            calc: ``count``, ``sum`` or ``max`` of the lines' means.
            below: only of lines whose mean is lower, in the library's unit.
            above: only of lines whose mean is higher.
            levels: of a count, they are in counts.
        """
        counts = calc == "count"
        panel = self._number(calc, levels, None if counts else curve, "0" if counts else "–")
        panel.graph_mode(BigValueGraphMode.NONE).time_from(of_last)
        panel.with_transformation(_reduced("mean"))
        for comparison, limit in (("lower", below), ("greater", above)):
            if limit is not None:
                panel.with_transformation(_only(comparison, self._road.shown(limit, curve)))
        return self._finish(panel, title, about, [curve], width=4, height=4, unit="none" if counts else "")

    def ranking(
        self, title: str, about: str, curve: Curve, *, of_last: str, levels: Sequence[Level], width: int = 12
    ) -> table.Panel:
        """A table of the lines, lowest mean first."""
        panel = (
            table.Panel()
            .time_from(of_last)
            .with_transformation(_reduced("mean", "min", "max", "lastNotNull"))
            .with_transformation(
                DataTransformerConfig("sortBy", options={"fields": {}, "sort": [{"field": _MEAN, "desc": False}]})
            )
            .thresholds(self._levels(levels, curve, PLAIN))
            .override_by_name(
                _MEAN, [DynamicConfigValue("custom.cellOptions", {"type": "color-text"}), DynamicConfigValue("min", 0)]
            )
        )
        return self._finish(panel, title, about, [curve], width=width)

    def states(
        self, title: str, about: str, curve: Curve, states: Sequence[tuple[int, int, str, str]], *, width: int = 24
    ) -> statetimeline.Panel:
        """What state each line was in, over time.

        Args:
            title: short.
            about: what to look for.
            curve: whose values tell the state.
            states: from, to, text and colour.
            width: of 24.
        """
        panel = (
            statetimeline.Panel()
            .mappings(
                [
                    RangeMap(
                        DashboardRangeMapOptions(float(low), float(high), ValueMappingResult(text, color, None, n))
                    )
                    for n, (low, high, text, color) in enumerate(states)
                ]
            )
            .merge_values(merge_values=True)
            .show_value(VisibilityMode.AUTO)
            .fill_opacity(70)
            .line_width(0)
            .legend(
                common.VizLegendOptions()
                .show_legend(show_legend=True)
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE))
            .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        )
        return self._finish(panel, title, about, [curve], width=width)

    def _number(self, calc: str, levels: Sequence[Level], curve: Curve | None, empty: str) -> stat.Panel:
        return (
            stat.Panel()
            .reduce_options(common.ReduceDataOptions().calcs([calc]).values(values=False).fields(""))
            .color_mode(BigValueColorMode.VALUE if levels else BigValueColorMode.NONE)
            .thresholds(self._levels(levels, curve, GOOD if levels else PLAIN))
            .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
            .no_value(empty)
        )

    def _levels(self, levels: Sequence[Level], curve: Curve | None, base: str) -> ThresholdsConfig:
        steps = [Threshold(value=None, color=base)]
        for level in levels:
            value = level.value if curve is None else self._road.shown(level.value, curve)
            steps.append(Threshold(value=value, color=level.color))
        return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)

    def _own_style(self, curve: Curve, first: Curve) -> list[DynamicConfigValue]:
        """What sets a curve apart from the first one of its panel."""
        own: list[DynamicConfigValue] = []
        if (unit := self._road.unit(curve)) != self._road.unit(first):
            own += [DynamicConfigValue("unit", unit), DynamicConfigValue("custom.axisPlacement", "right")]
        if curve.dashed:
            own += [
                DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                DynamicConfigValue("custom.stacking", {"mode": "none", "group": "A"}),
                DynamicConfigValue("custom.fillOpacity", 0),
            ]
        return own

    def _finish(
        self,
        panel: P,
        title: str,
        about: str,
        curves: Sequence[Curve],
        *,
        width: int,
        height: int = _HEIGHT,
        unit: str = "",
    ) -> P:
        """What all kinds of panel have; the SDK has no common type for them."""
        any_panel: Any = panel
        any_panel.title(title).description(about).span(width).height(height)
        any_panel.datasource(self._road.source).interval(self._road.finest)
        any_panel.unit(unit or self._road.unit(curves[0]))
        for ref, curve in zip(ascii_uppercase, curves, strict=False):
            any_panel.with_target(self._road.query(curve, self._scope, ref))
        return panel


def _reduced(*reducers: str) -> DataTransformerConfig:
    """A row for each line, with what becomes of its values."""
    return DataTransformerConfig(
        "reduce", options={"reducers": list(reducers), "mode": "seriesToRows", "includeTimeField": False}
    )


def _only(comparison: str, limit: float) -> DataTransformerConfig:
    """The rows whose mean is so."""
    config = {"id": comparison, "options": {"value": limit}}
    return DataTransformerConfig(
        "filterByValue",
        options={"filters": [{"fieldName": _MEAN, "config": config}], "match": "any", "type": "include"},
    )
