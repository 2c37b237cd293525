"""Sending what is left of recorded runs to a durable sink: what ``mlops upload`` does.

It goes on where the training's own sink, or an upload before it, stopped; sending twice changes nothing.
It works from any machine that sees the folder of runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mlops.errors import (
    AuthorisationError,
    CloudUnavailableError,
    MlopsError,
    SinkUnavailableError,
    SpoolBusyError,
    StoreError,
)
from mlops.record import PointsReader
from mlops.sinks import DurableSink
from mlops.sinks._patience import patiently
from mlops.sinks.spool import Spool
from mlops.store import RUNNING, RunFolder

__all__ = ["PATIENCE_SECONDS", "Progress", "Upload", "upload"]

PATIENCE_SECONDS: Final = 300.0
"""How long the destination may take nothing at all before an upload gives up."""

_LONGEST_WAIT: Final = 15.0
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
    """

    run: str
    done: int
    total: int
    trouble: str = ""


@dataclass(slots=True)
class Upload:
    """What became of one run.

    Attributes:
        run: the run's id.
        sent: points delivered now.
        before: points that had been delivered before.
        dropped: points that the destination will never take: nan and infinite ones, and refused ones.
        problems: what is damaged, missing or in another's hands, each in a sentence.
        busy: whether another process is sending it.
        running: whether its training still goes on.
    """

    run: str
    sent: int = 0
    before: int = 0
    dropped: int = 0
    problems: list[str] = field(default_factory=list)
    busy: bool = False
    running: bool = False


def upload(
    runs: Sequence[RunFolder],
    sink: DurableSink,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    patience: float = PATIENCE_SECONDS,
) -> list[Upload]:
    """Send what is left of these runs.

    Damage in a file is passed over and named; what is whole is sent.  A run whose training goes on is sent as
    far as it is recorded.

    Args:
        runs: which.
        sink: where to; it is not closed.
        on_progress: told how it goes, several times a second.
        patience: seconds for which the destination may take nothing before this gives up.

    Returns:
        What became of each run, in their order.

    Raises:
        AuthorisationError: the credentials or the role are refused, again and again.
        MlopsError: the destination took nothing for longer than ``patience``.  What was sent until then is
            behind the cursor: call it again.
    """
    return [_Uploading(run, sink, on_progress, patience).work() for run in runs]


class _Uploading:
    """One run on its way."""

    def __init__(
        self, folder: RunFolder, sink: DurableSink, on_progress: Callable[[Progress], None], patience: float
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._tell = on_progress
        self._patience = patience
        self._total = 0
        self._done = 0
        self._since: float | None = None
        self._refusals = 0
        self._result = Upload(folder.id)

    def work(self) -> Upload:
        try:
            self._result.running = self._folder.info().outcome == RUNNING
        except StoreError as error:
            self._result.problems.append(str(error))
        readers = [PointsReader(path) for path in self._folder.points_files()]
        counts = [_count(reader) for reader in readers]
        self._total = sum(counts)
        for reader, count in zip(readers, counts, strict=True):
            self._file(reader, count)
        return self._result

    def _file(self, reader: PointsReader, count: int) -> None:
        result = self._result
        spool = Spool(reader.path, self._sink, ended=not result.running)
        retrying = patiently(stop=self._is_enough, sleep=time.sleep, before_sleep=self._report, longest=_LONGEST_WAIT)
        done = self._done
        try:
            retrying(spool.open)
            before = spool.delivered
            result.before += before
            while retrying(spool.advance):
                self._since, self._refusals = None, 0
                self._done = done + spool.delivered + spool.dropped
                self._report(None)
            retrying(spool.describe)
            result.sent += spool.delivered - before
            result.dropped += spool.dropped
            self._done = done + max(count, spool.delivered + spool.dropped)
        except SpoolBusyError as error:
            result.busy = True
            result.problems.append(str(error))
        except StoreError as error:
            result.problems.append(str(error))
        finally:
            result.problems += [f"{gap.file}: {gap.what}" for gap in spool.gaps]
            spool.close()

    def _is_enough(self, error: BaseException) -> bool:
        if isinstance(error, AuthorisationError):
            self._refusals += 1
            return self._refusals >= _REFUSALS
        if not isinstance(error, SinkUnavailableError | CloudUnavailableError):
            return True
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > self._patience

    def _report(self, trouble: BaseException | None) -> None:
        what = trouble.what if isinstance(trouble, MlopsError) else str(trouble or "")
        self._tell(Progress(self._folder.id, self._done, max(self._total, self._done), what))


def _count(reader: PointsReader) -> int:
    try:
        return reader.count()
    except StoreError:
        return 0
