"""Builds the Grafana dashboards beside this folder: ``make dashboards``.

Two dashboards, each for two data sources.  *Training* is for whoever trains, *GPUs* for whoever is on call for the
nodes; Monasca's data source reads what the sinks ``monasca`` and ``statsd`` sent, Prometheus' what ``prometheus``
shows.  A dashboard is written once, in the library's own metric names (:mod:`training`, :mod:`gpus`); a road
(:mod:`roads`) turns each curve of it into a query of its data source, and takes names and units from
:data:`mlops.series.METRICS`, so that none is written down twice.

The JSON is committed, so that nobody needs this package to use it, and a test holds that it is what this makes.
It is a tool of development: nothing of it is in the wheel, and ``mlops`` never imports it.

Made for Grafana 10.4 with the foundation SDK of that version; later ones migrate it when they load it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, RowPanel

from k8s.dashboards.builder import gpus, training
from k8s.dashboards.builder.monasca import Monasca
from k8s.dashboards.builder.prometheus import Prometheus
from k8s.dashboards.builder.roads import Road

__all__ = ["FOLDER", "ROADS", "dashboards", "files"]

FOLDER: Final = Path(__file__).resolve().parent.parent
"""Where the JSON lies: a folder for each data source."""

ROADS: Final[tuple[type[Road], ...]] = (Monasca, Prometheus)


def dashboards() -> dict[Path, Dashboard]:
    """Every dashboard, by its file's path below :data:`FOLDER`."""
    made = {}
    for kind in ROADS:
        for page in (training, gpus):
            dashboard = page.dashboard(kind())
            _number(dashboard)
            made[Path(kind.name, f"{page.NAME}.json")] = dashboard
    return made


def files() -> dict[Path, str]:
    """What each file holds, by its path below :data:`FOLDER`; the same text each time."""
    return {
        path: json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for path, dashboard in dashboards().items()
    }


def _number(dashboard: Dashboard) -> None:
    """Number the panels, so that a link to one of them stays good; Grafana would number them anew at each load."""
    number = 0
    for panel in dashboard.panels or []:
        number += 1
        panel.id_val = number
        for inner in panel.panels if isinstance(panel, RowPanel) else []:
            number += 1
            inner.id_val = number
