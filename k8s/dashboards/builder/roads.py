"""What a dashboard asks for, and what a data source makes of it."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from grafana_foundation_sdk.builders.dashboard import QueryVariable
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableModel, VariableRefresh, VariableSort

from mlops.series import metric

__all__ = ["CUSTOM", "DATASOURCE", "HOST", "RANK", "RUN", "UUID", "Curve", "Fold", "Road", "Variable"]

Fold = Literal["mean", "max", "min", "last", "sum"]
"""What becomes of the points of one pixel, and of the series that share a line.

``sum`` is of the series alone, of each the last point; where a data source cannot add up, it draws each rank.
"""

DATASOURCE: Final = "datasource"
"""The variable that holds the data source: none is written into a dashboard."""


@dataclass(frozen=True, slots=True)
class Variable:
    """What the viewer may choose.

    Attributes:
        name: of the variable; where it filters, it is the dimension's too.
        label: for people.
        description: shown when pointed at.
    """

    name: str
    label: str
    description: str


RUN: Final = Variable("run", "Run", "Names of runs. Several lie over each other; runs of one name share a line.")
HOST: Final = Variable("hostname", "Host", "Only what this host sent.")
RANK: Final = Variable("rank", "Rank", "Only this process of a distributed training.")
UUID: Final = Variable("uuid", "GPU", "UUID of a GPU, as nvidia-smi -L prints it.")
CUSTOM: Final = Variable("valid", "Validation metric", "What the training calls it: valid.accuracy is accuracy.")
"""The validation metric, whose name is the training's choice; a curve of ``valid.*`` draws it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One query of a panel, which may draw several lines.

    Attributes:
        metric: the library's name of it; ``valid.*`` is the one that the viewer chose.
        legend: of a line, with dimensions in braces: ``{hostname} {uuid}``.
        by: the dimensions that tell one line from another; series that share a line are folded.
        fold: see :data:`Fold`.
        summary: ``mean``, ``min``, ``max`` or ``count`` of what the statsd sink sums up; Monasca only.
        from_host: not what the job's run recorded, but the same quantity from the host's own agent.
        dashed: so drawn, for what is a limit or a reference.
    """

    metric: str
    legend: str
    by: tuple[str, ...] = ("run",)
    fold: Fold = "mean"
    summary: str = ""
    from_host: bool = False
    dashed: bool = False

    @property
    def unit(self) -> str:
        """As in :data:`mlops.series.METRICS`."""
        return "" if self.summary == "count" else metric(self.metric).unit

    def obeys(self, variable: Variable) -> bool:
        """Whether its series have the dimension that this variable filters."""
        if variable is UUID:
            return self.metric.startswith("gpu.")
        return variable is HOST or (variable in (RUN, RANK) and not self.from_host)


class Road(abc.ABC):
    """A data source: its queries, its variables, its units.

    Class attributes:
        name: of its folder, and the tag of its dashboards.
        title: for people.
        plugin: the type of the data source plugin.
        finest: the least time that a pixel stands for; with less, some would have no point.
        note: what a viewer must know of it.
        scope: the variables that a training's curves obey.
        nodes: those that the curves of all nodes obey.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    plugin: ClassVar[str]
    finest: ClassVar[str]
    note: ClassVar[str]
    scope: ClassVar[tuple[Variable, ...]]
    nodes: ClassVar[tuple[Variable, ...]]
    words: ClassVar[dict[str, str]] = {
        "": "none",
        "W": "watt",
        "J": "joule",
        "By": "bytes",
        "Cel": "celsius",
        "Hz": "hertz",
        "s": "s",
        "/s": "suffix:/s",
        "%": "percent",
    }
    """Grafana's words for the library's units (``@grafana/data``, valueFormats/categories.ts)."""

    @property
    def source(self) -> DataSourceRef:
        """The data source that the viewer chose."""
        return DataSourceRef(type_val=self.plugin, uid=f"${{{DATASOURCE}}}")

    def uid(self, page: str) -> str:
        """Of one of its dashboards; links and bookmarks hold on to it."""
        return f"mlops-{page}-{self.name}"

    def unit(self, curve: Curve) -> str:
        """Grafana's word for the unit that a curve comes in."""
        return self.words[curve.unit]

    def shown(self, value: float, curve: Curve) -> float:
        """A value in the library's unit, as it comes from here."""
        return value

    def line_link(self, page: str) -> str:
        """The address of another dashboard, about the run of a line; empty where a line does not tell its run."""
        return ""

    @abc.abstractmethod
    def query(self, curve: Curve, scope: Sequence[Variable], ref: str) -> Builder[Dataquery]:
        """The query for a curve, of what the variables in scope leave over."""

    @abc.abstractmethod
    def variable(self, variable: Variable, scope: Sequence[Variable]) -> Builder[VariableModel]:
        """A variable, as this data source fills it; those in scope narrow what it offers."""

    def _asked(self, variable: Variable, query: str) -> QueryVariable:
        """A variable whose values the data source is asked for, anew when the time range changes."""
        return (
            QueryVariable(variable.name)
            .label(variable.label)
            .description(variable.description)
            .datasource(self.source)
            .query(query)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        )
