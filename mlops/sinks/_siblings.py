"""The other processes of a run on this host, by what they write into its folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mlops.errors import StoreError
from mlops.record import PointsReader, known
from mlops.sinks.base import Points, RunIdentity
from mlops.sinks.spool import identity_of
from mlops.store import RunFolder, RunInfo, file_stem

__all__ = ["Siblings"]


class Siblings:
    """Follows the points files of a run's other processes on this host, while they are written.

    Args:
        folder: the run's.
        run: this process's own identity.
    """

    def __init__(self, folder: Path, run: RunIdentity) -> None:
        self._folder = RunFolder(folder)
        self._host = socket.gethostname()
        self._own = f"{file_stem(self._host, os.getpid())}-"
        self._fallback = RunInfo(run.id, run.name, 0.0, dimensions=dict(run.dimensions))
        self._readers: dict[str, PointsReader] = {}

    def news(self) -> Iterator[tuple[str, Points]]:
        """What they have written since the last call, with the name of each one's file."""
        for path in self._folder.points_files():
            if path.name.startswith(self._own):
                continue
            reader = self._readers.setdefault(path.name, PointsReader(path))
            try:
                for columns in reader.read():
                    if reader.notes.get("host") == self._host:
                        run = identity_of(self._fallback, reader.notes)
                        yield path.name, Points(run, known(columns, reader), reader.series)
            except StoreError:  # unreadable for now; it is said where a run is read
                continue
