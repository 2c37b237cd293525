"""A recorded trace of readings, played back in its own time.

It lets reports, notebooks and tests have a GPU's series where there is none.  What is played back
is never a measurement of this machine, and says so: its energy has ``method=replay``.

A trace is a CSV file with a few lines of remarks before its header::

    # mlops trace 1
    # about: 60 s of ResNet-50 on one H200, recorded 2026-11-22
    # product GPU-8932f937: NVIDIA H200
    seconds,name,value,dimensions
    0.000,gpu.power_watts,84.2,uuid=GPU-8932f937
    0.000,gpu.energy_joules,0,uuid=GPU-8932f937;method=counter
    1.002,gpu.power_watts,431.7,uuid=GPU-8932f937

* ``seconds`` since the trace's beginning, from 0 up and never back;
* ``name``, a metric's name, and ``value``, a finite number in the unit that the name ends with;
* ``dimensions``, pairs ``key=value`` separated by semicolons; may be empty;
* energies (``….energy_joules``) count from anywhere and never go down;
* further lines that begin with ``#`` and empty ones are passed over.

:func:`write_trace` makes one of a run's record; by hand is as good.
"""

from __future__ import annotations

import bisect
import csv
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlops.devices.base import ENERGY_SUFFIX, Device, Meter, Reading, local_rank
from mlops.errors import DeviceError, SeriesError
from mlops.record import Record
from mlops.series import Series, check_dimensions, check_name
from mlops.store import FILE_MODE

__all__ = ["ReplayDevice", "write_trace"]

_FIRST: Final = "# mlops trace 1"
_HEADER: Final = ("seconds", "name", "value", "dimensions")
_METHOD: Final = "replay"
_FORMAT: Final = f"A trace begins with the line '{_FIRST}', and then has the columns {','.join(_HEADER)}."
_KINDS: Final = ("gpu.", "host.")


