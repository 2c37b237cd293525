"""One points file on its way to one durable sink, behind a cursor that outlives the process.

Beside a training :class:`mlops.sinks.feed.DurableFeed` goes on with it, later :mod:`mlops.upload`; both
go on where the other stopped, on whatever machine sees the folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mlops import ring
from mlops.blocks import Columns
from mlops.errors import MlopsError
from mlops.record import Gap, PointsReader, expected, known, whole_info
from mlops.sinks._cursor import Cursor
from mlops.sinks.base import DurableSink, Points, RunIdentity
from mlops.store import RUNNING, RunFolder, RunInfo, file_stem

__all__ = ["Spool", "identity_of"]

_NOTED: Final = {"name": str, "host": str, "process": str, "rank": int, "dimensions": dict}


def identity_of(info: RunInfo, notes: dict[str, Any]) -> RunIdentity:
    """Whose points a file holds: what its process noted at its beginning, else what ``run.json`` says.

    It must come out the same whoever asks, or a series would be sent as two.
    """
    noted = {key: notes[key] for key, kind in _NOTED.items() if isinstance(notes.get(key), kind)}
    return RunIdentity(
        info.id,
        noted.get("name", info.name),
        noted.get("dimensions", info.dimensions),
        noted.get("host", info.host),
        noted.get("rank"),
        noted.get("process", ""),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Points for one call of ``write``, and what the cursor says once they are delivered.

    Attributes:
        points: these; there may be none, where a block held none that could be sent.
        offset, block, within, left_out: see :class:`Cursor`.
        unfit: how many points were left out on the way.
    """

    points: Points
    offset: int
    block: int
    within: int
    left_out: int
    unfit: int


