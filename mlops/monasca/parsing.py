"""What the Monasca API answers about measurements and statistics, as numpy columns.

An answer holds up to ten thousand points; nothing here makes an object for each of them but what JSON does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np

from mlops.errors import CloudError
from mlops.monasca.points import LOGGED, STEP

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Answered",
    "Line",
    "Statistic",
    "iso",
    "measurements_of",
    "moments_of",
    "nonsense",
    "own_dimensions",
    "statistics_of",
]

_SHAPE: Final = b"0000-00-00T00:00:00.000Z"
"""How the API writes a time: always in UTC, always with three digits of a second (seen on 11.0.0)."""
_DIGITS: Final = np.array([place for place, sign in enumerate(_SHAPE) if sign == ord("0")])
_SIGNS: Final = np.array([place for place, sign in enumerate(_SHAPE) if sign != ord("0")])
_MOST_STEPS: Final = (1 << 32) - 2
_SHOWN: Final = 200

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one series, or of several that were merged, in the order of their times.

    Attributes:
        name: of the metric.
        dimensions: of the series; of merged ones those that were asked for.
        time: int64, milliseconds since the epoch.
        value: float64.
        step: uint32, 0 where none was sent, else step + 1.
        logged: float64, the time in seconds at which it was logged, nan where the millisecond is all that was sent.
    """

    name: str
    dimensions: Mapping[str, str]
    time: NDArray[np.int64]
    value: NDArray[np.float64]
    step: NDArray[np.uint32]
    logged: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time)

    def between(self, start: int, end: int) -> Line:
        """The points from ``start`` to before ``end``, in milliseconds."""
        low, high = np.searchsorted(self.time, [start, end])
        if (low, high) == (0, len(self)):
            return self
        part = slice(int(low), int(high))
        return Line(self.name, self.dimensions, self.time[part], self.value[part], self.step[part], self.logged[part])

    @staticmethod
    def join(parts: Sequence[Line]) -> Line:
        """The points of all parts, one after the other, as the first part's series."""
        if len(parts) == 1:
            return parts[0]
        return Line(
            parts[0].name,
            parts[0].dimensions,
            np.concatenate([part.time for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.step for part in parts]),
            np.concatenate([part.logged for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Statistic:
    """One series' statistics, a row a period that has points.

    Attributes:
        name, dimensions: as :class:`Line` has them.
        time: int64, when each period begins, in milliseconds since the epoch.
        columns: for each statistic (``avg``, ``min``, ``max``, ``count``, ``sum``) its values.
    """

    name: str
    dimensions: Mapping[str, str]
    time: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Answered(Generic[Content]):
    """What an answer holds.

    Attributes:
        content: its series.
        whole: whether that is all that was asked for; else the API has more than it gives at once.
    """

    content: list[Content]
    whole: bool


def measurements_of(answer: object) -> Answered[Line]:
    """What ``GET /metrics/measurements`` answered.

    Raises:
        CloudError: it is nothing that the API would answer.
    """
    try:
        return Answered([_line(element) for element in _elements(answer)], _whole(answer))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise nonsense("/metrics/measurements", answer, error) from error


def statistics_of(answer: object) -> Answered[Statistic]:
    """What ``GET /metrics/statistics`` answered.

    Raises:
        CloudError: it is nothing that the API would answer.
    """
    try:
        return Answered([_statistic(element) for element in _elements(answer)], _whole(answer))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise nonsense("/metrics/statistics", answer, error) from error


def own_dimensions(dimensions: Mapping[str, str]) -> dict[str, str]:
    """A series' dimensions without those that it lacks.

    Asked for all dimensions, InfluxDB names every one that any series of the metric has, with an empty value
    where this series has none.
    """
    return {str(key): str(text) for key, text in dimensions.items() if text}


def moments_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """Times as milliseconds since the epoch.

    Raises:
        ValueError: one of them is no time.
    """
    if not len(texts):
        return np.empty(0, np.int64)
    raw = np.array([text.encode() for text in texts])
    if raw.dtype.itemsize == len(_SHAPE):
        signs = raw.view(np.uint8).reshape(len(raw), len(_SHAPE))
        digits = signs[:, _DIGITS] - np.uint8(ord("0"))  # what is no digit is far above 9: bytes wrap around
        if (signs[:, _SIGNS] == np.frombuffer(_SHAPE, np.uint8)[_SIGNS]).all() and (digits <= 9).all():  # noqa: PLR2004
            return _counted(digits.astype(np.int64))
    return np.array([_moment(text) for text in texts], np.int64)


def iso(moment: int) -> str:
    """Milliseconds since the epoch as the API takes a time."""
    return f"{np.datetime_as_string(np.datetime64(moment, 'ms'))}Z"


def _counted(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Milliseconds since the epoch, from the 17 digits of times."""

    def number(first: int, last: int) -> NDArray[np.int64]:
        return digits[:, first:last] @ (10 ** np.arange(last - first - 1, -1, -1))

    month = number(4, 6)
    if not ((month >= 1) & (month <= 12)).all():  # noqa: PLR2004 - months of a year
        raise ValueError("a month is none")
    first_of_month = ((number(0, 4) - 1970) * 12 + month - 1).astype("datetime64[M]").astype("datetime64[D]")
    days = first_of_month.astype(np.int64) + number(6, 8) - 1
    seconds = ((days * 24 + number(8, 10)) * 60 + number(10, 12)) * 60 + number(12, 14)
    return seconds * 1000 + number(14, 17)


def _moment(text: str) -> int:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def _elements(answer: Any) -> list[dict[str, Any]]:
    elements = answer["elements"]
    if not isinstance(elements, list):
        raise TypeError("elements is no list")
    return elements


def _whole(answer: Any) -> bool:
    return all(link["rel"] != "next" for link in answer.get("links", ()))


def _line(element: dict[str, Any]) -> Line:
    columns = element["columns"]
    time, value, meta = (columns.index(key) for key in ("timestamp", "value", "value_meta"))
    rows = element["measurements"]
    metas = [row[meta] for row in rows]
    line = Line(
        str(element["name"]),
        own_dimensions(element["dimensions"]),
        moments_of([row[time] for row in rows]),
        np.array([row[value] for row in rows], np.float64),
        np.array([_step(one[STEP]) if one and STEP in one else 0 for one in metas], np.uint32),
        np.array([_seconds(one[LOGGED]) if one and LOGGED in one else np.nan for one in metas], np.float64),
    )
    if (line.time[1:] < line.time[:-1]).any():
        raise ValueError("times go back")
    return line


def _step(text: object) -> int:
    """What ``value_meta`` says of a step; others may have put anything in there."""
    number = str(text)
    return int(number) + 1 if number.isdecimal() and int(number) <= _MOST_STEPS else 0


def _seconds(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return np.nan


def _statistic(element: dict[str, Any]) -> Statistic:
    names = [str(name) for name in element["columns"]]
    rows = element["statistics"]
    columns = {
        name: np.array([row[place] for row in rows], np.float64)
        for place, name in enumerate(names)
        if name != "timestamp"
    }
    place = names.index("timestamp")
    return Statistic(
        str(element["name"]), own_dimensions(element["dimensions"]), moments_of([row[place] for row in rows]), columns
    )


def nonsense(path: str, answer: object, why: Exception | str = "") -> CloudError:
    """The error for an answer that no Monasca API gives."""
    reason = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    return CloudError(
        f"GET {path} was answered with what no Monasca API says{f' ({reason:.{_SHOWN}})' if reason else ''}: "
        f"{answer!r:.{_SHOWN}}",
        remedy="Check that the endpoint of type monitoring in the catalogue is the Monasca API's.",
    )
