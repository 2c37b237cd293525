"""One points file on its way to one durable sink, behind a cursor that outlives the process.

Beside a training :class:`mlops.sinks.feed.DurableFeed` goes on with it, later :mod:`mlops.upload`; both
go on where the other stopped, on whatever machine sees the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlops.blocks import Columns
from mlops.errors import MlopsError
from mlops.record import Gap, PointsReader, known
from mlops.sinks._cursor import Cursor
from mlops.sinks.base import DurableSink, Points, RunIdentity
from mlops.store import RUNNING, RunFolder, RunInfo

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


class Spool:
    """Delivers a points file from its cursor on.

    Args:
        path: the points file.
        sink: where to.
        ended: its process has ended: what it left in its buffer is delivered too.

    Attributes:
        path: as given.
        offset: bytes of the file that have been looked at.
        delivered, dropped: points, in the life of this cursor; 0 until the first :meth:`advance`.
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
        self._identity: RunIdentity | None = None
        self._told: RunInfo | None = None
        self._prepared = 0
        self._taken = 0
        self._buffer_read = False
        self._rest = Columns.join(())
        self._rest_end: int | None = None
        self._within = 0
        self._waiting: tuple[Points, int, int, int] | None = None

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

    def advance(self) -> bool:
        """Deliver the next points, at most what one call of the sink's ``write`` takes.

        Returns:
            Whether there were any; ``False`` once all that the file holds by now has been delivered.

        Raises:
            MlopsError: as the sink's ``write`` raises it; the same points are tried by the next call.
            SpoolBusyError: another process delivers this file.
        """
        cursor = self.open()
        if self._waiting is None:
            self._waiting = self._next()
        if self._waiting is None:
            return False
        points, offset, within, refused = self._waiting
        before = self._sink.dropped
        if len(points):
            self._sink.write(points)
        dropped = self._sink.dropped - before
        self._sink.dropped += refused
        self._waiting = None
        cursor.offset, cursor.within = offset, within
        cursor.delivered += len(points) - dropped
        cursor.dropped += dropped + refused
        cursor.save()
        return True

    def describe(self) -> None:
        """Tell the sink about the run, if this file is its owner's; once it has ended, once and for all.

        Raises:
            MlopsError: as the sink's ``describe`` raises it.
        """
        cursor = self.open()
        info = self._folder.info()
        notes = self._reader.notes
        owner = (notes.get("pid", info.pid), notes.get("host", info.host)) == (info.pid, info.host)
        if cursor.described or info == self._told or not owner:
            return
        self._sink.describe(identity_of(info, notes), info)
        self._told = info
        cursor.described = info.outcome != RUNNING
        cursor.save()

    def close(self) -> None:
        """Let go of the cursor; a second call does nothing."""
        if self._cursor is not None:
            self._cursor.close()

    # -- from the file to pieces ------------------------------------------------------------------

    def _next(self) -> tuple[Points, int, int, int] | None:
        """The next piece, the cursor once it is delivered, and how many points were left out on the way."""
        parts: list[Columns] = []
        room, refused, met = self._sink.most, 0, False
        while room:
            if not len(self._rest):
                lost = self._next_block()
                if lost is None:
                    break
                met = True
                refused += lost
            part = self._rest.pick(slice(0, room))
            self._rest = self._rest.pick(slice(len(part), None))
            self._within += len(part)
            room -= len(part)
            parts.append(part)
            if not len(self._rest) and self._rest_end is not None:
                self._taken, self._within = self._rest_end, 0
        if not met and not any(map(len, parts)):
            return None
        if self._identity is None:
            self._identity = identity_of(self._info(), self._reader.notes)
        return Points(self._identity, Columns.join(parts), self._reader.series), self._taken, self._within, refused

    def _next_block(self) -> int | None:
        """Make the next undelivered block the rest to be sent; how many of its points cannot be, or ``None``."""
        cursor = self.open()
        while (found := self._read()) is not None:
            raw, end = found
            named = known(raw, self._reader)
            columns = self._prepare(named)
            self._prepared = end or self._prepared
            if end is not None and end <= cursor.offset:
                self._taken = end
                continue
            skip = cursor.within if self._taken == cursor.offset else 0
            self._rest, self._rest_end = columns.pick(slice(skip, None)), end
            self._within = min(skip, len(columns))
            return 0 if skip else len(named) - len(columns)
        return None

    def _read(self) -> tuple[Columns, int | None] | None:
        """A block's points and where it ends; what is left in the buffer ends nowhere."""
        if self._source is None:
            self._source = self._reader.read(whole=self._ended)
        columns = next(self._source, None)
        if columns is not None:
            return columns, self._reader.offset
        self._source = None
        if self._ended and not self._buffer_read:
            self._buffer_read = True
            left = self._reader.read_buffer()
            if left is not None and len(left):
                return left, None
        return None

    def _before(self) -> Iterator[Columns]:
        """The points that the preparer has been given so far, once more."""
        again = PointsReader(self.path)
        for columns in again.read(whole=self._ended):
            if again.offset > self._prepared:
                return
            yield known(columns, again)

    def _info(self) -> RunInfo:
        try:
            return self._folder.info()
        except MlopsError:
            return RunInfo(self._folder.id, self._folder.id.split("-", 2)[-1].rpartition("-")[0], 0.0)
