"""What the dashboards have in common."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink, DatasourceVariable, Row
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType, Panel

from k8s.dashboards.builder.roads import DATASOURCE, Road, Variable

__all__ = ["TAG", "add_row", "page"]

TAG = "mlops"


def page(
    road: Road,
    name: str,
    title: str,
    about: str,
    *,
    since: str,
    refresh: str,
    variables: Sequence[Variable],
    scope: Sequence[Variable],
) -> Dashboard:
    """A dashboard without panels: its name, its variables, its links to the others of the same data source."""
    made = (
        Dashboard(f"{title} ({road.title})")
        .uid(road.uid(name))
        .description(f"{about} {road.note}")
        .tags([TAG, f"{TAG}-{road.name}"])
        .time(since, "now")
        .refresh(refresh)
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            DatasourceVariable(DATASOURCE).label("Data source").description(f"Of type {road.title}.").type(road.plugin)
        )
        .link(
            DashboardLink("Other dashboards")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([f"{TAG}-{road.name}"])
            .keep_time(keep_time=True)
            .include_vars(include_vars=True)
        )
    )
    for variable in variables:
        made.with_variable(road.variable(variable, scope))
    return made


def add_row(dashboard: Dashboard, title: str, *panels: Builder[Panel], closed: bool = False) -> None:
    """A row of panels; a closed one asks for nothing until it is opened."""
    row = Row(title).collapsed(collapsed=closed)
    if closed:
        for panel in panels:
            row.with_panel(panel)
    dashboard.with_row(row)
    if not closed:
        for panel in panels:
            dashboard.with_panel(panel)
