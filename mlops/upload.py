"""Sending what is left of recorded runs to a durable sink: what ``mlops upload`` does.

It goes on where the training's own sink, or an upload before it, stopped; sending twice changes nothing.
It works from any machine that sees the folder of runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from mlops.errors import (
    AuthorisationError,
    CloudUnavailableError,
    MlopsError,
    SinkUnavailableError,
    SpoolBusyError,
    StoreError,
)
from mlops.record import Gap, PointsReader, known, missing_files
from mlops.sinks import DurableSink
from mlops.sinks._cursor import Cursor
from mlops.sinks._patience import patiently
from mlops.sinks.spool import Spool
from mlops.store import RUNNING, RunFolder, RunInfo, file_stem

__all__ = ["PATIENCE_SECONDS", "Progress", "Upload", "look", "upload"]

T = TypeVar("T")

PATIENCE_SECONDS: Final = 300.0
"""How long the destination may take nothing at all before an upload gives up."""

_LONGEST_WAIT: Final = 15.0
_ROUNDS: Final = 3
"""How often points that got lost behind the API are sent again."""
_SETTLED: Final = 30.0
"""Seconds without another point after which no more are expected: a persister works in batches of seconds."""
_LOOK: Final = 1.0
_REFUSALS: Final = 3
"""Refusals of the credentials or the role one after the other: one alone may be a service that restarts."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload has got.

    Attributes:
        run: the run's id.
        done: points of it that need not be sent any more.
        total: points of it, as far as is known.
        trouble: why nothing goes on just now; empty if it does.
        awaited: points that the destination has taken and not stored yet, once all are delivered.
    """

    run: str
    done: int
    total: int
    trouble: str = ""
    awaited: int = 0


@dataclass(slots=True)
class Upload:
    """What became of one run.

    Attributes:
        run: the run's id.
        sent: points delivered now.
        before: points that had been delivered before.
        dropped: points that the destination will never take, told now or before.
        refused: those of them that it has refused; the others are none that it could be asked to take
            (nan, infinite, of an impossible time).
        left: points that are still to be sent, about.
        problems: what is damaged or missing, or why something of it was not sent: each in a sentence.
        notes: what is worth knowing and no failure: each in a sentence.
        again: points that the destination had taken and lost, and was sent again.
        missing: points that were recorded and are not there any more, for the reasons among the problems, as far as
            their number is known.
        confirmed: whether the destination was asked now and has all points that were delivered.
        busy: whether another process is sending it.
        running: whether its training still goes on.
    """

    run: str
    sent: int = 0
    before: int = 0
    dropped: int = 0
    refused: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    again: int = 0
    missing: int = 0
    confirmed: bool = False
    busy: bool = False
    running: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the destination is known to have every point that was ever recorded."""
        return self.confirmed and not self.problems and not self.dropped


def upload(
    runs: Sequence[RunFolder],
    sink: DurableSink,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    on_run: Callable[[Upload], None] = lambda _upload: None,
    patience: float = PATIENCE_SECONDS,
    confirm: bool = True,
) -> list[Upload]:
    """Send what is left of these runs.

    Damage in a file is passed over and named, by the upload that comes upon it; what is whole is sent.  A run
    whose training goes on is sent as far as it is recorded.  What all have delivered is confirmed at the end, so
    that the destination has time to store the first while it is sent the last.

    Args:
        runs: which.
        sink: where to; it is not closed.
        on_progress: told how it goes, before and after each delivery.
        on_run: told what became of each run as soon as it is over, also of those in which this raises or is
            interrupted.
        patience: seconds for which the destination may take nothing before this gives up.
        confirm: whether the destination is asked, once a run that has ended is delivered, how many of its points
            it has; what it has lost in between is sent again.

    Returns:
        What became of each run, in their order.

    Raises:
        AuthorisationError: the credentials or the role are refused, again and again.
        MlopsError: the destination took nothing for longer than ``patience``.  What was sent until then is
            behind the cursor: call it again.
    """
    results: list[Upload] = []
    delivered: list[_Uploading] = []
    try:
        for run in runs:
            one = _Uploading(run, sink, on_progress, patience)
            delivered.append(one)
            results.append(one.result)
            one.deliver()
            if not confirm or one.result.running or one.result.busy:
                on_run(delivered.pop().result)
        while delivered:
            delivered[0].confirm()
            on_run(delivered.pop(0).result)
    finally:
        for one in delivered:  # of which this was cut off
            on_run(one.result)
    return results


