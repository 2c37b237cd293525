"""Reading a run back: every process's points file and what a dead process left in its buffer.

:class:`PointsReader` follows one file behind a cursor, while it is being written; :func:`read_run`
reads a whole run into one table of columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from mlops import blocks, ring
from mlops.blocks import Columns
from mlops.errors import StoreError
from mlops.series import Series
from mlops.store import RUNNING, RunFolder, RunInfo

__all__ = ["Gap", "PointsReader", "Record", "expected", "known", "missing_files", "read_run", "whole_info"]

_LARGE: Final = 1 << 20
"""Bytes from which a file is worth a thread that reads ahead."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Gap:
    """Points that are not there, and why: said, never guessed.

    Attributes:
        file: name of the points file.
        what: one sentence.
        points: how many are missing; 0 where the damage hit no points or the number is unknown.
        torn: it is an unfinished write at the end of the file, which a kill or a power cut leaves.
    """

    file: str
    what: str
    points: int
    torn: bool = False


class PointsReader:
    """Reads one points file from a cursor on, as often as wanted, also while it is being written.

    Attributes:
        path: the file.
        offset: the cursor: bytes read so far.
        series: the series met so far, by id.
        notes: the notes met so far, later ones overriding earlier ones.
        gaps: the damage met so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.series: dict[int, Series] = {}
        self.notes: dict[str, Any] = {}
        self.gaps: list[Gap] = []
        self._slot = 0
        self._last: Columns | None = None
        self._number = 0
        self._seq = 0

    def read(self, *, whole: bool = False, ahead: bool = False) -> Iterator[Columns]:
        """The points appended since the last call, block by block.

        Args:
            whole: the writer has ended: an unfinished block at the end is passed over and noted.
            ahead: inflate the next block on another thread, which a large file is worth; not while the interpreter
                ends, when there are no more threads to be had.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError as error:
            raise StoreError(f"Cannot read {self.path}: {error.strerror}") from error
        scanned = blocks.scan(data, self.offset, whole=whole)
        for found in _ahead(scanned) if ahead and len(data) > _LARGE else scanned:
            self.offset = found.end
            if isinstance(found, blocks.Damage):
                self._note_damage(found)
                continue
            self._check_order(found)
            try:
                columns = self._take(found)
            except (StoreError, ValueError, TypeError, AttributeError, RecursionError) as error:
                what = f"the block at {found.offset} has an unknown content and was passed over ({error})"
                self.gaps.append(Gap(self.path.name, what, found.count))
                continue
            if columns is not None:
                yield columns

    def _take(self, block: blocks.Block) -> Columns | None:
        if block.kind == blocks.POINTS:
            self._slot = block.slot
            self._seq = block.seq + block.count
            self._last = block.columns()
            return self._last
        if block.kind == blocks.SERIES:
            for number, name, dimensions in block.json():
                self.series[int(number)] = Series.of(
                    str(name), {str(key): str(text) for key, text in dimensions.items()}
                )
        elif block.kind == blocks.NOTES:
            self.notes.update(block.json())
        return None

    def _note_damage(self, damage: blocks.Damage) -> None:
        size = damage.end - damage.offset
        if damage.torn:
            what = f"its last {size} bytes are an unfinished write and were passed over"
        else:
            what = f"{size} bytes at {damage.offset} are damaged and were passed over"
        self.gaps.append(Gap(self.path.name, what, 0, damage.torn))

    def _check_order(self, block: blocks.Block) -> None:
        missing = block.seq - self._seq
        if block.number != self._number or missing:
            what = f"blocks {self._number} to {block.number - 1} are missing before byte {block.offset}"
            self.gaps.append(Gap(self.path.name, what, max(missing, 0)))
            self._seq = block.seq
        self._number = block.number + 1

    def note_missing(self, read: int, written: int) -> None:
        """Compare what was read with what the file's process said that it wrote.

        Args:
            read: points read.
            written: points written.
        """
        missing = written - read - sum(gap.points for gap in self.gaps)
        if missing > 0:
            self.gaps.append(Gap(self.path.name, f"{missing} points that were written are not there", missing))

    def count(self) -> int:
        """About how many points the file holds by now, from its blocks' headers alone.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            return blocks.count(self.path.read_bytes())
        except OSError as error:
            raise StoreError(f"Cannot read {self.path}: {error.strerror}") from error

    def read_notes(self) -> dict[str, Any]:
        """All notes of the file, from its beginning; its points are not unpacked.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise StoreError(f"Cannot read {self.path}: {error.strerror}") from error
        notes: dict[str, Any] = {}
        for found in blocks.scan(data, 0, whole=False):
            if isinstance(found, blocks.Block) and found.kind == blocks.NOTES:
                with contextlib.suppress(StoreError, ValueError, TypeError, RecursionError):
                    notes.update(found.json())
        return notes

    def read_buffer(self) -> Columns | None:
        """The points that the file's process left in its buffer when it was killed; after :meth:`read`.

        Returns:
            The points in the order in which they were logged; ``None`` if no buffer is left.
        """
        path = self.path.with_suffix(ring.SUFFIX)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.gaps.append(Gap(path.name, f"it cannot be read: {error.strerror}", 0))
            return None
        return ring.recover(raw, self._slot, self._last)


