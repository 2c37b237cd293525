"""Opening a run that was recorded: from the folder of runs, or from where it was sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from mlops.errors import SettingsError, StoreError
from mlops.record import Record, read_run
from mlops.settings import Settings
from mlops.store import open_run

if TYPE_CHECKING:
    from mlops.monasca.measurements import PatientMonasca, Progress

__all__ = ["SOURCES", "Arrival", "read"]

SOURCES: Final = ("store", "monasca", "monasca://CLOUD")
"""Where a run may be read from."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How far reading from a cloud has got.

    Attributes:
        run: what was asked for.
        done: points read.
        total: points that there are; 0 while they are counted.
        trouble: why nothing goes on just now; empty if it does.
    """

    run: str
    done: int
    total: int
    trouble: str = ""


def read(
    which: str | os.PathLike[str] = "last",
    *,
    runs_dir: str | os.PathLike[str] | None = None,
    source: str = "store",
    cloud: str | None = None,
    on_progress: Callable[[Arrival], None] = lambda _arrival: None,
) -> Record:
    """A recorded run, as far as it has been written, or has arrived.

    Read from Monasca a run has the same tables, figures and rows as from its folder, with times to the
    millisecond; what was not sent is told as gaps.  It is looked for in the folder of runs first, so that ``last``
    and names mean what they mean there, and by Monasca alone where it is not in that folder.

    Args:
        which: its id, the beginning of its id, its name, its folder's path, or ``last``.
        runs_dir: the folder of runs; that of the settings if not given.
        source: ``store``, ``monasca``, or ``monasca://CLOUD`` with a cloud of ``clouds.yaml``.
        cloud: for ``monasca``: a cloud of ``clouds.yaml``.  If it is named nowhere, it is that of the sink
            ``monasca://…`` in the settings, else of OS_CLOUD or the OS_* variables.
        on_progress: told how reading from Monasca goes, on the calling thread and on others.

    Raises:
        RunNotFoundError: there is no such run; the message lists the nearest.
        StoreError: it cannot be read. Damage inside a file is no error but a gap in the record.
        SettingsError: a setting or the source cannot be understood.
        CloudError: the cloud cannot be used as asked; of these CloudUnavailableError: not now.
        MissingExtraError: reading from Monasca needs a package that is not installed.
    """
    settings = Settings.load()
    folder = Path(runs_dir) if runs_dir is not None else settings.runs_dir
    if source == "store":
        return read_run(open_run(os.fspath(which), folder))
    name = _cloud_of(source)
    if name is None:
        raise SettingsError(f"There is no source of runs {source!r}", remedy=f"The sources: {', '.join(SOURCES)}.")
    chosen = cloud or name or _cloud_of_sinks(settings.sinks)
    return _read_from(chosen, os.fspath(which), folder, on_progress)


def _read_from(cloud: str, which: str, folder: Path, on_progress: Callable[[Arrival], None]) -> Record:
    from mlops.monasca.measurements import PatientMonasca
    from mlops.report.readback import read_back

    monasca = PatientMonasca.connect(cloud)
    latest = Arrival(which, 0, 0)

    def tell(progress: Progress) -> None:
        nonlocal latest
        latest = Arrival(which, progress.done, progress.total)
        on_progress(latest)

    monasca.on_trouble = lambda error: on_progress(replace(latest, trouble=error.what))
    return read_back(monasca, _id_of(monasca, which, folder), on_progress=tell)


def _id_of(monasca: PatientMonasca, which: str, folder: Path) -> str:
    from mlops.monasca.runs import find_run

    try:
        return open_run(which, folder).id
    except StoreError:
        return find_run(monasca, which)


def _cloud_of(source: str) -> str | None:
    """The cloud that ``monasca://CLOUD`` names, empty for ``monasca``; ``None`` for any other source."""
    scheme, _, rest = source.strip().partition(":")
    if scheme != "monasca":
        return None
    return unquote(rest.removeprefix("//").partition("?")[0].partition("/")[0])


def _cloud_of_sinks(sinks: Sequence[str]) -> str:
    """The cloud of the first sink that names one."""
    return next((cloud for sink in sinks if (cloud := _cloud_of(sink))), "")