class ReplayDevice(Device):
    """Plays a trace back, from its beginning when opened, in its own time.

    Between two rows a value holds, and an energy goes up evenly, since it is what was used between
    them.  At its end the trace begins anew, and energies count on: a training may take longer than the
    trace.  A trace of a single moment holds for ever.

    Args:
        path: the trace's file.
        environ: where the rank is looked up; ``os.environ`` if not given.
        clock: seconds, monotonic.

    Raises:
        DeviceError: the file cannot be read or is no trace; the message says which line, and why.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if local_rank(os.environ if environ is None else environ):
            raise DeviceError("A trace is played back by the first rank of a node alone")
        self._path = Path(path)
        self._clock = clock
        self._trace = _Reader(self._path).read()
        self._started = clock()

    def sample(self) -> list[Reading]:
        """What the trace showed at as many seconds from its beginning as have passed since opening."""
        passed = max(0.0, self._clock() - self._started)
        length = self._trace.seconds
        rounds, at = divmod(passed, length) if length else (0.0, 0.0)
        readings = []
        for series, line in self._trace.lines.items():
            value = line.energy(at, rounds) if series.name.endswith(ENERGY_SUFFIX) else line.held(at)
            if value is not None:
                readings.append(Reading(series, value))
        return readings

    def meters(self) -> list[Meter]:
        """What the trace has energies of."""
        return [self._meter(series) for series in self._trace.lines if series.name.endswith(ENERGY_SUFFIX)]

    def describe(self) -> list[str]:
        """The file, what it says of itself, and how long it is."""
        about = self._trace.about or "a trace that does not say what it is"
        return [f"replay of {self._path}: {about} ({len(self._trace.lines)} series, {self._trace.seconds:.0f} s)"]

    def not_metered(self) -> str:
        """That the trace has no energies, if so."""
        return "" if self.meters() else f"The trace {self._path} has no energy ({_METHOD})."

    def _meter(self, series: Series) -> Meter:
        dimensions = {key: value for key, value in series.dimensions if key != "method"}
        number = dimensions.get("uuid") or ",".join(dimensions.values()) or "trace"
        product = self._trace.products.get(number, "") or "unnamed"
        return Meter(series.name.removesuffix(ENERGY_SUFFIX), number, f"{product} (replay)", _METHOD)


def write_trace(record: Record, path: str | os.PathLike[str], *, about: str = "") -> int:
    """Make a trace of what a run's devices showed.

    Args:
        record: the run, see :func:`mlops.record.read_run`.
        path: the file to make, with mode 0600.
        about: what it is, in a line; the run's id and date if not given.

    Returns:
        How many rows were written.

    Raises:
        DeviceError: the run has no readings of devices, or the file exists or cannot be made.
    """
    rows = sorted(_readings(record), key=lambda row: row[0])
    if not rows:
        raise DeviceError(
            f"The run {record.info.id} has no readings of devices", remedy="Record one with devices, such as nvidia."
        )
    start = rows[0][0]
    when = time.strftime("%Y-%m-%d", time.gmtime(record.info.started))
    about = " ".join((about or f"run {record.info.id}, recorded {when}").split())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    except FileExistsError as error:
        raise DeviceError(f"{path} exists already", remedy="Name another file, or move it away.") from error
    except OSError as error:
        raise DeviceError(f"Cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="") as file:
            file.write(f"{_FIRST}\n# about: {about}\n")
            file.writelines(f"# product {number}: {name}\n" for number, name in _products(record))
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_HEADER)
            for seconds, series, value in rows:
                pairs = ";".join(f"{key}={text}" for key, text in series.dimensions)
                writer.writerow((f"{seconds - start:.3f}", series.name, f"{value:.17g}", pairs))
    except OSError as error:
        Path(path).unlink(missing_ok=True)  # half a trace is worse than none
        raise DeviceError(f"Cannot write {path}: {error.strerror}", remedy="Free space there.") from error
    return len(rows)


def _readings(record: Record) -> Iterator[tuple[float, Series, float]]:
    """The finite readings of devices; of a series that several processes recorded, the first one's.

    An energy that goes down, which only a clock set back can make it, is left out until it is up again.
    """
    taken: set[int] = set()
    highest: dict[int, float] = {}
    for _, start, stop in record.processes:
        columns = record.columns.pick(slice(start, stop))
        own = {
            number for number in set(columns.series.tolist()) - taken if record.series[number].name.startswith(_KINDS)
        }
        taken |= own
        order = columns.time.argsort(kind="stable")
        rows = zip(*(column[order].tolist() for column in (columns.time, columns.value, columns.series)), strict=True)
        for moment, value, number in rows:
            if number not in own or not math.isfinite(value):
                continue
            if record.series[number].name.endswith(ENERGY_SUFFIX):
                if value < highest.setdefault(number, value):
                    continue
                highest[number] = value
            yield moment, record.series[number], value


def _products(record: Record) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for notes in (*record.notes, record.info.notes):
        for meter in notes.get("meters") or ():
            found.setdefault(*(" ".join(str(meter.get(key, "")).split()) for key in ("id", "name")))
    return [(number, name) for number, name in found.items() if number and name]


@dataclass(slots=True)
class _Line:
    """One series of a trace: its values and their times, ascending."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def held(self, at: float) -> float | None:
        """The last value; ``None`` before the first."""
        index = bisect.bisect_right(self.times, at) - 1
        return self.values[index] if index >= 0 else None

    def energy(self, at: float, rounds: float) -> float:
        """Energy since the beginning of the first round, growing evenly between two rows."""
        index = bisect.bisect_right(self.times, at) - 1
        if index < 0:
            now = self.values[0]
        elif index == len(self.times) - 1:
            now = self.values[-1]
        else:
            (then, soon), (before, after) = self.times[index : index + 2], self.values[index : index + 2]
            now = before + (after - before) * (at - then) / (soon - then)
        return (now - self.values[0]) + rounds * (self.values[-1] - self.values[0])


