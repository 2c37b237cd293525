"""Points as the API takes them: names, dimensions, times and values as JSON, and whose they are.

A step goes along in ``value_meta`` as ``step``.  So does the time at which a point was logged, as ``logged``
in seconds, but only where its millisecond does not tell the same order: of points that others of the
process share a millisecond with, and of those that had to move to a free one.  A training that logs a
hundred times a second pays nothing for it, and of one that logs ten thousand times every point can be
put back into its epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops.monasca.moments import milliseconds
from mlops.series import Series, mend_dimensions, mend_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlops.blocks import Columns

__all__ = ["FIXED", "LOGGED", "OWN_DIMENSIONS", "STEP", "Encoder", "body", "encode_one", "sendable"]

OWN_DIMENSIONS: Final = ("run", "run_id", "hostname", "rank", "process")
"""What tells whose a series is: the run's name and id, the host, and which process of several."""
FIXED: Final = ("run_id", "process")

STEP: Final = "step"
LOGGED: Final = "logged"
"""What a point's ``value_meta`` may hold."""

EARLIEST: Final = 0.0
LATEST: Final = 9_214_646_400.0
"""2262 begins; soon after, nanoseconds since the epoch, which InfluxDB counts, are beyond an int64."""


def sendable(columns: Columns) -> NDArray[np.bool_]:
    """Which points Monasca can keep: a finite value, and a time from 1970 to the end of 2261."""
    with np.errstate(invalid="ignore"):
        timely = (columns.time >= EARLIEST) & (columns.time < LATEST)
    return np.isfinite(columns.value) & timely


class Encoder:
    """Writes points of one process's series as JSON.

    Args:
        own: dimensions of every series of the process, see :data:`OWN_DIMENSIONS`.  What a series has of
            its own comes before them, but for :data:`FIXED`, which tell runs and processes apart.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own = own
        self._fixed = {key: own[key] for key in FIXED if key in own}
        self._heads: dict[Series, str] = {}

    def encode(self, columns: Columns, series: Mapping[int, Series]) -> list[str]:
        """Each point as a JSON object; all of them must be :func:`sendable`."""
        heads = {number: self._head(series[number]) for number in np.unique(columns.series).tolist()}
        moments = milliseconds(columns.time)
        metas = [f',"value_meta":{{"{STEP}":"{step - 1}"}}' if step else "" for step in columns.step.tolist()]
        if columns.logged is not None:
            places = np.flatnonzero(_out_of_order(moments, columns.logged))
            told = zip(places.tolist(), columns.step[places].tolist(), columns.logged[places].tolist(), strict=True)
            for place, step, logged in told:
                first = f'"{STEP}":"{step - 1}",' if step else ""
                metas[place] = f',"value_meta":{{{first}"{LOGGED}":"{logged!r}"}}'
        rows = zip(columns.series.tolist(), moments.tolist(), columns.value.tolist(), metas, strict=True)
        return [f'{heads[number]}{moment},"value":{value!r}{meta}}}' for number, moment, value, meta in rows]

    def _head(self, series: Series) -> str:
        head = self._heads.get(series)
        if head is None:
            dimensions = mend_dimensions({**self._own, **dict(series.dimensions), **self._fixed})
            name = json.dumps(mend_name(series.name))
            head = f'{{"name":{name},"dimensions":{json.dumps(dict(sorted(dimensions.items())))},"timestamp":'
            self._heads[series] = head
        return head


def _out_of_order(moments: NDArray[np.int64], logged: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points' milliseconds may not tell when they were logged as seen from their neighbours.

    Who the neighbours of the first and the last one are is not known here.
    """
    raw = milliseconds(logged)
    doubtful: NDArray[np.bool_] = moments != raw
    doubtful[:1] = doubtful[-1:] = True
    close = (raw[1:] == raw[:-1]) & (logged[1:] != logged[:-1])
    doubtful[1:] |= close
    doubtful[:-1] |= close
    doubtful &= logged != moments / 1000.0
    return doubtful


def body(objects: Sequence[str]) -> bytes:
    """What to POST for these objects."""
    return f"[{','.join(objects)}]".encode()


def encode_one(name: str, dimensions: Mapping[str, str], time: float, value: float, meta: Mapping[str, str]) -> str:
    """One measurement as a JSON object, with what its value_meta says."""
    content: dict[str, Any] = {
        "name": name,
        "dimensions": dict(sorted(mend_dimensions(dimensions).items())),
        "timestamp": round(time * 1000),
        "value": value,
    }
    return json.dumps({**content, "value_meta": dict(meta)} if meta else content)
