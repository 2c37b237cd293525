"""Queries for Monasca's data source.

Written for the plugin ``monasca-datasource``, version 1.0.0 of its ``plugin.json``, 1.2.1 of its ``package.json``,
as it stands in github.com/openstack/monasca-grafana-datasource at commit 5eba5cf (``datasource.js``,
``query_ctrl.js``, ``partials/``).  Its targets are ``{metric, dimensions: [{key, value}], aggregator, period, alias,
group}``, and what it does with them decides what can be asked:

* It makes one address of a target, puts the variables into it, and asks once for each of ``{a,b}``, which is how
  Grafana writes a variable of several values.  So a filter on ``$run`` asks once for each run.
* The value ``$all``, or ``*``, of a dimension becomes ``group_by``: a line for each value.
* ``@key`` in an alias is the value of a dimension.  The filters are looked at first: a key that a filter names is
  replaced by the filter's text, whatever it is.  So nothing that tells lines apart may also be filtered here, but for
  ``run``, whose filter is always one name; and ``@run_id`` never works beside it, since ``@run`` begins it.
* ``merge_metrics`` is always asked for: series that share a line are folded, over both roads to Monasca, too.
* The query of a variable is the name of a dimension; its values are those of all metrics of the project.
* ``period`` may be a variable of Grafana's; it must come to whole seconds.

An empty filter (``hostname:``) means any value to Monasca, ``a|b`` either of two (docs/monasca-api-spec.md).

The plugin is an Angular one.  Grafana runs those up to version 10; 11 with ``angular_support_enabled = true`` in its
section ``[security]``; 12 has left Angular behind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Final

from grafana_foundation_sdk.builders.dashboard import TextBoxVariable
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableModel, VariableOption

from k8s.dashboards.builder.roads import CUSTOM, HOST, RANK, RUN, Curve, Fold, Road, Variable
from mlops.series import metric

__all__ = ["Monasca", "MonascaQuery"]

_EACH: Final = "$all"
_AGGREGATORS: Final[dict[Fold, str]] = {"mean": "avg", "max": "max", "min": "min", "last": "max", "sum": "max"}
"""Monasca has no last value; what is asked for it only grows, or hardly changes.  Its sum is over a period's points,
and has those twice that came over both roads."""

_EMPTY_MEANS: Final[dict[str, str]] = {
    HOST.name: "Empty for all of them; a|b for two. Panels with a line for each host show them all.",
}


class MonascaQuery(Dataquery, Builder[Dataquery]):
    """A target of the plugin.

    Args:
        ref: letter of the query in its panel.
        metric: name, possibly with variables.
        aggregator: ``avg``, ``min``, ``max``, ``sum`` or ``count``.
        dimensions: keys and values to filter by, or ``$all`` for a line for each value; a key may come twice.
        alias: what a line is called, with ``@key`` for a dimension's value.
        source: the data source.
    """

    def __init__(
        self,
        ref: str,
        metric: str,
        aggregator: str,
        dimensions: Sequence[tuple[str, str]],
        alias: str,
        source: DataSourceRef,
    ) -> None:
        self._content: dict[str, object] = {
            "aggregator": aggregator,
            "alias": alias,
            "datasource": source,
            "dimensions": [{"key": key, "value": value} for key, value in dimensions],
            "group": False,
            "metric": metric,
            "period": "$__interval",
            "refId": ref,
        }

    def build(self) -> Dataquery:
        """Itself."""
        return self

    def to_json(self) -> dict[str, object]:
        """As in a dashboard's JSON."""
        return self._content


class Monasca(Road):
    """Monasca's API, through the plugin ``monasca-datasource``."""

    name: ClassVar[str] = "monasca"
    title: ClassVar[str] = "Monasca"
    plugin: ClassVar[str] = "monasca-datasource"
    finest: ClassVar[str] = "30s"  # the statsd sink sends every 21 s
    note: ClassVar[str] = "Needs the Grafana plugin monasca-datasource, which Grafana 12 and later do not run."
    scope: ClassVar[tuple[Variable, ...]] = (RUN, HOST)
    nodes: ClassVar[tuple[Variable, ...]] = ()

    def query(self, curve: Curve, scope: Sequence[Variable], ref: str) -> Builder[Dataquery]:
        """A target: filters first, then what there is a line for each of."""
        filters = [
            variable.name
            for variable in scope
            if curve.obeys(variable) and (variable is not HOST or HOST.name not in curve.by)
        ]
        ranks = (RANK.name,) if curve.fold == "sum" else ()
        lines = [key for key in (*curve.by, *ranks) if key not in filters]
        legend = "".join((curve.legend, *(f" {{{key}}}" for key in ranks)))
        return MonascaQuery(
            ref,
            _name(curve),
            _AGGREGATORS[curve.fold],
            [*((key, f"${key}") for key in filters), *((key, _EACH) for key in lines)],
            re.sub(r"\{(\w+)\}", r"@\1", legend),
            self.source,
        )

    def variable(self, variable: Variable, scope: Sequence[Variable]) -> Builder[VariableModel]:
        """A list to choose from where something must be chosen, a field to write into where it may stay empty."""
        if variable is RUN:
            return self._asked(variable, variable.name).multi(multi=True)
        default = {CUSTOM.name: "accuracy"}.get(variable.name)
        if default is None and variable is not HOST:
            return self._asked(variable, variable.name)
        text = default or ""
        return (
            TextBoxVariable(variable.name)
            .label(variable.label)
            .description(f"{variable.description} {_EMPTY_MEANS.get(variable.name, '')}".strip())
            .default_value(text)
            .current(VariableOption(selected=True, text=text, value=text))
            .options([VariableOption(selected=True, text=text, value=text)])
        )


def _name(curve: Curve) -> str:
    if curve.from_host:
        return metric(curve.metric).host_name
    name = curve.metric.replace("*", f"${{{CUSTOM.name}}}")
    return f"{name}.{curve.summary}" if curve.summary else name
