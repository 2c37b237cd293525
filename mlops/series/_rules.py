"""Names, dimensions and what else makes a series: checked, or mended.

Which rules, and where each comes from, is told in :mod:`mlops.series`.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Final, NamedTuple

from mlops.errors import SeriesError

__all__ = [
    "Mended",
    "Mender",
    "Series",
    "check_dimensions",
    "check_name",
    "check_value_meta",
    "mend_dimensions",
    "mend_name",
]

MAX_LENGTH: Final = 255
"""Characters in a name, a dimension's key or its value (monasca_common.validation)."""
MAX_BYTES: Final = 2200
"""Of a series: 2500 less what else is in the persister's line: region, project, value, value_meta and time."""
MAX_META: Final = 16
MAX_META_LENGTH: Final = 2048

_BAD_IN_DIMENSION: Final = '<>={},"\\;&|'
_BAD_IN_NAME: Final = _BAD_IN_DIMENSION + "():"
_UNSEEN: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_NAME_RULE: Final = re.compile(f"[{re.escape(_BAD_IN_NAME)}\\s{_UNSEEN}]")
_HALF: Final = re.compile(r"[\ud800-\udfff]")
_KEY_RULE: Final = re.compile(f"[{re.escape(_BAD_IN_DIMENSION)}:\\s{_UNSEEN}]")
_VALUE_RULE: Final = re.compile(f"[{re.escape(_BAD_IN_DIMENSION)} {_UNSEEN}]")
_NAME_STARTS: Final[Mapping[str, str]] = {
    "_": "which the agent and InfluxDB keep for themselves",
    "#": "which makes a comment of it to InfluxDB",
}
_FIELDS: Final = ("value", "value_meta")
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: a metric's name and the dimensions that tell it from its like.

    Attributes:
        name: the metric's name, for example ``gpu.power_watts``.
        dimensions: sorted pairs; sorted because the agent takes another order for another series.
    """

    name: str
    dimensions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, dimensions: Mapping[str, str] | None = None) -> Series:
        """The series of this name and these dimensions, in canonical order."""
        return cls(name, tuple(sorted((dimensions or {}).items())))

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.dimensions)
        return f"{self.name}{{{inside}}}" if inside else self.name


def mend_name(name: object) -> str:
    """The nearest metric name that every part of Monasca takes; a good name comes back as it is.

    Raises:
        SeriesError: nothing is left of it, or it is no string.
    """
    name = _plain_name(name)
    mended = _NAME_RULE.sub("_", name.strip()).lstrip("".join(_NAME_STARTS))[:MAX_LENGTH]
    if not mended.strip("_"):
        raise SeriesError(
            f"Metric name {_show(name)} has no usable character", remedy="Give it a name like train.loss."
        )
    return mended


def check_name(name: object) -> str:
    """The name, if every part of Monasca takes it as it is.

    Raises:
        SeriesError: it does not; the message says which character and offers a mended name.
    """
    plain = _plain_name(name)
    fault = _fault_in_name(plain)
    if not fault:
        return plain
    mended = mend_name(plain)
    raise SeriesError(f"Metric name {_show(plain)} {fault}", remedy=f"Use {mended!r}.", mended=mended)


def mend_dimensions(dimensions: Mapping[str, object]) -> dict[str, str]:
    """The nearest dimensions that every part of Monasca takes; entries of which nothing is left are gone.

    Good ones come back as they are.  Keys that would be the same once mended stay apart.
    """
    return _mend_dimensions(dimensions)[0]


def check_dimensions(dimensions: Mapping[str, object], where: str = "dimensions") -> dict[str, str]:
    """The dimensions as strings, if every part of Monasca takes them.

    Numbers and booleans become their text, since Monasca takes strings only.

    Args:
        dimensions: keys and values.
        where: what the message calls them.

    Raises:
        SeriesError: one of them is refused, or they are too long together; the message says which
            character and offers mended text.
    """
    checked: dict[str, str] = {}
    for key, value in dimensions.items():
        if not isinstance(key, str):
            raise SeriesError(
                f"{where}: the key {key!r:.60} is a {type(key).__name__}", remedy="Dimension keys are strings."
            )
        plain, text = str.__str__(key), _text_of(value)
        if text is None:
            raise SeriesError(
                f"{where}: the value of {_show(plain)} is {_a(value)}",
                remedy="Dimension values are strings; write out what you mean.",
            )
        if fault := _fault_in_key(plain):
            mended = _mend_key(plain)
            raise SeriesError(
                f"{where}: the key {_show(plain)} {fault}",
                remedy=f"Use {mended!r}." if mended else "Give it another name.",
                mended=mended or None,
            )
        if fault := _fault(text, _VALUE_RULE):
            mended = _mend_value(text)
            raise SeriesError(
                f"{where}: the value {_show(text)} of {plain!r} {fault}",
                remedy=f"Use {mended!r}." if mended else "Leave the dimension out.",
                mended=mended or None,
            )
        checked[plain] = text
    if (size := _size("", checked.items())) > MAX_BYTES:
        raise SeriesError(
            f"{where}: they take {size} bytes; {MAX_BYTES} are what one series may take, its name included",
            remedy="Use fewer or shorter ones; a run's parameters= takes long texts.",
        )
    return checked


class Mended(NamedTuple):
    """A series as it can be sent.

    Attributes:
        series: that.
        why: what of it had to be changed, as words that a sentence can begin with; empty if nothing.
    """

    series: Series
    why: str


class Mender:
    """Mends series so that those which were different stay different.

    Where two come to the same, once mended or once what they have in common is added, the later one's
    name gets a mark at its end that is made of its own text: ``a b`` is ``a_b``, and ``a,b`` then is
    ``a_b-5cc8bc2d``.  So the same series, asked for in the same order, are always mended alike.

    Args:
        common: dimensions of all of them; a series' own come before these.
        fixed: dimensions that come before a series' own.
        most: bytes of UTF-8 that a series may take.

    Attributes:
        why: what of the dimensions in common had to be changed; empty if nothing.
    """

    def __init__(
        self,
        common: Mapping[str, object] | None = None,
        fixed: Mapping[str, object] | None = None,
        *,
        most: float = MAX_BYTES,
    ) -> None:
        self._common = dict(common or {})
        self._fixed = dict(fixed or {})
        self._most = most
        self.why = "; ".join(_mend_dimensions({**self._common, **self._fixed})[1])
        self._mended: dict[Series, Mended] = {}
        self._taken: dict[Series, Series] = {}

    def mend(self, series: Series) -> Mended:
        """The series as it can be sent; for one that was mended before, what it was mended to then.

        Raises:
            SeriesError: it cannot: nothing is left of its name, or it is too long.
        """
        known = self._mended.get(series)
        if known is None:
            known = self._mended[series] = self._mend(series)
            self._taken[known.series] = series
        return known

    def _mend(self, series: Series) -> Mended:
        name = mend_name(series.name)
        own = dict(series.dimensions)
        fault = _fault_in_name(series.name)
        why = [f"Metric name {_show(series.name)} {fault}"] if fault else []
        why += _mend_dimensions(own)[1]
        dimensions = mend_dimensions({**self._common, **own, **self._fixed})
        mended = Series.of(name, dimensions)
        if (other := self._taken.get(mended)) is not None:
            why.append(f"{_show(str(series))} would come to the same as {_show(str(other))}")
        if mended in self._taken:
            mended = Series(_marked(name, str(series), {one.name for one in self._taken}), mended.dimensions)
        if (size := _size(mended.name, mended.dimensions)) > self._most:
            raise SeriesError(
                f"{_show(series.name)} takes {size} bytes with its {len(dimensions)} dimensions; Monasca's persister "
                f"may die of more than {self._most}",
                remedy="Use fewer or shorter dimensions.",
            )
        return Mended(mended, "; ".join(why))


def check_value_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """What a measurement says besides its value, if every part of Monasca takes it.

    Raises:
        SeriesError: it is too much, or has a text that no part can read.
    """
    size = len(json.dumps(dict(meta)))
    if len(meta) > MAX_META or size > MAX_META_LENGTH:
        raise SeriesError(
            f"value_meta has {len(meta)} entries and {size} characters; {MAX_META} and {MAX_META_LENGTH} are allowed"
        )
    for key, text in meta.items():
        if not 0 < len(key) <= MAX_LENGTH:
            raise SeriesError(f"value_meta has a name of {len(key)} characters; 1 to {MAX_LENGTH} are allowed")
        if _HALF.search(key + text):
            raise SeriesError(f"value_meta: {_show(key)} has half a character, a lone surrogate")
    return dict(meta)


def _plain_name(name: object) -> str:
    if isinstance(name, str):
        return str.__str__(name)  # without the class that it may be of, whose repr is another
    raise SeriesError(f"A metric name must be a string, not {_a(name)}", remedy='Log {"train.loss": value}.')


def _fault_in_name(name: str) -> str:
    for start, reason in _NAME_STARTS.items():
        if name.startswith(start):
            return f"begins with {start!r}, {reason}"
    return _fault(name, _NAME_RULE)


def _fault_in_key(key: str) -> str:
    if key.startswith("_"):
        return "begins with '_', which Monasca keeps for itself"
    if _is_time(key):
        return "is reserved: a dimension of that name ends the persister"
    if key in _FIELDS:
        return "is reserved: a series with a dimension of that name is never found again"
    return _fault(key, _KEY_RULE)


def _is_time(key: str) -> bool:
    """Whether InfluxDB takes it for the time; it puts ``İ`` in lower case as ``i``, Python as ``i`` and a dot."""
    return key.lower().replace("\u0307", "") == "time"


def _fault(text: str, rule: re.Pattern[str]) -> str:
    if not text.strip():
        return "is empty"
    if len(text) > MAX_LENGTH:
        return f"has {len(text)} characters; {MAX_LENGTH} are allowed"
    if found := rule.search(text):
        return f"contains {found.group()!r} at position {found.start() + 1}"
    if text != text.strip():
        return "begins or ends with white space"
    return ""


def _mend_dimensions(dimensions: Mapping[Any, object]) -> tuple[dict[str, str], list[str]]:
    """Mended, and what was changed."""
    mended: dict[str, str] = {}
    changed: list[str] = []
    bad: list[tuple[str, str]] = []
    for key, value in dimensions.items():
        text = _text_of(value)
        good = "" if text is None else _mend_value(text)
        if not good:
            what = f"is {_a(value)}" if text is None else "is empty"
            changed.append(f"Dimension {_show(str(key))} is left out, its value {what}")
            continue
        if text != good:
            changed.append(f"Value {_show(str(text))} of {_show(str(key))} {_fault(str(text), _VALUE_RULE)}")
        if isinstance(key, str) and not _fault_in_key(key):
            mended[str.__str__(key)] = good
        else:
            bad.append((str(key), good))
    for key, text in sorted(bad):
        good = _mend_key(key)
        changed.append(f"Dimension {_show(key)} {_fault_in_key(key) or 'is no string'}")
        if good:
            mended[_marked(good, key, mended) if good in mended else good] = text
    return mended, changed


def _mend_key(key: str) -> str:
    mended = _KEY_RULE.sub("_", key.strip()).lstrip("_")[:MAX_LENGTH]
    return f"{mended}_" if _is_time(mended) or mended in _FIELDS else mended


def _mend_value(text: str) -> str:
    return _VALUE_RULE.sub("_", text.strip())[:MAX_LENGTH].strip()


def _marked(text: str, origin: str, taken: Collection[str]) -> str:
    """The text with a mark of its origin, one that is not taken."""
    for turn in itertools.count():
        mark = f"-{zlib.crc32(f'{origin}{turn or str()}'.encode('utf-8', 'surrogatepass')):08x}"
        marked = text[: MAX_LENGTH - len(mark)] + mark
        if marked not in taken:
            break
    return marked


def _size(name: str, dimensions: Iterable[tuple[str, str]]) -> int:
    """Bytes of a series' key as InfluxDB keeps it, but for what the persister adds."""
    return len(name.encode()) + sum(len(f"{key}{text}".encode()) + 2 for key, text in dimensions)


def _text_of(value: object) -> str | None:
    """A dimension's value as text; ``None`` for what is neither text nor number."""
    if getattr(value, "shape", None) == () and callable(item := getattr(value, "item", None)):
        value = item()
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return str(value) if isinstance(value, Real | Decimal) else None
    except ValueError:  # more digits than Python writes out
        return None


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}…{text[-10:]}")


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
