"""Every measurement of a name, by the real API's own answers and by nothing of ours.

The links to a next page, of measurements grouped by series, are of no use: what they hand on is a time, which
the API (11.0.0) then applies to every series, so that earlier points of all that did not find room before are
left out.  Not grouped, but merged, points come in the order of time: that tells up to when one page reaches,
and what lies before is then asked for by series, which is known to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from tests.testbed.environments import TestbedError

__all__ = ["measurements"]

PAGE: Final = 10_000
"""Points in one answer; the API gives no more."""
_EARLY: Final = "1970-01-01T00:00:00Z"


def measurements(
    ask: Callable[..., Any], name: str, dimensions: Mapping[str, str], page: int = PAGE
) -> Iterator[tuple[dict[str, str], list[list[Any]]]]:
    """Each series with its points, one stretch of time after the other.

    Args:
        ask: gets ``/metrics/measurements`` with the query that it is given by keywords.
        name: of the metric.
        dimensions: that its series have, among others.
        page: how many points to ask for at once.

    Raises:
        TestbedError: more points than that have one and the same time; or as ``ask`` raises it.
    """
    query: dict[str, Any] = {"name": name, "limit": page, "start_time": _EARLY}
    if dimensions:
        query["dimensions"] = ",".join(f"{key}:{text}" for key, text in dimensions.items())
    while True:
        merged = ask(**query, merge_metrics="true")
        more = _has_more(merged)
        until = merged["elements"][-1]["measurements"][-1][0] if more else None
        if until == query["start_time"]:
            raise TestbedError(f"More than {page} points of {name} have the time {until}")
        grouped = ask(**query, group_by="*", **({"end_time": until} if until else {}))
        if _has_more(grouped):
            raise TestbedError(f"Points of {name} came while they were read")
        for element in grouped["elements"]:
            yield element["dimensions"], element["measurements"]
        if until is None:
            return
        query["start_time"] = until


def _has_more(answer: Any) -> bool:
    return any(link["rel"] == "next" for link in answer["links"])
