"""To TensorBoard: event files with every scalar, and the run's parameters as hparams.

``tensorboard:DIR`` writes into ``DIR/<run id>/``, ``tensorboard:`` into the run's own folder, so that ``tensorboard
--logdir runs`` shows all runs.  A relative DIR is relative to the working folder, ``~`` is the home folder, and
what a URL would take for something else is written ``%2C`` for a comma, ``%3F`` for a question mark, ``%25`` for a
per cent sign.

Each process writes a file of its own, named after its host, process and rank.  Rank 0 and processes that have no
rank share the run's folder, where their series make one run of TensorBoard's; the others have one each below it,
``rank1`` and so on, since TensorBoard would draw the same tag of two processes as one line.

A tag is the metric's name with slashes for dots and the series' dimensions behind it (:func:`mlops.series.tag`).  The
time is the point's own; the step too or, where none was given, the number of the series' points before it.
TensorBoard keeps single precision; the store has every digit.

TensorBoard believes the first parameters of a run that it reads.  So they are written when the first value of the
training comes, by when what a callback found out is known; those that come later are put into a file that
TensorBoard reads first when it is started anew.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from mlops.errors import MlopsError, SinkError, SinkURLError
from mlops.series import Series, exposed, metric, tag
from mlops.settings import Settings
from mlops.sinks._distinct import Distinct
from mlops.sinks._event_file import (
    EventFile,
    make_folder,
    replace_file,
    session_end,
    session_start,
    tensorboardx,
)
from mlops.sinks.base import Points, RunIdentity, Sink, SinkURL
from mlops.store import RunFolder, file_stem

__all__ = ["TensorboardSink"]

FORM: Final = "Write tensorboard:DIR, for example tensorboard:logs, or tensorboard: for the run's own folder."
_RETRY_SECONDS: Final = 30.0
"""Between two attempts to write where writing failed."""
_METERED: Final = ("gpu.", "host.", "mlops.")
"""What names begin with that are no values of the training, but of what it runs on."""
_STATUS: Final[Mapping[str, str]] = {
    "finished": "SUCCESS",
    "cancelled": "SUCCESS",
    "failed": "FAILURE",
    "interrupted": "FAILURE",
    "killed": "FAILURE",
}

_log = logging.getLogger("mlops")


class _Line:
    """A series as TensorBoard knows it."""

    __slots__ = ("about", "count", "is_metered", "tag")

    def __init__(self, series: Series, tag: str) -> None:
        what = metric(series.name).description
        unit = exposed(series.name).unit.replace("ratio", "per cent")
        self.about = f"{what[0].upper()}{what[1:]}{f', in {unit}' if unit else ''}." if what else ""
        self.tag = tag
        self.is_metered = series.name.startswith(_METERED)
        self.count = 0


class TensorboardSink(Sink):
    """Writes TensorBoard's event files.

    A point counts as ``sent`` once it is in the file, where every reader sees it; it counts as ``dropped`` when the
    file could not be written.

    Args:
        folder: where, with a folder for each run; ``None`` for each run's own.
        runs_dir: where runs are kept, for points that come without a run.
        clock: seconds that never go back; for tests.

    Attributes:
        folder: as above, absolute.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        runs_dir: str | os.PathLike[str] = "runs",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sent = 0
        self.dropped = 0
        self.where = "tensorboard:" if folder is None else f"tensorboard:{folder}"
        self._tbx = tensorboardx()
        self.folder = None if folder is None else Path(folder).expanduser().absolute()
        self._runs_dir = Path(runs_dir).absolute()
        self._clock = clock
        self._tags: Distinct[Series] = Distinct(tag, self._renamed)
        self._lines: dict[tuple[str, int], _Line | None] = {}
        self._run: RunIdentity | None = None
        self._file: EventFile | None = None
        self._retry_at = 0.0
        self._parameters: dict[str, Any] | None = None
        self._closed = False
        self._said: set[str] = set()

    @classmethod
    def from_url(cls, url: SinkURL, settings: Settings) -> TensorboardSink:
        """``tensorboard:DIR``.

        Raises:
            SinkURLError: the URL names a host, or has something else than this.
            MissingExtraError: tensorboardX is not installed.
        """
        path = unquote(url.text.partition(":")[2].partition("?")[0])
        if url.host or url.port is not None:
            raise SinkURLError(f"The sink URL {url} names a host, {url.host!r}", remedy=FORM)
        url.only()
        path = path.removeprefix("//")
        if ":" in path.partition("/")[0]:
            raise SinkURLError(f"The sink URL {url} names no folder of this machine", remedy=FORM)
        try:
            return cls(path or None, runs_dir=settings.runs_dir)
        except RuntimeError as error:  # there is no such user in ~user
            raise SinkURLError(f"The sink URL {url} cannot be understood: {error}", remedy=FORM) from error

    def write(self, points: Points) -> None:
        """Write the points; the first ones make the file."""
        if self._closed:
            self.dropped += len(points)
            self._say("closed", "points came after the end; they are in the store and were not written.")
            return
        if not len(points) and self._file is None:
            return
        self._run = points.run
        file = self._open(points.run)
        if file is None:
            self.dropped += len(points)
            return
        lost = self.dropped
        events = list(self._events(points))
        start = self._start(points.run)
        try:
            file.append([start, *events] if start else events)
        except OSError as error:
            self.dropped = lost + len(points)
            if start:
                self._parameters = None
            self._fail(error)
            return
        self.sent += len(points) - (self.dropped - lost)
        self._note_changes(points.run)

    def close(self, timeout: float) -> None:
        """Write how the run ended, and let go of the file; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._file is None or self._run is None:
            return
        try:
            self._file.append(self._end(self._run, self._file.path.parent))
        except OSError as error:
            self._fail(error)
        else:
            self._file.close()
            self._file = None

    # -- points -----------------------------------------------------------------------------------

    def _events(self, points: Points) -> Iterator[Any]:
        """One event for all points that follow one another with the same time and step."""
        columns = points.columns
        event: Any = None
        at: tuple[float, int] | None = None
        rows = zip(
            columns.time.tolist(), columns.value.tolist(), columns.series.tolist(), columns.step.tolist(), strict=True
        )
        for when, value, number, step in rows:
            line = self._line(points, number)
            if line is None:
                self.dropped += 1
                continue
            here = (when, step - 1 if step else line.count)
            if here != at:
                if event is not None:
                    yield event
                event, at = self._tbx.Event(wall_time=when, step=here[1]), here
            entry = event.summary.value.add(tag=line.tag, simple_value=value)
            if not line.count and line.about:
                entry.metadata.summary_description = line.about
                entry.metadata.plugin_data.plugin_name = "scalars"
            line.count += 1
        if event is not None:
            yield event

    def _line(self, points: Points, number: int) -> _Line | None:
        key = (points.run.id, number)
        if key not in self._lines:
            series = points.series.get(number)
            if series is None:
                self._say("unnamed", "the store has points whose series' name was lost; they are not written.")
            self._lines[key] = _Line(series, self._tags(series)) if series else None
        return self._lines[key]

    # -- the run and its parameters ---------------------------------------------------------------

    def _start(self, run: RunIdentity) -> Any:
        """What is to be written of the run before its first values, if it is to be written now."""
        if (
            self._parameters is not None
            or run.rank
            or all(line is None or line.is_metered for line in self._lines.values())
        ):
            return None
        return self._session(run)

    def _session(self, run: RunIdentity) -> Any:
        known = _parameters(run)
        if not known:
            return None
        self._parameters = _own(run)
        return session_start(known, run.info.started if run.info else time.time(), self._tbx)

    def _note_changes(self, run: RunIdentity) -> None:
        if self._parameters is None or self._parameters == (own := _own(run)):
            return
        self._parameters = own
        started = run.info.started if run.info else time.time()
        try:
            replace_file(
                self._folder(run), _stem(run), [session_start(_parameters(run), started, self._tbx)], self._tbx
            )
        except OSError as error:
            self._say("changes", f"cannot write the new parameters: {error.strerror or error}.")

    def _end(self, run: RunIdentity, folder: Path) -> Iterator[Any]:
        """What is to be written of a run that has ended.

        A command that was run, such as ``mlops run``, has parameters too, but those of the training come first.  How
        it ended is said by whoever opened the run, if that writes here too.
        """
        info = run.info
        if info is None or run.rank:
            return
        if self._parameters is None and _processes(folder) == {_stem(run)} and (start := self._session(run)):
            yield start
        owner_writes = any(f"-{info.pid}." in f"{process}." for process in _processes(folder))
        if info.pid == os.getpid() or (self._parameters is not None and not owner_writes):
            yield session_end(_STATUS.get(info.outcome, "UNKNOWN"), info.ended or time.time(), self._tbx)

    # -- the file ---------------------------------------------------------------------------------

    def _folder(self, run: RunIdentity) -> Path:
        own = run.folder or self._runs_dir / run.id
        folder = own if self.folder is None else self.folder / run.id
        below = f"rank{run.rank}" if run.rank else run.process
        return folder / below if below else folder

    def _open(self, run: RunIdentity) -> EventFile | None:
        if self._file is None and self._clock() >= self._retry_at:
            folder = self._folder(run)
            try:
                make_folder(folder)
                self._file = EventFile(folder, _stem(run), self._tbx)
            except OSError as error:
                self._fail(error)
            else:
                self._tell(folder)
        return self._file

    def _fail(self, error: OSError) -> None:
        """Writing failed: it is said once, and tried again later, in a file of its own."""
        self._retry_at = self._clock() + _RETRY_SECONDS
        if self._file is not None:
            self._file.close()
            self._file = None
        where = self._folder(self._run) if self._run else self.folder
        trouble = SinkError(
            f"cannot write into {where}: {error.strerror or error}",
            remedy="Free space there, or name a folder that is writable: tensorboard:DIR.",
        )
        self._say("away", f"{trouble} Training goes on, and every point is in the store.")

    def _tell(self, folder: Path) -> None:
        if "here" not in self._said:
            self._said.add("here")
            _log.info("%s: writes into %s.", self.where, folder)

    def _renamed(self, series: Series, wanted: str, given: str) -> None:
        self._say(f"tag {series}", f"{series} is written as {given}, since {wanted} is another series' tag.")

    def _say(self, key: str, message: str) -> None:
        """One warning for each key in the life of this sink."""
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s: %s", self.where, message)


def _own(run: RunIdentity) -> dict[str, Any]:
    return dict(run.info.parameters) if run.info else {}


def _parameters(run: RunIdentity) -> dict[str, Any]:
    """What this process knows of the parameters, above what the run's owner has noted."""
    noted: dict[str, Any] = {}
    if run.folder is not None:
        try:
            noted = RunFolder(run.folder).info().parameters
        except MlopsError:
            noted = {}
    return {**noted, **_own(run)}


def _stem(run: RunIdentity) -> str:
    """What tells this process's files from those of others."""
    rank = "" if run.rank is None else f".rank{run.rank}"
    return f"{file_stem(run.host, os.getpid())}{rank}"


def _processes(folder: Path) -> set[str]:
    """Whose event files are there, by what tells their names apart."""
    behind_time = (path.name.partition(".tfevents.")[2].partition(".")[2] for path in folder.glob("*.tfevents.*"))
    return {name.rpartition(".")[0] for name in behind_time}