def look(runs: Sequence[RunFolder], sink: DurableSink) -> list[Upload]:
    """What :func:`upload` would find to be done: nothing is sent, written or locked.

    Raises:
        MlopsError: the sink cannot know its destination now.
    """
    return [_looked_at(run, sink.destination()) for run in runs]


class _Uploading:
    """One run on its way.

    Attributes:
        result: what has become of it so far.
    """

    def __init__(
        self,
        folder: RunFolder,
        sink: DurableSink,
        on_progress: Callable[[Progress], None],
        patience: float,
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._tell = on_progress
        self._patience = patience
        self._total = 0
        self._done = 0
        self._since: float | None = None
        self._refusals = 0
        self.result, self._info = _begun(folder)
        self._retrying = patiently(
            stop=self._is_enough, sleep=self._sleep, before_sleep=self._report, longest=_LONGEST_WAIT
        )

    def deliver(self) -> None:
        """Send what is left of it."""
        readers = [PointsReader(path) for path in self._folder.points_files()]
        counts = [_count(reader) for reader in readers]
        self._total = sum(counts)
        try:
            self._report()
            for reader, count in zip(readers, counts, strict=True):
                self._file(reader, count)
        finally:
            self.result.left = max(0, self._total - self._done)

    def _file(self, reader: PointsReader, count: int) -> None:
        result = self.result
        spool = Spool(reader.path, self._sink, ended=not result.running)
        first, before = self._done, 0
        try:
            self._try(spool.open)
            before = spool.delivered
            if not spool.is_done():
                self._deliver(spool, first)
            self._done = first + max(count, spool.delivered + spool.dropped)
            self._report()
        except SpoolBusyError as error:
            self._note_busy(reader, error)
        except StoreError as error:
            result.problems.append(str(error))
        finally:
            result.before += before
            result.sent += spool.delivered - before
            result.dropped += spool.dropped
            result.refused += spool.refused
            _tell_gaps(spool.gaps, result)
            spool.close()

    def _deliver(self, spool: Spool, first: int) -> None:
        while self._try(spool.advance):
            self._done = first + spool.delivered + spool.dropped
            self._report()
        if self._info is not None:
            self._try(spool.describe)

    # -- whether it has arrived -------------------------------------------------------------------

    def confirm(self) -> None:
        """Ask the destination how many points it has, and send them again until it has all that it took."""
        try:
            with contextlib.ExitStack() as opened:
                spools = [Spool(path, self._sink, ended=True) for path in self._folder.points_files()]
                opened.callback(_close, spools)
                cursors = [self._try(spool.open) for spool in spools]
                if not all(cursor.confirmed for cursor in cursors):
                    self._wait_for_all(spools)
        except AuthorisationError as error:
            self.result.notes.append(f"delivered, not confirmed, since this role may not read: {error.what}")
        except SinkUnavailableError:
            raise  # the next run would wait for it as long
        except MlopsError as error:
            self.result.notes.append(f"delivered, not confirmed: {error.what}")

    def _wait_for_all(self, spools: list[Spool]) -> None:
        wanted = self.result.before + self.result.sent
        there = self._arrived(wanted)
        for _ in range(_ROUNDS):
            if there is None or there >= wanted:
                break
            self.result.again += wanted - there
            for place, spool in enumerate(spools):
                spools[place] = spool.restarted()
                self._send(spools[place])
            wanted = sum(spool.delivered for spool in spools)
            there = self._arrived(wanted)
        self.result.confirmed = there is not None and there >= wanted
        for cursor in (spool.open() for spool in spools):
            cursor.confirmed = self.result.confirmed
            cursor.save()
        if there is not None and there < wanted:
            self.result.problems.append(
                f"{wanted - there} points were taken by the cloud and did not get into its database, though they "
                "were sent again; its operator should look at what is between the two (broker, persister)"
            )

    def _arrived(self, wanted: int) -> int | None:
        """How many points it has, once it has them all, or has had no more of them for a while."""
        most, since = -1, time.monotonic()
        while (there := self._try(lambda: self._sink.arrived(self._folder.id))) is not None and there < wanted:
            if there > most:
                most, since = there, time.monotonic()
            elif time.monotonic() - since > _SETTLED:
                break
            self._tell(Progress(self._folder.id, self._done, max(self._total, self._done), "", wanted - there))
            time.sleep(_LOOK)
        return there

    def _send(self, spool: Spool) -> None:
        while self._try(spool.advance):
            self._report()
        if self._info is not None:
            self._try(spool.describe)

    def _try(self, call: Callable[[], T]) -> T:
        """Call until it goes well, or it has been enough."""
        result = self._retrying(call)
        self._since, self._refusals = None, 0
        return result

    def _note_busy(self, reader: PointsReader, error: SpoolBusyError) -> None:
        """A training that sends its own points goes on doing so; another upload may stop before the end."""
        self.result.busy = True
        by_itself = error.pid and reader.path.name.startswith(f"{file_stem(error.host, error.pid)}-")
        if by_itself and self.result.running:
            self.result.notes.append(
                f"{reader.path.name}: its training (process {error.pid} on {error.host}) goes on and sends it itself"
            )
        else:
            self.result.problems.append(str(error).removeprefix(f"{reader.path.parent.name}: "))

    def _is_enough(self, error: BaseException) -> bool:
        if isinstance(error, AuthorisationError):
            self._refusals += 1
            return self._refusals >= _REFUSALS
        if not isinstance(error, SinkUnavailableError | CloudUnavailableError):
            return True
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since + (error.retry_after or 0.0) >= self._patience

    def _sleep(self, seconds: float) -> None:
        """Wait so long, and no longer than patience lasts: then comes the last try."""
        since = time.monotonic() if self._since is None else self._since
        time.sleep(max(0.0, min(seconds, since + self._patience - time.monotonic())))

    def _report(self, trouble: BaseException | None = None) -> None:
        what = trouble.what if isinstance(trouble, MlopsError) else str(trouble or "")
        self._tell(Progress(self._folder.id, self._done, max(self._total, self._done), what))


def _close(spools: list[Spool]) -> None:
    for spool in spools:
        spool.close()


def _begun(folder: RunFolder) -> tuple[Upload, RunInfo | None]:
    """A result that tells what is known before the points are read, and what ``run.json`` says if it can be read."""
    result = Upload(folder.id)
    try:
        info = folder.info()
    except StoreError as error:
        result.problems.append(str(error))
        return result, None
    result.running = info.outcome == RUNNING
    gone = missing_files(info, [path.name for path in folder.points_files()])
    result.problems += [f"{gap.file}: {gap.what}, and {gap.points} points with it" for gap in gone]
    result.missing += sum(gap.points for gap in gone)
    return result, info


def _count(reader: PointsReader) -> int:
    try:
        return reader.count()
    except StoreError:
        return 0


def _looked_at(folder: RunFolder, destination: str) -> Upload:
    result, _ = _begun(folder)
    for path in folder.points_files():
        reader = PointsReader(path)
        cursor = Cursor(path, destination, hold=False)
        result.before += cursor.delivered
        result.dropped += cursor.dropped
        result.refused += cursor.refused
        try:
            points = sum(len(known(columns, reader)) for columns in reader.read(whole=not result.running))
        except StoreError as error:
            result.problems.append(str(error))
            continue
        buffer = None if result.running else reader.read_buffer()
        points += len(known(buffer, reader)) if buffer is not None else 0
        result.left += max(0, points - cursor.delivered - cursor.dropped)
        _tell_gaps(reader.gaps, result)
    return result


def _tell_gaps(gaps: Sequence[Gap], result: Upload) -> None:
    for gap in gaps:
        (result.notes if gap.torn else result.problems).append(f"{gap.file}: {gap.what}")
        result.missing += gap.points
