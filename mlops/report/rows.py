"""A run as one file, a row a point, bit by bit as it was recorded.

The columns, in both formats:

===========  ====================================  =========================================
column       csv                                   parquet
===========  ====================================  =========================================
time         RFC 3339 in UTC with nine digits of   timestamp[ns, UTC]
             a second: ``2026-11-22T23:26:40.123456717Z``
name         text                                  dictionary of strings
value        the shortest text that reads back as  float64
             the same number; ``nan``, ``inf``
dimensions   an object in JSON, keys sorted: the   dictionary of strings, the same JSON
             run's dimensions and the series' own
step         a whole number, or empty              uint32, or null
===========  ====================================  =========================================

Rows come process by process, each in the order in which it logged them.

Times are recorded as float64 seconds, which are a quarter of a microsecond apart in this century,
so nine digits tell them all apart: ``seconds + nanoseconds / 1e9`` gives back the very same
float64 for every time from May 1970 to April 2262; of those that do, the one of the fewest digits is
written, so that a time to the millisecond ends in six zeros.  From 1678 to May 1970 times are to the nanosecond.
A time outside of that, or one that is no number, is in csv the float64's own text, and null in parquet.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from mlops.errors import MissingExtraError, ReportError
from mlops.record import Record
from mlops.report.files import replaced

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMATS", "HEADER", "dimensions_of", "export"]

FORMATS: Final = ("csv", "parquet")
HEADER: Final = ("time", "name", "value", "dimensions", "step")

_ROWS: Final = 1 << 16
_GROUP: Final = 1 << 20
_FIRST: Final = -9_214_560_000.0
_LAST: Final = 9_223_372_036.0


def export(record: Record, target: str | os.PathLike[str] | IO[Any], format: str = "csv") -> None:  # noqa: A002 - it is what users call it
    """Write every point of a run, a row a point; the module's text says how.

    Memory stays flat: points are turned into text a block at a time.

    Args:
        record: the run.
        target: the file to write, whole or not at all; or one that is open, such as ``sys.stdout``,
            in text or binary mode, which gets the rows as they are made.
        format: ``csv`` or ``parquet``.

    Raises:
        ReportError: there is no such format, or the file cannot be written.
        MissingExtraError: pyarrow is not installed, and parquet was asked for.
        OSError: an open target refused, such as a pipe whose reader has gone.
    """
    if format not in FORMATS:
        raise ReportError(f"There is no export format {format!r}", remedy=f"The formats are: {', '.join(FORMATS)}.")
    write = _write_csv if format == "csv" else _write_parquet
    if format == "parquet":
        _pyarrow()
    if isinstance(target, str | os.PathLike):
        with replaced(target) as file:
            write(record, file)
    else:
        write(record, target)


def dimensions_of(record: Record) -> list[str]:
    """For each series of a run its dimensions along with the run's, as the text of a JSON object."""
    return [
        json.dumps({**record.info.dimensions, **dict(series.dimensions)}, ensure_ascii=False, sort_keys=True)
        for series in record.series
    ]


def _chunks(record: Record, size: int) -> Iterator[tuple[NDArray[Any], ...]]:
    columns = record.columns
    for start in range(0, len(columns), size):
        part = columns.pick(slice(start, start + size))
        yield part.time, part.value, part.series, part.step


# -- csv ----------------------------------------------------------------------------------------


def _write_csv(record: Record, target: IO[Any]) -> None:
    write = _text_writer(target)
    names = [_quoted(series.name) for series in record.series]
    dimensions = [_quoted(text) for text in dimensions_of(record)]
    write(",".join(HEADER) + "\n")
    for time, value, series, step in _chunks(record, _ROWS):
        rows = zip(_times(time), value.tolist(), series.tolist(), step.tolist(), strict=True)
        write(
            "".join(
                f"{when},{names[number]},{amount!r},{dimensions[number]},{mark - 1 if mark else ''}\n"
                for when, amount, number, mark in rows
            )
        )


def _text_writer(target: Any) -> Callable[[str], object]:
    if isinstance(target, io.TextIOBase):
        write: Callable[[str], object] = target.write
        return write
    return lambda text: target.write(text.encode("utf-8", "replace"))


def _quoted(text: str) -> str:
    """As RFC 4180 has it."""
    if any(sign in text for sign in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _times(time: NDArray[np.float64]) -> list[str]:
    nanoseconds, known = _nanoseconds(time)
    texts: list[str] = np.datetime_as_string(nanoseconds.view("datetime64[ns]"), unit="ns").tolist()
    if known.all():
        return [f"{text}Z" for text in texts]
    plain = time.tolist()
    return [
        f"{text}Z" if good else repr(plain[place]) for place, (text, good) in enumerate(zip(texts, known, strict=True))
    ]


def _nanoseconds(time: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Whole nanoseconds, and which of the times they are good for."""
    with np.errstate(invalid="ignore"):
        known = (time >= _FIRST) & (time < _LAST)
    safe = np.where(known, time, 0.0)
    whole = np.floor(safe)
    part = np.rint((safe - whole) * 1e9)
    for unit in (1e3, 1e6):  # nanoseconds in a microsecond, in a millisecond
        rounded = np.rint(part / unit) * unit
        part = np.where(whole + rounded / 1e9 == safe, rounded, part)
    return whole.astype(np.int64) * 1_000_000_000 + part.astype(np.int64), known


# -- parquet ------------------------------------------------------------------------------------


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pa, parquet


def _write_parquet(record: Record, target: IO[Any]) -> None:
    arrow, parquet = _pyarrow()
    texts = arrow.dictionary(arrow.int32(), arrow.string())
    kinds = (arrow.timestamp("ns", tz="UTC"), texts, arrow.float64(), texts, arrow.uint32())
    schema = arrow.schema(list(zip(HEADER, kinds, strict=True)))
    name_of, names = _dictionary([series.name for series in record.series])
    dimension_of, dimensions = _dictionary(dimensions_of(record))
    with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for time, value, series, step in _chunks(record, _GROUP):
            nanoseconds, known = _nanoseconds(time)
            columns = [
                arrow.array(nanoseconds, mask=~known).cast(kinds[0]),
                arrow.DictionaryArray.from_arrays(name_of[series], names),
                arrow.array(value),
                arrow.DictionaryArray.from_arrays(dimension_of[series], dimensions),
                arrow.array(np.where(step > 0, step - 1, 0).astype(np.uint32), mask=step == 0),
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _dictionary(texts: list[str]) -> tuple[NDArray[np.int32], list[str]]:
    """Each text's number, and the texts by number."""
    table: dict[str, int] = {}
    numbers = [table.setdefault(text, len(table)) for text in texts]
    return np.array(numbers, np.int32), list(table)
