"""Opening a run that was recorded."""

from __future__ import annotations

import os
from pathlib import Path

from mlops.record import Record, read_run
from mlops.settings import Settings
from mlops.store import open_run

__all__ = ["read"]


def read(which: str | os.PathLike[str] = "last", *, runs_dir: str | os.PathLike[str] | None = None) -> Record:
    """A recorded run, as far as it has been written.

    Args:
        which: its id, the beginning of its id, its name, its folder's path, or ``last``.
        runs_dir: the folder of runs; that of the settings if not given.

    Raises:
        RunNotFoundError: there is no such run; the message lists the nearest.
        StoreError: it cannot be read. Damage inside a file is no error but a gap in the record.
        SettingsError: a setting cannot be understood.
    """
    folder = Path(runs_dir) if runs_dir is not None else Settings.load().runs_dir
    return read_run(open_run(os.fspath(which), folder))