@dataclass(slots=True)
class _Trace:
    """A trace as read: its series, what it says of itself, the names of products by their ids."""

    lines: dict[Series, _Line] = field(default_factory=dict)
    about: str = ""
    products: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class _Reader:
    """Reads a trace, and says of a bad one which line is wrong and why."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 1
        self._trace = _Trace()

    def read(self) -> _Trace:
        """The whole trace.

        Raises:
            DeviceError: see :class:`ReplayDevice`.
        """
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                self._read(file)
        except OSError as error:
            raise DeviceError(
                f"Cannot read the trace {self._path}: {error.strerror}", remedy="Write replay:FILE with FILE a trace."
            ) from error
        except UnicodeDecodeError as error:
            raise DeviceError(f"{self._path} is no trace: it is not text (UTF-8)", remedy=_FORMAT) from error
        return self._trace

    def _read(self, file: Iterable[str]) -> None:
        seen_header = False
        for number, text in enumerate(file, 1):
            self._number, line = number, text.strip()
            if number == 1 and line != _FIRST:
                raise self._bad("it is no trace of version 1", _FORMAT)
            if line.startswith("#"):
                self._remark(line)
            elif line and not seen_header:
                if tuple(line.split(",")) != _HEADER:
                    raise self._bad("the columns are not named", _FORMAT)
                seen_header = True
            elif line:
                self._row(line)
        if not self._trace.lines:
            raise self._bad("it has no readings", _FORMAT)

    def _remark(self, line: str) -> None:
        key, _, text = line.lstrip("# ").partition(":")
        if key == "about":
            self._trace.about = text.strip()
        elif key.startswith("product "):
            self._trace.products[key.removeprefix("product ").strip()] = text.strip()

    def _row(self, line: str) -> None:
        cells = line.split(",")
        if len(cells) not in (len(_HEADER) - 1, len(_HEADER)):
            raise self._bad(f"it has {len(cells)} columns", f"Write {','.join(_HEADER)}.")
        seconds, value = self._finite(cells[0], "seconds"), self._finite(cells[2], "value")
        if seconds < self._trace.seconds:
            raise self._bad(
                f"its time, {seconds:g} s, lies before that of the row before, {self._trace.seconds:g} s",
                "Sort the rows by time, from 0 up.",
            )
        self._trace.seconds = seconds
        self._add(self._series(cells[1], cells[3] if len(cells) > len(_HEADER) - 1 else ""), seconds, value)

    def _add(self, series: Series, seconds: float, value: float) -> None:
        line = self._trace.lines.setdefault(series, _Line())
        if series.name.endswith(ENERGY_SUFFIX) and line.values and value < line.values[-1]:
            raise self._bad(
                f"the energy goes down, from {line.values[-1]:g} J to {value:g} J",
                "Energies count up: mend or split it.",
            )
        if line.times and seconds == line.times[-1]:
            line.values[-1] = value
            return
        line.times.append(seconds)
        line.values.append(value)

    def _series(self, name: str, pairs: str) -> Series:
        dimensions: dict[str, Any] = {}
        for pair in filter(None, pairs.split(";")):
            key, equals, text = pair.partition("=")
            if not equals:
                raise self._bad(f"{pair!r} is no dimension", "Write key=value, separated by semicolons.")
            dimensions[key] = text
        try:
            check_name(name)
            checked = check_dimensions(dimensions)
        except SeriesError as error:
            raise self._bad(error.what, error.remedy) from error
        if name.endswith(ENERGY_SUFFIX):
            checked["method"] = _METHOD
        return Series.of(name, checked)

    def _finite(self, cell: str, column: str) -> float:
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._bad(f"its {column}, {cell!r}, is no finite number", "Write it like 84.2.")
        return value

    def _bad(self, why: str, remedy: str) -> DeviceError:
        return DeviceError(f"{self._path}, line {self._number}: {why}", remedy=remedy)
