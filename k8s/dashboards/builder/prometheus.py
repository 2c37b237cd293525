"""Queries for Prometheus.

Names, units and the factor between a percentage and a ratio are :func:`mlops.series.exposed`'s.  Which host a series
comes from, Prometheus says itself: ``instance``, the address that was scraped.  A run's id is no label of its series,
but one of ``mlops_run_info``.

What a host's own agent publishes on other clouds, NVIDIA's DCGM exporter does here: it is part of the GPU operator,
which Magnum's clusters have.  It calls a GPU's UUID ``UUID`` and the node ``Hostname``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from grafana_foundation_sdk.builders.prometheus import Dataquery as PrometheusQuery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import VariableModel, VariableOption
from grafana_foundation_sdk.models.prometheus import QueryEditorMode

from k8s.dashboards.builder.roads import CUSTOM, DATASOURCE, HOST, RANK, RUN, UUID, Curve, Fold, Road, Variable
from mlops.series import exposed

__all__ = ["DCGM", "DCGM_LABELS", "INFO", "LABELS", "Prometheus"]

INFO: Final = "mlops_run_info"
"""Shown by every run, whatever it records."""

LABELS: Final[Mapping[str, str]] = {HOST.name: "instance"}
"""Dimensions that have another name here."""

DCGM: Final[Mapping[str, str]] = {
    "gpu.power_watts": "DCGM_FI_DEV_POWER_USAGE",
    "gpu.utilisation_percent": "DCGM_FI_DEV_GPU_UTIL",
    "gpu.temperature_celsius": "DCGM_FI_DEV_GPU_TEMP",
}
"""The same quantities, in the same units (per cent stay per cent), from dcgm-exporter (default-counters.csv)."""

DCGM_LABELS: Final[Mapping[str, str]] = {HOST.name: "Hostname", UUID.name: "UUID"}

_OVER_TIME: Final[Mapping[Fold, str]] = {
    "mean": "avg_over_time({}[$__rate_interval])",
    "max": "max_over_time({}[$__rate_interval])",
    "min": "min_over_time({}[$__rate_interval])",
    "last": "{}",
    "sum": "{}",
}
_OVER_SERIES: Final[Mapping[Fold, str]] = {"mean": "avg", "max": "max", "min": "min", "last": "max", "sum": "sum"}
_ALL: Final = ".*"
_EVERY_GPU: Final = "gpu.memory_used_bytes"
"""What every GPU tells, MIG instances too."""


class Prometheus(Road):
    """Prometheus, which scrapes the sink ``prometheus`` of every run."""

    name: ClassVar[str] = "prometheus"
    title: ClassVar[str] = "Prometheus"
    plugin: ClassVar[str] = "prometheus"
    finest: ClassVar[str] = "15s"
    note: ClassVar[str] = "A run is shown while it is scraped; what it sent between two scrapes is in its record."
    scope: ClassVar[tuple[Variable, ...]] = (RUN, HOST, RANK, UUID)
    nodes: ClassVar[tuple[Variable, ...]] = (HOST,)

    def unit(self, curve: Curve) -> str:
        """As the library's, but for percentages, which are ratios here."""
        return "percentunit" if curve.unit == "%" else super().unit(curve)

    def shown(self, value: float, curve: Curve) -> float:
        """Divided where Prometheus is shown a ratio."""
        return value / exposed(curve.metric).divisor

    def line_link(self, page: str) -> str:
        """Lines tell their run."""
        return (
            f"/d/{self.uid(page)}?var-{DATASOURCE}=${{{DATASOURCE}}}&var-{RUN.name}=${{__field.labels.{RUN.name}}}"
            "&${__url_time_range}"
        )

    def query(self, curve: Curve, scope: Sequence[Variable], ref: str) -> Builder[Dataquery]:
        """A query over time: folded first over a pixel, then over the series that share a line."""
        labels = DCGM_LABELS if curve.from_host else LABELS
        obeyed = [
            one for one in scope if curve.obeys(one) and not (curve.from_host and one is HOST)
        ]  # its words differ
        by = ", ".join(labels.get(key, key) for key in curve.by)
        selected = f"{_name(curve)}{_matchers(obeyed, labels)}"
        expression = f"{_OVER_SERIES[curve.fold]} by ({by}) ({_OVER_TIME[curve.fold].format(selected)})"
        if curve.from_host:
            expression += f" / {exposed(curve.metric).divisor:g}" if curve.unit == "%" else ""
        return (
            PrometheusQuery()
            .ref_id(ref)
            .datasource(self.source)
            .editor_mode(QueryEditorMode.CODE)
            .expr(expression)
            .legend_format(re.sub(r"\{(\w+)\}", lambda key: f"{{{{{labels.get(key[1], key[1])}}}}}", curve.legend))
            .range()
        )

    def variable(self, variable: Variable, scope: Sequence[Variable]) -> Builder[VariableModel]:
        """A list to choose from; what narrows it are the variables before it."""
        if variable is CUSTOM:
            prefix = _name(Curve("valid.*", "")).removesuffix(f"${{{CUSTOM.name}}}")
            loss = exposed("valid.loss").name.removeprefix(prefix)
            return self._asked(variable, f"metrics({prefix}.+)").regex(f"/^{prefix}(?!{loss}$)(.+)$/")
        carrier = exposed(_EVERY_GPU).name if variable is UUID or RUN not in scope else INFO
        before = scope[: scope.index(variable)] if variable in scope else ()
        asked = f"label_values({carrier}{_matchers(before, LABELS)}, {LABELS.get(variable.name, variable.name)})"
        made = self._asked(variable, asked)
        if variable not in scope:
            return made
        made.multi(multi=True)
        if variable is not RUN:
            made.include_all(include_all=True).all_value(_ALL)
            made.current(VariableOption(selected=True, text=["All"], value=["$__all"]))
        return made


def _name(curve: Curve) -> str:
    if curve.from_host:
        return DCGM[curve.metric]
    if curve.metric.endswith("*"):
        return exposed(f"{curve.metric[:-1]}x").name[:-1] + f"${{{CUSTOM.name}}}"
    return exposed(curve.metric).name


def _matchers(variables: Sequence[Variable], labels: Mapping[str, str]) -> str:
    inside = ", ".join(f'{labels.get(one.name, one.name)}=~"${one.name}"' for one in variables)
    return f"{{{inside}}}" if inside else ""
