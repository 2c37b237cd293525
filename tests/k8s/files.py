"""The committed dashboards, as Grafana reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from k8s.dashboards.builder import FOLDER

__all__ = ["MONASCA", "NAMES", "PAGES", "PROMETHEUS", "Query", "panels", "queries", "read", "variables", "words"]

MONASCA = ("monasca/training", "monasca/gpus")
PROMETHEUS = ("prometheus/training", "prometheus/gpus")
PAGES = (*MONASCA, *PROMETHEUS)
NAMES = re.compile(r"\$\{?(\w+)")
"""Variables in a text, as Grafana writes them; ``${name.part}`` and ``${name:format}`` count as ``name``."""


@dataclass(frozen=True)
class Query:
    """A query, and the panel it is in."""

    panel: dict[str, Any]
    target: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.panel['title']} {self.target['refId']}"

    @property
    def unit(self) -> str:
        """In which its values are shown."""
        for override in self.panel["fieldConfig"]["overrides"]:
            if override["matcher"] == {"id": "byFrameRefID", "options": self.target["refId"]}:
                for entry in override["properties"]:
                    if entry["id"] == "unit":
                        return str(entry["value"])
        return str(self.panel["fieldConfig"]["defaults"]["unit"])


def read(page: str) -> dict[str, Any]:
    """A committed dashboard."""
    content: dict[str, Any] = json.loads((FOLDER / f"{page}.json").read_text("utf-8"))
    return content


def panels(page: str) -> Iterator[dict[str, Any]]:
    """The panels that show something, also those in closed rows."""
    for panel in read(page)["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries(page: str) -> list[Query]:
    """The queries of all panels."""
    return [Query(panel, target) for panel in panels(page) for target in panel["targets"]]


def variables(page: str) -> dict[str, dict[str, Any]]:
    """The variables by name."""
    return {entry["name"]: entry for entry in read(page)["templating"]["list"]}


def words(content: object) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for part in content.values():
            yield from words(part)
    elif isinstance(content, list):
        for part in content:
            yield from words(part)
