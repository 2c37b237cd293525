"""Which runs a Monasca knows, and what it knows of them (see :mod:`mlops.monasca.about`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mlops.errors import RunNotFoundError
from mlops.monasca.about import RUN_METRIC, info_of
from mlops.monasca.client import Monasca
from mlops.monasca.listing import dimension_values, metric_names, query_of, series_of
from mlops.monasca.measurements import FIRST, LAST
from mlops.monasca.parsing import iso, nonsense
from mlops.series import mend_dimensions
from mlops.store import RUNNING, RunInfo

__all__ = ["find_run", "info_from", "not_there", "run_ids"]

LATEST_WORD: Final = "last"
_SECOND: Final = len("20261122-231500")
"""Letters of a run's id that tell the second in which it began."""
_SHOWN: Final = 3


def run_ids(monasca: Monasca, name: str = "") -> list[str]:
    """The ids of the runs there, or of those of one name, oldest first.

    Raises:
        CloudError: as :meth:`Monasca.get` raises it.
    """
    if not name:
        return dimension_values(monasca, "run_id", name=RUN_METRIC)
    sent = mend_dimensions({"run": name})
    found = series_of(monasca, sent, name=RUN_METRIC) if sent else []
    return sorted({dict(series.dimensions).get("run_id", "") for series in found} - {""})


def find_run(monasca: Monasca, which: str) -> str:
    """The id of the run meant by an id, the beginning of one, a name, or the word ``last``.

    Of several runs with one name the newest is meant; a name is looked for as it is sent, mended.

    Raises:
        RunNotFoundError: there is none, or the beginning fits several; the message lists the newest.
        CloudError: as :meth:`Monasca.get` raises it.
    """
    there = run_ids(monasca)
    if which == LATEST_WORD and there:
        return _newest(monasca, there)
    matching = [one for one in there if one == which] or [one for one in there if which and one.startswith(which)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        listed = ", ".join(matching[:5])
        raise RunNotFoundError(
            f"{which!r} fits {len(matching)} runs in the Monasca of {monasca.cloud.name}: {listed}",
            remedy="Give more of it.",
        )
    if named := run_ids(monasca, which) if which else []:
        return _newest(monasca, named)
    if mend_dimensions({"run_id": which}) == {"run_id": which} and metric_names(monasca, {"run_id": which}):
        return which  # its points are there, and nothing that tells of it
    raise not_there(monasca, which, there)


def info_from(monasca: Monasca, run_id: str) -> RunInfo | None:
    """What a run told of itself; ``None`` if nothing.

    Raises:
        CloudError: as :meth:`Monasca.get` raises it.
    """
    asked = {
        "name": RUN_METRIC,
        "dimensions": query_of({"run_id": run_id}),
        "start_time": iso(FIRST),
        "end_time": iso(LAST),
        "group_by": "*",
    }
    answer = monasca.get("/metrics/measurements", asked)
    try:
        metas = [
            row[element["columns"].index("value_meta")]
            for element in answer["elements"]
            for row in element["measurements"]
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise nonsense("/metrics/measurements", answer, error) from error
    told = [info for meta in metas if (info := _told(run_id, meta)) is not None]
    return max(told, key=lambda info: (info.outcome != RUNNING, info.ended or 0.0), default=None)


def _told(run_id: str, meta: Any) -> RunInfo | None:
    """What a measurement tells; others may have put anything under that name."""
    try:
        return info_of(run_id, meta or {})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _newest(monasca: Monasca, ids: Sequence[str]) -> str:
    """The run that began last: of several within one second, what they told tells the order."""
    second = max(ids)[:_SECOND]
    last = [one for one in ids if one.startswith(second)]
    if len(last) == 1:
        return last[0]

    def started(run_id: str) -> tuple[float, str]:
        info = info_from(monasca, run_id)
        return info.started if info else 0.0, run_id

    return max(last, key=started)


def not_there(monasca: Monasca, which: str, there: Sequence[str]) -> RunNotFoundError:
    """The error for a run that is not among the ids there; it names the newest of these, of its name if there are such.

    Args:
        monasca: where.
        which: what was asked for.
        there: ids, oldest first.
    """
    where = f"the Monasca of {monasca.cloud.name}"
    if not there:
        return RunNotFoundError(
            f"There are no runs in {where}",
            remedy="Send one with: mlops upload RUN. Only those of the project that the credentials are for are seen.",
        )
    name = which[_SECOND + 1 :].rpartition("-")[0] or which
    like = [one for one in there if name.lower() in one.lower()]
    newest = ", ".join((like or list(there))[-_SHOWN:])
    return RunNotFoundError(
        f"There is no run {which!r} in {where}",
        remedy=f"The newest there{' like it' if like else ''}: {newest}. What was not sent yet, mlops upload sends.",
    )