class Spool:
    """Delivers a points file from its cursor on.

    Whatever is raised on the way, also by a file system that is away for a while, the next call goes on with
    the same points.

    Args:
        path: the points file.
        sink: where to.
        ended: its process has ended: what it left in its buffer is delivered too.

    Attributes:
        path: as given.
        offset: bytes of the file that have been looked at.
        delivered, dropped, refused: points, in the life of this cursor (see :class:`Cursor`); 0 until
            :meth:`open`.
        gaps: the damage met so far.
    """

    def __init__(self, path: Path, sink: DurableSink, *, ended: bool = False) -> None:
        self.path = path
        self._sink = sink
        self._ended = ended
        self._folder = RunFolder(path.parent)
        self._reader = PointsReader(path)
        self._cursor: Cursor | None = None
        self._prepare = sink.preparer(self._before)
        self._source: Iterator[Columns] | None = None
        self._found: tuple[Columns, int] | None = None
        self._buffer_read = False
        self._identity: RunIdentity | None = None
        self._told: RunInfo | None = None
        self._prepared = 0
        self._read_points = 0
        # Where the points stand that are being gathered:
        self._rest = Columns.join(())
        self._taken = self._block = self._within = self._left_out = 0
        self._parts: list[Columns] = []
        self._unfit = 0
        self._met = False
        self._waiting: _Piece | None = None

    @property
    def offset(self) -> int:
        """See the class."""
        return self._reader.offset

    @property
    def delivered(self) -> int:
        """See the class."""
        return self._cursor.delivered if self._cursor else 0

    @property
    def dropped(self) -> int:
        """See the class."""
        return self._cursor.dropped if self._cursor else 0

    @property
    def refused(self) -> int:
        """See the class."""
        return self._cursor.refused if self._cursor else 0

    @property
    def gaps(self) -> list[Gap]:
        """See the class."""
        return self._reader.gaps

    def open(self) -> Cursor:
        """Ask the sink for its destination and take hold of the cursor; a second call does nothing.

        Raises:
            MlopsError: as the sink's ``destination`` raises it.
            SpoolBusyError: another process delivers this file.
        """
        if self._cursor is None:
            self._cursor = Cursor(self.path, self._sink.destination())
        return self._cursor

    def is_done(self) -> bool:
        """Whether the cursor says that nothing is left to be done, so that the file need not be read.

        A file that its process left a buffer with is always read.
        """
        cursor = self.open()
        with contextlib.suppress(OSError):
            whole = self._ended and cursor.described and not cursor.within
            left = self.path.with_suffix(ring.SUFFIX).exists()
            return whole and not left and cursor.offset == self.path.stat().st_size
        return False

    def advance(self) -> bool:
        """Deliver the next points, at most what one call of the sink's ``write`` takes.

        Returns:
            Whether there were any; ``False`` once all that the file holds by now has been delivered.

        Raises:
            MlopsError: as the sink's ``write`` raises it, or the file cannot be read; the same points are
                tried by the next call.
            SpoolBusyError: another process delivers this file.
        """
        cursor = self.open()
        if self._waiting is None:
            self._waiting = self._next()
        piece = self._waiting
        if piece is None:
            self._note_end(cursor)
            return False
        before = self._sink.dropped
        if len(piece.points):
            self._sink.write(piece.points)
        refused = self._sink.dropped - before
        self._sink.dropped += piece.unfit
        self._waiting = None
        cursor.offset, cursor.block = piece.offset, piece.block
        cursor.within, cursor.left_out = piece.within, piece.left_out
        cursor.delivered += len(piece.points) - refused
        cursor.dropped += refused + piece.unfit
        cursor.refused += refused
        cursor.save()
        return True

    def describe(self) -> None:
        """Tell the sink about the run, if this file is its owner's; once it has ended, once and for all.

        Raises:
            MlopsError: as the sink's ``describe`` raises it, or ``run.json`` cannot be read.
        """
        cursor = self.open()
        info = self._folder.info()
        if cursor.described or info == self._told:
            return
        notes = self._reader.notes
        if (notes.get("pid", info.pid), notes.get("host", info.host)) == (info.pid, info.host):
            self._sink.describe(self._whose(info), self._whole(info))
        self._told = info
        cursor.described = info.outcome != RUNNING
        cursor.save()

    def restarted(self) -> Spool:
        """One of the same file that begins anew, and takes over the cursor; this one has let go of it.

        Raises:
            SpoolBusyError: another process delivers this file.
        """
        again = Spool(self.path, self._sink, ended=self._ended)
        again._cursor, self._cursor = self.open(), None
        again._cursor.rewind()
        return again

    def close(self) -> None:
        """Let go of the cursor; a second call does nothing."""
        if self._cursor is not None:
            self._cursor.close()

    # -- from the file to pieces ------------------------------------------------------------------

    def _next(self) -> _Piece | None:
        """The next piece; what an error interrupts is gone on with by the next call."""
        while (room := self._sink.most - sum(map(len, self._parts))) > 0:
            if not len(self._rest) and not self._next_block():
                break
            part = self._rest.pick(slice(0, room))
            self._rest = self._rest.pick(slice(len(part), None))
            self._within += len(part)
            self._parts.append(part)
            if not len(self._rest) and self._block:
                self._taken = self._block
                self._block = self._within = self._left_out = 0
        if not self._met:
            return None
        if self._identity is None:
            self._identity = self._whose(self._info())
        points = Points(self._identity, Columns.join(self._parts), self._reader.series)
        piece = _Piece(points, self._taken, self._block, self._within, self._left_out, self._unfit)
        self._parts, self._unfit, self._met = [], 0, bool(len(self._rest))
        return piece

    def _next_block(self) -> bool:
        """Make the next undelivered block the rest to be sent; whether there is one."""
        cursor = self.open()
        while (found := self._found or self._read()) is not None:
            self._found = found
            named, end = found
            columns = self._prepare(named)
            self._found = None
            self._prepared = self._reader.offset
            if end and end <= cursor.offset:
                self._taken = end
                continue
            # A part of it was delivered: that block, or the buffer if nothing was folded out of it since.
            begun = end == cursor.block and (end or self._taken <= cursor.offset)
            skip = min(cursor.within, len(columns)) if begun else 0
            self._left_out = len(named) - len(columns)
            self._unfit += max(0, self._left_out - cursor.left_out) if begun else self._left_out
            self._rest, self._block, self._within = columns.pick(slice(skip, None)), end, skip
            self._met = True
            return True
        return False

    def _read(self) -> tuple[Columns, int] | None:
        """A block's points and where it ends; 0 for what is left in the buffer."""
        if self._source is None:
            self._source = self._reader.read(whole=self._ended)
        source, self._source = self._source, None
        columns, end = next(source, None), self._reader.offset
        if columns is not None:
            self._source = source
        elif self._ended and not self._buffer_read:
            columns, end = self._reader.read_buffer(), 0
            self._buffer_read = True
        if columns is None or not (len(columns) or end):
            return None
        named = known(columns, self._reader)
        self._read_points += len(named)
        return named, end

    def _before(self) -> Iterator[Columns]:
        """The points that the preparer has been given so far, once more."""
        again = PointsReader(self.path)
        for columns in again.read(whole=self._ended):
            if again.offset > self._prepared:
                return
            yield known(columns, again)

    def _note_end(self, cursor: Cursor) -> None:
        """All that there is has been delivered: note that, and what should be there and is not."""
        if not self._ended:
            return
        self._reader.note_missing(self._read_points, expected(self._info(), self._reader))
        if cursor.offset != self._reader.offset:
            cursor.offset = self._reader.offset
            cursor.save()

    def _info(self) -> RunInfo:
        try:
            return self._folder.info()
        except MlopsError:
            return RunInfo(self._folder.id, self._folder.id.split("-", 2)[-1].rpartition("-")[0], 0.0)

    def _whole(self, info: RunInfo) -> RunInfo:
        """With what joined processes noted, once they have ended: their files are read for that."""
        if info.outcome != RUNNING:
            with contextlib.suppress(MlopsError):
                return whole_info(self._folder)
        return info

    def _whose(self, info: RunInfo) -> RunIdentity:
        """See :func:`identity_of`; where a joined process's own notes are lost, its file's name tells it apart."""
        identity = identity_of(info, self._reader.notes)
        if "process" in self._reader.notes or self.path.name.startswith(f"{file_stem(info.host, info.pid)}-"):
            return identity
        return replace(identity, process=self.path.stem)
