"""What stands for a run in a process that does not record it: where a worker unpickled it, for instance.

A dataset, a model or a collate function may hold a run, and be pickled to a spawned worker of a ``DataLoader`` or into
a file.  There it takes what it is given, says once that it is not recorded, and does no harm.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlops.loops import Watched
from mlops.run import Run
from mlops.settings import Settings
from mlops.sinks import Sink

__all__ = ["StrangerRun"]

_Batch = TypeVar("_Batch")

_log = logging.getLogger("mlops")


class StrangerRun(Run):
    """A run of another process, or one that has ended: nothing is recorded here.

    Args:
        run_id: of the run that it stands for.
        name: of that run.
        folder: of that run.
    """

    def __init__(self, run_id: str, name: str, folder: Path) -> None:
        self.id, self.name, self.dir = run_id, name, folder
        self.settings = Settings()
        self.dimensions: dict[str, str] = {}
        self.rank, self.joined = None, False
        self._pid, self._closed, self._said = os.getpid(), True, False

    def log(self, values: Mapping[str, Any], *, step: int | None = None, time: float | None = None) -> None:
        """Say once that nothing is recorded here."""
        if not self._said:
            self._said = True
            _log.warning(
                "%s: logged in process %d, where this run came as a copy; not recorded. Log where the run was opened, "
                "or open one here.",
                self.id,
                os.getpid(),
            )

    def series(self, name: str, dimensions: Mapping[str, str | int | float] | None = None) -> Callable[[Any], None]:
        """A function that says once that nothing is recorded here."""
        return lambda value: self.log({name: value})

    def watch(self, loader: Iterable[_Batch]) -> Watched[_Batch]:
        """The same batches; nothing is told of them."""
        return Watched(loader, lambda _wait, _work: None)

    def begin_epoch(self) -> None:
        """Do nothing: no energy is counted here."""

    def end_epoch(self, values: Mapping[str, Any] | None = None, *, seconds: float | None = None) -> int:
        """Say once that nothing is recorded here; 0, since no epoch was completed here."""
        self.log(values or {})
        return 0

    def note(self, **parameters: object) -> None:
        """Do nothing: these are another process's."""

    def close(self, outcome: str = "finished", reason: str = "") -> None:
        """Do nothing: it is not for this process to end it."""

    @property
    def dropped(self) -> int:
        """None are kept here, so none are dropped."""
        return 0

    @property
    def parameters(self) -> dict[str, Any]:
        """None are known here."""
        return {}

    @property
    def sinks(self) -> list[Sink]:
        """None here."""
        return []

    def __repr__(self) -> str:
        return f"<mlops.Run {self.id}, recorded elsewhere>"
