"""One monitored training: its identity, its dimensions, its beginning and its end.

A :class:`Run` ties the rooms together: it opens the store and the recorder, samples the devices,
feeds the sinks, and says in ``run.json`` how it ended.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from mlops import cell, facts, ranks
from mlops.devices import Device, Sampler, opener
from mlops.ending import held, meet_sigterm, release_sigterm
from mlops.errors import CloudConfigError, RunError, StoreError
from mlops.loops import Epoch, Watched
from mlops.members import note_end, process_started
from mlops.ranks import Meeting
from mlops.recorder import Recorder
from mlops.ring import SUFFIX as RING_SUFFIX
from mlops.series import Series, check_dimensions, check_name, mend_dimensions
from mlops.settings import Settings
from mlops.signs import Signs
from mlops.sinks import RunIdentity, Sink, open_sink
from mlops.sinks.feed import begin as begin_feed
from mlops.store import OUTCOMES, RUNNING, RunFolder, RunInfo, file_stem, new_run_id

__all__ = ["JOIN_VARIABLE", "Run", "current_run"]

JOIN_VARIABLE: Final = "MLOPS_RUN_DIR"
"""Names the folder of the run that a process shall join; ``mlops run`` and ``mlops notebook`` set it."""

_Batch = TypeVar("_Batch")

_log = logging.getLogger("mlops")
_open: list[weakref.ref[Run]] = []
_epochs: dict[str, itertools.count[int]] = {}
"""Epochs completed, by run id: a run that this process joins several times goes on counting."""


def current_run() -> Run | None:
    """The run opened last in this process and still open, if any."""
    for reference in reversed(_open):
        run = reference()
        if run is not None and run.is_open:
            return run
    return None


class Run:
    """A monitored training, from construction to :meth:`close`, best used as a context manager.

    Every argument left out is taken from the settings (see :class:`mlops.settings.Settings`).
    Under ``mlops run`` or ``mlops notebook`` it joins the run that the command opened: it takes
    that run's name and id and writes a points file of its own beside it.

    The ranks of a distributed training record one run, without waiting for one another: each its own GPUs, and rank 0
    what is logged, since in the others the same lines say the same again (the setting ``every_rank`` has them
    recorded too, each with its rank).

    Args:
        name: runs of one kind share it; the script's name if given nowhere.
        dimensions: of every series of this run, such as ``{"team": "vision"}``.
        parameters: what the training was called with; kept in ``run.json``.
        sinks: where points go besides the store, as URLs or :class:`~mlops.sinks.Sink` objects.
        devices: what is metered, such as ``["nvidia", "host"]``.
        runs_dir: the folder of runs.
        settings: all settings at once; arguments above still come first.

    Raises:
        SettingsError: a setting, a sink's URL or a device's name cannot be understood.
        SeriesError: a dimension that Monasca would refuse; the message offers the mended one.

    Attributes:
        id: unique, sortable by start; the same in all ranks of a training, see :mod:`mlops.ranks`.
        name: as above.
        dir: the run's folder.
        dimensions: as above, those of the settings included.
        rank: of this process; ``None`` outside a distributed training.
        joined: whether the run was opened by another process.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        dimensions: Mapping[str, str | int | float] | None = None,
        parameters: Mapping[str, Any] | None = None,
        sinks: Sequence[str | Sink] | None = None,
        devices: Sequence[str] | None = None,
        runs_dir: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings.load()
        self._rank = ranks.here()
        self.rank = self._rank.number if self._rank else None
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._closed = False
        self._edition = 0
        joined = os.environ.get(JOIN_VARIABLE)
        self.joined = self._launched = bool(joined)
        self.dimensions = check_dimensions({**self.settings.dimensions, **(dimensions or {})})
        opened = _open_sinks(self.settings.sinks if sinks is None else sinks, self.settings)
        environ = {**os.environ, **self._rank.environ} if self._rank else None
        openers = [opener(device, environ) for device in (self.settings.devices if devices is None else devices)]
        self._info = self._identify(name, dict(parameters or {}), joined)
        self.name = self._info.name
        root = Path(joined).parent if joined else Path(runs_dir or self.settings.runs_dir)
        self._meeting = self._meet(root)
        self.id = self._info.id = self._meeting.run_id
        self._folder, self._recorder = self._open_store(root)
        self.dir = self._folder.path
        self.__dict__["log"] = self._recorder.log if self._speaks else self._left_to_rank_0
        self._process = self._mark_of_process()
        identity = RunIdentity(
            self.id, self.name, self.dimensions, self._info.host, self.rank, self._process, self.dir, self._info
        )
        self._feeds = [begin_feed(sink, self._recorder.path, identity, label) for label, sink in opened]
        self._note_start()
        self._sampler = Sampler(
            openers,
            self._recorder.put,
            interval=self.settings.sample_seconds,
            publish=not self._launched,
            on_open=self._note_devices,
        )
        self._error_before = id(getattr(sys, "last_value", None))
        self._cell = cell.running()
        _end_of_earlier_time(self._cell)
        _open.append(weakref.ref(self))
        _KEEP.add(self)
        meet_sigterm(_close_for_sigterm)

    # -- what a training calls ------------------------------------------------------------------

    def log(self, values: Mapping[str, Any], *, step: int | None = None, time: float | None = None) -> None:
        """Record values of now: ``run.log({"train.loss": loss})``.

        What it accepted survives ``kill -9``.  It never raises and never blocks: what it cannot
        record is counted and warned of once.  A name that Monasca would refuse is recorded under
        the nearest one that it takes.  nan and infinite values are recorded and not sent.

        Args:
            values: names and numbers; also numpy scalars, and tensors or arrays of one element.  A tensor on a CUDA
                device is fetched meanwhile: the point has the time of this call, and nothing waits for the GPU.
            step: a number of the caller's own that orders the points, such as a batch or an epoch.
            time: seconds since the epoch, for points of another time than now.
        """
        self._recorder.log(values, step=step, time=time)

    @property
    def _speaks(self) -> bool:
        """Whether what is logged here is recorded."""
        return not self._rank or not self._rank.number or not self._rank.sure or self.settings.every_rank

    def _left_to_rank_0(self, *_: object, **__: object) -> None:
        """Stand for :meth:`log` in the ranks above 0."""

    def series(self, name: str, dimensions: Mapping[str, str | int | float] | None = None) -> Callable[[Any], None]:
        """A function that records one value of one series, quicker than :meth:`log`.

        Args:
            name: the metric's name.
            dimensions: what tells this series from others of the same name. One that has a ``rank`` is recorded in
                the ranks above 0 too.

        Raises:
            SeriesError: Monasca would refuse the name or a dimension; the message offers the mended one.
        """
        series = Series.of(check_name(name), check_dimensions(dimensions or {}))
        if self._speaks or "rank" in (dimensions or {}):
            return self._recorder.series(series)
        return self._left_to_rank_0

    def epoch(self) -> Epoch:
        """An epoch of a loop of one's own, which counts itself, its time and its energy.

        ::

            with run.epoch() as epoch:
                for batch in run.watch(loader):
                    run.log({"train.loss": train_on(batch)})
                epoch.log({"valid.loss": validate()})
        """
        return Epoch(self.begin_epoch, lambda values, seconds: self.end_epoch(values, seconds=seconds))

    def watch(self, loader: Iterable[_Batch]) -> Watched[_Batch]:
        """The same batches, with the time that is waited for them told from the time that is spent on them.

        ``train.data_wait_seconds`` and ``train.batch_seconds`` are recorded about once a second, each the mean per
        batch: a GPU that the data keep waiting shows in the first.

        Args:
            loader: of batches; a ``DataLoader`` or anything else that can be iterated over.
        """

        def tell(wait: float, work: float) -> None:
            self._recorder.log({"train.data_wait_seconds": wait, "train.batch_seconds": work})

        return Watched(loader, tell)

    def begin_epoch(self) -> None:
        """Say that an epoch begins, where something else came before it, such as loading data or a pause.

        The energy used until now is then no epoch's.  Epochs that follow one another need not say it.
        """
        self._sampler.lap(None)

    def end_epoch(self, values: Mapping[str, Any] | None = None, *, seconds: float | None = None) -> int:
        """Say that an epoch is over: its values are recorded and its energy is counted.

        Args:
            values: what was found out about it, such as ``{"valid.loss": …, "valid.accuracy": …}``.
            seconds: how long it took.

        Returns:
            How many epochs this run has completed.
        """
        epoch = next(_epochs.setdefault(self.id, itertools.count(1)))
        if values is not None:
            self.log(values, step=epoch)
        if seconds is not None:
            self.log({"train.epoch_seconds": seconds}, step=epoch)
        self.log({"train.epoch": epoch}, step=epoch)
        self._sampler.lap(epoch)
        return epoch

    def note(self, **parameters: object) -> None:
        """Add parameters to what ``run.json`` says of this run."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._info.parameters.update(_plain(parameters))
            noted = dict(self._info.parameters)
        self._save_info({"parameters": noted})

    def close(self, outcome: str = "finished", reason: str = "") -> None:
        """End the run; a second call does nothing.

        Waits for the sinks no longer than ``close_seconds``; what they have not delivered by then
        stays in the store.

        Args:
            outcome: one of :data:`mlops.store.OUTCOMES`.
            reason: why it ended so, in a sentence.

        Raises:
            RunError: there is no such outcome.
        """
        if outcome not in OUTCOMES:
            raise RunError(f"There is no outcome {outcome!r}", remedy=f"Outcomes: {', '.join(OUTCOMES)}.")
        if os.getpid() != self._pid:
            return
        with held():
            with self._lock:
                if self._closed:
                    return
                self._closed = True
            self._close(outcome, reason)

    def _close(self, outcome: str, reason: str) -> None:
        deadline = time.monotonic() + self.settings.close_seconds
        self._sampler.close(min(2.0, self.settings.close_seconds))
        self._recorder.close(max(1.0, self.settings.close_seconds))
        self._say_outcome(outcome, reason)
        for feed in self._feeds:
            feed.end(max(0.0, deadline - time.monotonic()))
        for feed in self._feeds:
            if not feed.close(max(0.0, deadline - time.monotonic())):
                _log.warning("%s", feed.late())
        self._meeting.leave(owner=not self.joined)
        _forget(self)

    # -- what others ask ------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether this run still records, in this process."""
        return not self._closed and os.getpid() == self._pid

    @property
    def dropped(self) -> int:
        """Points that could not be kept: the buffer was full, or the disk took no new series' name."""
        return self._recorder.dropped

    @property
    def parameters(self) -> dict[str, Any]:
        """What the training was called with, as far as this process has noted it; a copy."""
        if os.getpid() != self._pid:  # a forked child, whose parent may have held the lock
            return dict(self._info.parameters)
        with self._lock:
            return dict(self._info.parameters)

    @property
    def sinks(self) -> list[Sink]:
        """The sinks of this process."""
        return [feed.sink for feed in self._feeds]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(*outcome_of(error))

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<mlops.Run {self.id} {state}>"

    def __reduce__(self) -> tuple[object, ...]:
        """A copy is the run itself in the process that records it, and stands for it elsewhere."""
        return _found_again, (self.id, self.name, self.dir)

    # -- beginnings -----------------------------------------------------------------------------

    def _identify(self, name: str | None, parameters: dict[str, Any], joined: str | None) -> RunInfo:
        now = time.time()
        if joined:
            folder = RunFolder(Path(joined))
            try:
                info = folder.info()
            except StoreError:
                info = RunInfo(folder.id, name or self.settings.name or _script_name(), now)
            self.dimensions = {**info.dimensions, **self.dimensions}
            self._owner = file_stem(info.host, info.pid)
        else:
            chosen = name or self.settings.name or _script_name()
            check_dimensions({"run": chosen}, "the run's name")
            info = RunInfo(new_run_id(chosen, now), chosen, now)
        info.dimensions = self.dimensions
        info.parameters = _plain(parameters)
        info.host = socket.gethostname()
        info.versions = facts.versions()
        if not joined:
            info.pid, info.pid_started = os.getpid(), process_started(os.getpid())
        return info

    def _meet(self, root: Path) -> Meeting:
        """What the run is called, of which the other ranks may have a word."""
        if self._rank is None or self._launched:
            return Meeting(self._info.id)

        def is_over(run_id: str) -> bool:
            with contextlib.suppress(StoreError):
                return RunFolder(root / run_id).info().outcome != RUNNING
            return False

        return ranks.agree(self.name, self._info.id, self._rank, root, is_over)

    def _open_store(self, root: Path) -> tuple[RunFolder, Recorder]:
        try:
            return self._open_store_in(root)
        except OSError as error:
            fallback = Path(tempfile.mkdtemp(prefix="mlops-runs-"))
            _log.warning(
                "Cannot record in %s: %s. This run is recorded in %s instead; set MLOPS_RUNS_DIR to a writable folder.",
                root.absolute(),
                error.strerror or error,
                fallback,
            )
        try:
            return self._open_store_in(fallback)
        except OSError as error:
            raise StoreError(
                f"Cannot record a run in {root.absolute()} nor in {fallback}: {error.strerror or error}",
                remedy="Free space, or set MLOPS_RUNS_DIR to a writable folder.",
            ) from error

    def _open_store_in(self, root: Path) -> tuple[RunFolder, Recorder]:
        folder = RunFolder((root / self.id).absolute())
        if self._launched or self._rank is None:
            folder.create()
        else:
            self.joined = not folder.claim()
        if not self.joined:
            folder.write_info(self._info)  # before anything else: where this fails, nothing can be recorded
        elif not self._launched:
            self._defer_to_owner(folder)
        recorder = Recorder(
            folder.new_points_path(),
            slots=self.settings.buffer_points,
            interval=self.settings.fold_seconds,
            on_fold=self._wake_feeds,
            watch=Signs(),
        )
        return folder, recorder

    def _defer_to_owner(self, folder: RunFolder) -> None:
        """Another rank came first: the run is its, and began with it."""
        self._info.pid = self._info.pid_started = 0  # until it has said so
        with contextlib.suppress(StoreError):
            owner = folder.info()
            self._info.started, self._info.pid, self._info.pid_started = owner.started, owner.pid, owner.pid_started

    def _mark_of_process(self) -> str:
        """What tells this process's series from those of others of this run that have no rank either.

        The first that joins needs no mark.  It is decided after the own file is there: of two that join at
        once, at least one sees the other.
        """
        if not self.joined or self.rank is not None:
            return ""
        own = self._recorder.path
        owner = f"{self._owner}-"
        before = f"{own.stem.rpartition('-')[0]}-"
        for path in self._folder.points_files():
            ended_here = path.name.startswith(before) and not path.with_suffix(RING_SUFFIX).exists()
            if path != own and not path.name.startswith(owner) and not ended_here:
                return own.stem
        return ""

    def _note_start(self) -> None:
        self._save_info(
            {
                "name": self.name,
                "process": self._process,
                "host": self._info.host,
                "pid": self._pid,
                "pid_started": process_started(self._pid),
                "rank": self.rank,
                "peer": self.joined and not self._launched,
                "parameters": self._info.parameters,
                "dimensions": self.dimensions,
                "versions": self._info.versions,
            }
        )

    def _note_devices(self, devices: Sequence[Device]) -> None:
        """On the sampler's thread, with the git commit, since both take their time."""
        meters = [
            {"device": meter.device, "id": meter.id, "name": meter.name, "method": meter.method}
            for device in devices
            for meter in device.meters()
        ]
        reasons = [reason for device in devices if (reason := device.not_metered())]
        commit = facts.git_commit()
        with self._lock:
            self._info.git_commit = commit
            self._info.notes.update({"meters": meters, "not_metered": reasons})
        self._save_info({"meters": meters, "not_metered": reasons})

    def _wake_feeds(self) -> None:
        for feed in self.__dict__.get("_feeds", ()):
            feed.wake()

    # -- endings --------------------------------------------------------------------------------

    def _say_outcome(self, outcome: str, reason: str) -> None:
        with self._lock:
            self._info.ended = time.time()
            self._info.outcome = outcome
            self._info.reason = reason
            self._info.versions = facts.versions()
            counts = {
                "dropped": self._recorder.dropped,
                "refused": self._recorder.refused,
                "not_finite": self._recorder.not_finite,
            }
            self._info.notes.update({key: count for key, count in counts.items() if count})
            if (points := self._recorder.points) is not None:
                self._info.notes["points"] = {self._recorder.path.name: points}
        self._save_info(None)
        if self.joined and (outcome != "finished" or self._recorder.points is None):  # its buffer may be left
            try:
                note_end(self._recorder.path, outcome, reason, rank=self.rank, peer=not self._launched)
            except OSError as error:
                self._recorder.warn_once("end", f"Cannot note in {self.dir} how it ended: {error.strerror or error}.")
        if self._recorder.dropped:
            _log.warning(
                "%d points of %s were dropped in all, as run.json and the report say.", self._recorder.dropped, self.id
            )

    def _save_info(self, notes: Mapping[str, Any] | None) -> None:
        """The owner keeps ``run.json``; every process keeps its notes in its points file.

        Not to be called with the lock held: the recorder has one too, and a signal handler that closes the run comes
        while the main thread holds that.  What such a handler has written is not replaced by what it interrupted.
        """
        if notes is not None:
            self._recorder.write_notes(notes)
        if self.joined:
            return
        try:
            with self._lock:
                edition = self._edition = self._edition + 1
                self._folder.write_info(self._info, unless=lambda: self._edition != edition)
        except OSError as error:
            self._recorder.warn_once("run.json", f"Cannot write {self.dir}/run.json: {error.strerror or error}.")


