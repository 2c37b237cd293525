"""What there is in a Monasca: names of metrics, series, values of a dimension.

Two defects of the API's lists are made up for here, both seen on 11.0.0: it writes the queries of its own
links encoded once too often, so that no link but its ``offset`` can be followed, and it looks for a text
offset in lower case, so that a page which begins after ``Zebra`` lacks what lies between that and ``zebra``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from mlops.errors import CloudError
from mlops.monasca.client import Monasca
from mlops.monasca.parsing import nonsense, own_dimensions
from mlops.series import Series

__all__ = ["dimension_values", "metric_names", "query_of", "series_of"]

MOST: Final = 10_000
"""Elements in one answer; the API gives no more, whatever it is asked for."""


def metric_names(monasca: Monasca, dimensions: Mapping[str, str], *, limit: int = MOST) -> list[str]:
    """The names of the metrics of which a series has these dimensions, sorted.

    Raises:
        CloudError: as :meth:`Monasca.get` raises it, or the answer is none that the API would give.
    """
    return _texts(monasca, "/metrics/names", {"dimensions": query_of(dimensions)}, "name", limit)


def dimension_values(monasca: Monasca, dimension: str, *, name: str = "", limit: int = MOST) -> list[str]:
    """The values of a dimension, sorted.

    Args:
        monasca: where.
        dimension: its key, such as ``run_id``.
        name: of the metric whose series are looked at; all metrics if empty, which takes the API longer.
        limit: elements to ask for at once.

    Raises:
        CloudError: see :func:`metric_names`.
    """
    asked = {"dimension_name": dimension, **({"metric_name": name} if name else {})}
    return _texts(monasca, "/metrics/dimensions/names/values", asked, "dimension_value", limit)


def series_of(monasca: Monasca, dimensions: Mapping[str, str], *, name: str = "", limit: int = MOST) -> list[Series]:
    """The series that have these dimensions, among others.

    Raises:
        CloudError: see :func:`metric_names`.
    """
    asked = {"dimensions": query_of(dimensions), **({"name": name} if name else {})}
    found = []
    offset = ""
    while True:
        elements, more = _page(monasca, "/metrics", {**asked, "limit": limit, **({"offset": offset} if offset else {})})
        try:
            found += [Series.of(_unescaped(one["name"]), _plain(one["dimensions"])) for one in elements]
            if not more:
                return found
            offset = str(elements[-1]["id"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise nonsense("/metrics", elements) from error


def query_of(dimensions: Mapping[str, str]) -> str:
    """Dimensions as the API's queries take them: ``run:digits,rank:0``."""
    return ",".join(f"{key}:{text}" for key, text in dimensions.items())


def _texts(monasca: Monasca, path: str, asked: Mapping[str, Any], key: str, limit: int) -> list[str]:
    found: dict[str, None] = {}
    offset = ""
    while True:
        elements, more = _page(monasca, path, {**asked, "limit": limit, **({"offset": offset} if offset else {})})
        before = len(found)
        try:
            found.update((str(one[key]), None) for one in elements)
            if not more:
                return sorted(found)
            offset = _before_capitals(str(elements[-1][key]))
        except (KeyError, IndexError, TypeError) as error:
            raise nonsense(path, elements) from error
        if len(found) == before:
            raise CloudError(
                f"GET {path} of {monasca.cloud.name} gives {before} elements and then nothing new, though it says that "
                "there are more"
            )


def _before_capitals(text: str) -> str:
    """The last text before this one that is the same in lower case.

    What the API lists from there on has been seen in part; nothing is left out.
    """
    for place, letter in enumerate(text):
        if letter != letter.lower():
            below = ord(letter) - 1
            while below and chr(below) != chr(below).lower():
                below -= 1
            return f"{text[:place]}{chr(below)}{chr(sys.maxunicode)}"
    return text


def _page(monasca: Monasca, path: str, asked: Mapping[str, Any]) -> tuple[list[Any], bool]:
    answer = monasca.get(path, asked)
    try:
        elements = answer["elements"]
        more = any(link["rel"] == "next" for link in answer.get("links", ()))
    except (KeyError, TypeError, AttributeError) as error:
        raise nonsense(path, answer) from error
    if not isinstance(elements, list):
        raise nonsense(path, answer)
    return elements, more and bool(elements)


def _plain(dimensions: Mapping[str, str]) -> dict[str, str]:
    return {_unescaped(key): _unescaped(text) for key, text in own_dimensions(dimensions).items()}


def _unescaped(text: str) -> str:
    r"""A name as it is: of series, InfluxDB lists ``a\ b`` for ``a b``, and the API passes it on (11.0.0).

    No name nor dimension may have a backslash of its own.
    """
    return text.replace("\\", "")
