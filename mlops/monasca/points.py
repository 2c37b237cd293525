"""Points as the API takes them: names, dimensions, times and values as JSON, and whose they are.

A step goes along in ``value_meta`` as ``step``.  So does the time at which a point was logged, as ``logged``
in seconds, but only where its millisecond does not tell the same order: of points that others of the
process share a millisecond with, and of those that had to move to a free one.  A training that logs a
hundred times a second pays nothing for it, and of one that logs ten thousand times every point can be
put back into its epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops import series as series_rules
from mlops.errors import SeriesError
from mlops.monasca.moments import milliseconds
from mlops.series import EARLIEST, LATEST, Mender, Series, mend_dimensions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlops.blocks import Columns

__all__ = [
    "EARLIEST",
    "FIXED",
    "LATEST",
    "LOGGED",
    "OWN_DIMENSIONS",
    "STEP",
    "Encoder",
    "body",
    "encode_one",
    "sendable",
]

OWN_DIMENSIONS: Final = ("run", "run_id", "hostname", "rank", "process")
"""What tells whose a series is: the run's name and id, the host, and which process of several."""
FIXED: Final = ("run_id", "rank", "process")

STEP: Final = "step"
LOGGED: Final = "logged"
"""What a point's ``value_meta`` may hold."""


def sendable(columns: Columns) -> NDArray[np.bool_]:
    """Which points Monasca can keep, see :func:`mlops.series.sendable`."""
    return series_rules.sendable(columns.time, columns.value)


class Encoder:
    """Writes points of one process's series as JSON.

    Args:
        own: dimensions of every series of the process, see :data:`OWN_DIMENSIONS`.  What a series has of
            its own comes before them, but for :data:`FIXED`, which tell runs and processes apart.
        say: told what is sent otherwise than it was recorded, or not at all: once for each series.
    """

    def __init__(self, own: Mapping[str, str], say: Callable[[str], object]) -> None:
        self._mender = Mender(own, {key: own[key] for key in FIXED if key in own})
        self._say = say
        self._heads: dict[Series, str] = {}
        if self._mender.why:
            say(f"{self._mender.why}; it is sent mended.")

    def takes(self, columns: Columns, series: Mapping[int, Series]) -> NDArray[np.bool_]:
        """Which points are of a series that can be sent."""
        refused = [number for number in np.unique(columns.series).tolist() if not self._head(number, series)]
        return np.isin(columns.series, refused, invert=True)

    def encode(self, columns: Columns, series: Mapping[int, Series]) -> list[str]:
        """Each point as a JSON object; all of them must be :func:`sendable`, and what the encoder takes."""
        heads = {number: self._head(number, series) for number in np.unique(columns.series).tolist()}
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

    def _head(self, number: int, series: Mapping[int, Series]) -> str:
        """How the JSON of a series' points begins; empty if it cannot be sent.

        Those that were recorded before it are mended before it, also if no point of them is sent now:
        so each comes out the same wherever sending begins.
        """
        if series[number] not in self._heads:
            for earlier in sorted(one for one in series if one <= number):
                if series[earlier] not in self._heads:
                    self._heads[series[earlier]] = self._mended(series[earlier])
        return self._heads[series[number]]

    def _mended(self, series: Series) -> str:
        try:
            good, why = self._mender.mend(series)
        except SeriesError as error:
            self._say(f"{error} Its points are in the store, and are not sent.")
            return ""
        if why:
            self._say(f"{why}; it is sent as {str(good)!r}.")
        return f'{{"name":{json.dumps(good.name)},"dimensions":{json.dumps(dict(good.dimensions))},"timestamp":'


def _out_of_order(moments: NDArray[np.int64], logged: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points' milliseconds may not tell when they were logged as seen from their neighbours.

    Neighbours that were logged at once have one time and are looked at as one.  Who the neighbours of the
    first and the last ones are is not known here.
    """
    raw = milliseconds(logged)
    starts = np.flatnonzero(np.concatenate([[True], logged[1:] != logged[:-1]]))
    close = raw[starts[1:]] == raw[starts[:-1]]
    doubtful = np.concatenate([[True], close]) | np.concatenate([close, [True]])
    told: NDArray[np.bool_] = np.repeat(doubtful, np.diff(starts, append=len(logged))) | (moments != raw)
    told &= logged != moments / 1000.0
    return told


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