def outcome_of(error: BaseException | None) -> tuple[str, str]:
    """How a run that ended with this exception ended, and why."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished", ""
    first, *others = f"{type(error).__name__}: {error}".strip().splitlines()
    if first.endswith(":") and others:  # fastai puts where it happened above what happened
        first = f"{first} {others[0].strip()}"
    return ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed"), first.rstrip(":")[:300]


def _found_again(run_id: str, name: str, folder: Path) -> Run:
    """The run of this process that was pickled or copied, or what stands for one of another."""
    for reference in reversed(_open):
        run = reference()
        if run is not None and run.id == run_id and run.is_open:
            return run
    from mlops.stranger import StrangerRun

    return StrangerRun(run_id, name, folder)


_KEEP: Final[set[Run]] = set()
"""Open runs: they are ended at interpreter exit, whoever still holds them."""


def _forget(run: Run) -> None:
    _KEEP.discard(run)
    if not _KEEP:
        release_sigterm()
    _open[:] = [reference for reference in _open if reference() not in (None, run)]


def _end_of_earlier_time(now: cell.Cell | None) -> None:
    """A cell of a notebook that opens a run is run again: the run that it opened before goes on no longer."""
    for run in list(_KEEP) if now else ():
        if now and now.runs_again_after(run._cell):  # noqa: SLF001 - same module
            run.close("interrupted", "Its notebook cell was run again.")


def _close_for_sigterm() -> None:
    for run in list(_KEEP):
        with contextlib.suppress(Exception):
            run.close("interrupted", "SIGTERM")


@atexit.register
def _close_all() -> None:
    error = getattr(sys, "last_value", None)
    for run in list(_KEEP):
        with contextlib.suppress(Exception):
            fresh = run._cell is None and id(error) != run._error_before  # noqa: SLF001 - same module
            run.close(*outcome_of(error if fresh else None))


def _open_sinks(sinks: Sequence[str | Sink], settings: Settings) -> list[tuple[str, Sink]]:
    """The sinks and what messages call them; one whose cloud is not described here is warned of and left out."""
    opened: list[tuple[str, Sink]] = []
    for sink in sinks:
        if not isinstance(sink, str):
            opened.append((type(sink).__name__, sink))
            continue
        try:
            opened.append((sink, open_sink(sink, settings)))
        except CloudConfigError as error:
            _log.warning(
                "%s: %s Training goes on without it; every point is in the store. Once that is mended, mlops upload "
                "sends them.",
                sink,
                error,
            )
    return opened


def _script_name() -> str:
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return mend_dimensions({"run": Path(main).stem}).get("run", "run") if main else "run"


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON can hold them; what it cannot is kept as its text."""
    plain: dict[str, Any] = {}
    for key, value in parameters.items():
        try:
            plain[str(key)] = value if isinstance(value, str | int | float | bool | None) else str(value)
        except Exception as error:  # noqa: BLE001 - an object of the user's may not even have a text
            plain[f"parameter {len(plain)}"] = f"{type(error).__name__} when its text was asked for"
    return plain
