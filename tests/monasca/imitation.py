"""A Monasca API in this process, with the manners and the defects of 11.0.0 that matter to who reads it back.

It is no Monasca: it checks nothing that it is sent.  That it answers as the real one does is held by
``test_imitation.py``, which asks both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final, cast
from urllib.parse import quote

from mlops.clouds import Cloud
from mlops.monasca import Monasca
from mlops.monasca.parsing import iso, moments_of

__all__ = ["Imitation", "metric"]

_MOST: Final = 10_000
Row = tuple[float, dict[str, str]]


class Imitation(Monasca):
    """Holds what is posted, and answers queries.

    Args:
        most: elements that it gives at once, whatever it is asked for.

    Attributes:
        asked: the paths and parameters of the queries so far.
        trouble: raised by the next queries, one each.
        answer: gives another answer than the right one, if it gives any.
    """

    def __init__(self, most: int = _MOST) -> None:
        super().__init__(cast("Cloud", SimpleNamespace(name="the imitated cloud")))
        self.most = most
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.trouble: list[Exception] = []
        self.answer: Callable[[str, Any], Any] = lambda _path, content: content
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, Row]] = {}

    # -- what a sink asks -------------------------------------------------------------------------

    def destination(self) -> str:
        """The same for all."""
        return "an imitated monasca"

    def post_metrics(self, body: bytes) -> None:
        """Keep them; of the same series and time the later one."""
        self.post(json.loads(body))

    def post(self, metrics: Iterable[Mapping[str, Any]]) -> None:
        """Keep them."""
        for one in metrics:
            key = (one["name"], tuple(sorted(one["dimensions"].items())))
            self._series.setdefault(key, {})[one["timestamp"]] = (one["value"], one.get("value_meta") or {})

    def forget(self, name: str) -> None:
        """Lose a metric."""
        for key in [key for key in self._series if key[0] == name]:
            del self._series[key]

    # -- what a reader asks -----------------------------------------------------------------------

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """What the API would answer."""
        asked = {key: str(text) for key, text in (params or {}).items()}
        self.asked.append((path, asked))
        if self.trouble:
            raise self.trouble.pop(0)
        content = {
            "/metrics/names": self._names,
            "/metrics/dimensions/names/values": self._values,
            "/metrics": self._metrics,
            "/metrics/measurements": self._measurements,
            "/metrics/statistics": self._statistics,
        }[path](asked)
        return self.answer(path, json.loads(json.dumps(content)))

    def _limit(self, asked: Mapping[str, str]) -> int:
        return min(int(asked.get("limit", _MOST)), self.most)

    def _matching(self, asked: Mapping[str, str]) -> dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, Row]]:
        wanted = dict(pair.partition(":")[::2] for pair in asked.get("dimensions", "").split(",") if pair)
        found = {}
        for (name, dimensions), rows in sorted(self._series.items()):
            own = dict(dimensions)
            fits = all(_fits(own.get(key, ""), text) for key, text in wanted.items())
            if fits and asked.get("name", name) == name:
                found[name, dimensions] = rows
        return found

    def _names(self, asked: Mapping[str, str]) -> Any:
        return self._listed(sorted({name for name, _ in self._matching(asked)}), "name", asked)

    def _values(self, asked: Mapping[str, str]) -> Any:
        key = asked["dimension_name"]
        metric = asked.get("metric_name")
        values = {dict(own)[key] for name, own in self._series if metric in (None, name) and key in dict(own)}
        return self._listed(sorted(values), "dimension_value", asked)

    def _listed(self, texts: list[str], key: str, asked: Mapping[str, str]) -> Any:
        if offset := asked.get("offset", "").lower():
            after = [place for place, text in enumerate(texts) if text >= offset]
            first = after[0] if after else len(texts)
            texts = texts[first + (first < len(texts) and texts[first] == offset) :]
        limit = self._limit(asked)
        links = [_NEXT] if len(texts) > limit else []
        return {"links": links, "elements": [{key: text} for text in texts[:limit]]}

    def _metrics(self, asked: Mapping[str, str]) -> Any:
        first = int(asked["offset"]) + 1 if "offset" in asked else 0
        found = list(enumerate(self._matching(asked)))[first:]
        limit = self._limit(asked)
        elements = [
            {"id": str(number), "name": name, "dimensions": {key: text.replace(" ", "\\ ") for key, text in dimensions}}
            for number, (name, dimensions) in found[:limit]
        ]
        return {"links": [_NEXT] if len(found) > limit else [], "elements": elements}

    def _measurements(self, asked: Mapping[str, str]) -> Any:
        start, end = _span(asked)
        series = self._matching(asked)
        keys = sorted({key for _, dimensions in series for key, _ in dimensions})
        room = self._limit(asked)
        links: list[dict[str, str]] = []
        elements: list[dict[str, Any]] = []
        for (name, dimensions), rows in sorted(series.items(), key=lambda item: _tags(item[0][1], keys)):
            chosen = [[iso(at), value, meta] for at, (value, meta) in sorted(rows.items()) if start <= at < end]
            if not chosen:
                continue
            elements.append(
                {
                    "name": name,
                    "id": str(len(elements)),
                    "columns": ["timestamp", "value", "value_meta"],
                    "dimensions": {key: dict(dimensions).get(key, "") for key in keys},
                    "measurements": chosen[:room],
                }
            )
            if len(chosen) >= room:
                offset = quote(f"{elements[-1]['id']}_{chosen[room - 1][0]}", safe="")
                links.append({**_NEXT, "href": f"http://here/?offset={offset}&name=encoded%2520twice"})
                break
            room -= len(chosen)
        return {"links": links, "elements": elements}

    def _statistics(self, asked: Mapping[str, str]) -> Any:
        start, end = _span(asked)
        step = 1000 * int(asked["period"])
        wanted = asked["statistics"].split(",")
        groups: dict[tuple[tuple[str, str], ...], dict[int, list[float]]] = {}
        for (_, dimensions), rows in self._matching(asked).items():
            group = groups.setdefault(() if "merge_metrics" in asked else dimensions, {})
            for at, (value, _) in rows.items():
                if start <= at < end:
                    group.setdefault(at // step * step, []).append(value)
        room = self._limit(asked)
        links: list[dict[str, str]] = []
        elements: list[dict[str, Any]] = []
        keys = sorted({key for dimensions in groups for key, _ in dimensions})
        for dimensions, periods in sorted(groups.items(), key=lambda item: _tags(item[0], keys)):
            rows_ = [
                [f"{iso(at)[:19]}Z", *(_STATISTICS[key](values) for key in wanted)]
                for at, values in sorted(periods.items())
            ]
            if not rows_:
                continue
            elements.append(
                {
                    "name": asked["name"],
                    "id": str(len(elements)),
                    "columns": ["timestamp", *wanted],
                    "dimensions": dict(dimensions),
                    "statistics": rows_[:room],
                }
            )
            if len(rows_) >= room:
                links.append(_NEXT)
                break
            room -= len(rows_)
        return {"links": links, "elements": elements}


_NEXT: Final = {"rel": "next", "href": "http://here/?offset=nowhere"}
_STATISTICS: Final[Mapping[str, Callable[[list[float]], float]]] = {
    "avg": lambda values: math.fsum(values) / len(values),
    "min": min,
    "max": max,
    "sum": math.fsum,
    "count": len,
}


def metric(
    name: str, moment: int, value: float, meta: Mapping[str, str] | None = None, /, **dimensions: str
) -> dict[str, Any]:
    """One measurement as it is posted."""
    return {
        "name": name,
        "timestamp": moment,
        "value": value,
        "dimensions": dimensions,
        **({"value_meta": dict(meta)} if meta else {}),
    }


def _fits(value: str, wanted: str) -> bool:
    """Of several values the API makes one expression, which is bound to their beginning and their end only."""
    return bool(re.search(f"^{wanted}$", value)) if "|" in wanted else value == wanted


def _tags(dimensions: Iterable[tuple[str, str]], keys: Iterable[str]) -> list[str]:
    """What InfluxDB orders a metric's series by: all values, empty ones too."""
    own = dict(dimensions)
    return [own.get(key, "") for key in keys]


def _span(asked: Mapping[str, str]) -> tuple[int, int]:
    start, end = moments_of([asked["start_time"]]), moments_of([asked["end_time"]])
    return int(start[0]), int(end[0])