@dataclass(frozen=True, slots=True)
class Record:
    """A run as read back.

    Attributes:
        info: from ``run.json``, with the parameters, dimensions and versions that joined
            processes noted.
        series: the series of the whole run; ``columns.series`` indexes it.
        columns: the points, process by process, each in the order in which it logged them.
        processes: for each points file its name and its range ``start, stop`` in ``columns``.
        notes: for each points file what its process noted.
        gaps: what is damaged or missing.
    """

    info: RunInfo
    series: tuple[Series, ...]
    columns: Columns
    processes: tuple[tuple[str, int, int], ...]
    notes: tuple[dict[str, Any], ...]
    gaps: tuple[Gap, ...]

    def names(self) -> list[str]:
        """The metrics' names, sorted."""
        return sorted({series.name for series in self.series})

    def find(self, name: str) -> list[tuple[Series, Columns]]:
        """Each series of that name with its points, in the order of :attr:`series`."""
        found = []
        for number, series in enumerate(self.series):
            if series.name == name:
                chosen = self.columns.series == number
                found.append((series, self.columns.pick(chosen)))
        return found


def read_run(folder: RunFolder) -> Record:
    """A whole run, as far as it has been written.

    Raises:
        StoreError: the folder or a file cannot be read. Damage inside a file is no error but a gap.
    """
    info = folder.info()
    ended = info.outcome != RUNNING
    table: dict[Series, int] = {}
    parts: list[Columns] = []
    processes: list[tuple[str, int, int]] = []
    notes: list[dict[str, Any]] = []
    gaps: list[Gap] = []
    total = 0
    for path in folder.points_files():
        reader = PointsReader(path)
        start = total
        for columns in _all_columns(reader, ended=ended):
            named = known(columns, reader)
            parts.append(_renumbered(named, reader.series, table))
            total += len(named)
        processes.append((path.name, start, total))
        reader.note_missing(total - start, expected(info, reader))
        notes.append(reader.notes)
        gaps.extend(reader.gaps)
        _merge(info, reader.notes)
    gaps += missing_files(info, [name for name, _, _ in processes])
    return Record(info, tuple(table), Columns.join(parts), tuple(processes), tuple(notes), tuple(gaps))


def whole_info(folder: RunFolder) -> RunInfo:
    """What ``run.json`` says, with what joined processes noted beneath it, as :func:`read_run` has it.

    Raises:
        StoreError: ``run.json`` or a points file cannot be read.
    """
    info = folder.info()
    for path in folder.points_files():
        _merge(info, PointsReader(path).read_notes())
    return info


def _all_columns(reader: PointsReader, *, ended: bool) -> Iterator[Columns]:
    yield from reader.read(whole=ended, ahead=True)
    left = reader.read_buffer() if ended else None
    if left is not None and len(left):
        yield left


def _counts(info: RunInfo) -> dict[str, int]:
    """How many points each file of the owner's held when the run ended; empty if that was not noted."""
    counts = info.notes.get("points")
    if not isinstance(counts, dict):
        return {}
    return {str(name): count for name, count in counts.items() if isinstance(count, int)}


def missing_files(info: RunInfo, there: Iterable[str]) -> list[Gap]:
    """The points files that ``run.json`` knows of, other than these."""
    gone = _counts(info)
    for name in there:
        gone.pop(name, None)
    return [Gap(name, "the file is missing", count) for name, count in gone.items()]


def expected(info: RunInfo, reader: PointsReader) -> int:
    """How many points a file held when its process ended, as far as that was noted; else 0."""
    noted = reader.notes.get("points")
    return max(_counts(info).get(reader.path.name, 0), noted if isinstance(noted, int) else 0)


def _ahead(blocks: Iterator[_T]) -> Iterator[_T]:
    """The same, the next one made on another thread while this one is used."""
    with ThreadPoolExecutor(1, "mlops-reader") as pool:
        coming = pool.submit(next, blocks, None)
        while (one := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield one


def known(columns: Columns, reader: PointsReader) -> Columns:
    """Without the points whose series' definition was lost to damage: they are noted as a gap of the reader's."""
    size = len(reader.series)
    if size and max(reader.series) == size - 1 and (not len(columns) or int(columns.series.max()) < size):
        return columns
    named = np.isin(columns.series, np.fromiter(reader.series, np.uint32, size))
    if named.all():
        return columns
    lost = int(len(named) - np.count_nonzero(named))
    reader.gaps.append(Gap(reader.path.name, f"the names of {lost} points' series are missing", lost))
    return columns.pick(named)


def _renumbered(columns: Columns, ids: dict[int, Series], table: dict[Series, int]) -> Columns:
    if not len(columns):
        return columns
    own = np.zeros(max(ids) + 1, np.uint32)
    for number, series in ids.items():
        own[number] = table.setdefault(series, len(table))
    return Columns(columns.time, columns.value, own[columns.series], columns.step)


def _merge(info: RunInfo, notes: dict[str, Any]) -> None:
    """What a joined process noted, beneath what the owner said."""
    for key in ("parameters", "dimensions", "versions"):
        extra = notes.get(key)
        if isinstance(extra, dict):
            getattr(info, key).update({name: value for name, value in extra.items() if name not in getattr(info, key)})
