"""The hot path: a bounded, memory-mapped buffer and the one thread that drains it.

``log`` costs the training thread about three ``deque.append``: it takes a free slot from a list of
free slots (one atomic ``popleft``) and packs the point into a shared mapping of a file.  The
kernel keeps that mapping, so a point that ``log`` accepted survives ``kill -9`` without a system
call; the drain thread folds filled slots into the points file (mlops.store) twice a second and
returns them to the list.

Three things happen without a test on the hot path, through an exception out of it:

* the free list is **empty** (IndexError): the buffer is full, or the recorder is closed, or this
  is a forked child, whose list was emptied;
* the free list hands out a **trip wire**, ``None`` (TypeError): an eighth of the buffer has been
  used, so the drain thread is woken early;
* the **name is new** (KeyError): its definition is written to the file first.

The layout of a slot is :mod:`mlops.ring`'s.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlops.blocks import Columns
from mlops.errors import SeriesError
from mlops.ring import POINT, SUFFIX, Buffer
from mlops.series import Mender, Series, as_number
from mlops.store import PointsWriter
from mlops.tensors import LATE, Arrivals, is_tensor

__all__ = ["Recorder"]

DEFAULT_SLOTS: Final = 1 << 16
_HEARTBEAT: Final = 30.0
_NOTHING: Final = Columns.join(())
_PLAIN: Final = (bool, int, np.float64, np.float32, np.float16, np.int64, np.int32)
"""Types of which float() makes a number, and nothing else."""
_PATIENCE: Final = 10.0
"""Seconds for which a GPU may bring nothing until its values lose their places."""
_LATE_SECONDS: Final = 2.0
"""How long the end waits for a GPU that has not reached the last values yet."""

Watch = Callable[[Columns, Sequence[Series]], Sequence[tuple[Series, float]]]

_log = logging.getLogger("mlops")


class Recorder:
    """Takes points on any thread and folds them into a points file on its own.

    Args:
        path: the points file to make; its buffer lies beside it.
        slots: how many points the buffer holds (64 bytes each).
        interval: seconds between folds; what a power cut can cost at most.
        on_fold: called on the drain thread after points were folded (and about every
            ``interval`` without any), to wake the sinks.
        watch: given points on the drain thread once they are in the file (and about every ``interval``
            none), with what their series ids stand for; the values that it gives back are recorded too, of
            which it is not told.
        arrivals: brings what is logged while it is on a GPU; for tests.
        clock: seconds since the epoch.

    Raises:
        OSError: the file or its buffer cannot be made.

    Attributes:
        log: ``log(values, *, step=None, time=None)``, see :meth:`mlops.run.Run.log`.
        dropped: points not kept because the buffer was full or the file unwritable.
        refused: values that are no number, points after the end.
        not_finite: nan and infinite values among the points kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        slots: int = DEFAULT_SLOTS,
        interval: float = 0.5,
        on_fold: Callable[[], None] | None = None,
        watch: Watch | None = None,
        arrivals: Arrivals | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.dropped = 0
        self.refused = 0
        self.not_finite = 0
        self._interval = interval
        self._on_fold = on_fold
        self._watch = watch
        self._clock = clock
        self._pid = os.getpid()
        self._state = "open"
        self._said: set[str] = set()
        self._lock = threading.RLock()
        self._writing_thread = 0
        self._deferred: deque[Callable[[], None]] = deque()
        self._ids: dict[str, int] = {}
        self._series: dict[Series, int] = {}
        self._named: list[Series] = []
        self._mender = Mender(most=math.inf)
        self._undefined_until = -math.inf
        self._arrivals = arrivals or Arrivals()
        self._awaited: float | None = None
        self._kinds: dict[type, Callable[[Any, Any, float], float | None]] = dict.fromkeys(_PLAIN, self._of_float)
        self._writer = PointsWriter(path)
        self._ring = Buffer(path.with_suffix(SUFFIX), max(64, slots))
        self._warn_of_memory()
        self._failing: str | None = None
        self._points: int | None = None
        self._unsynced = False
        self._synced = time.monotonic()
        self.log = self._make_log()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread = threading.Thread(target=self._drain, name="mlops-recorder", daemon=True)
        _LIVE.add(self)
        self._thread.start()

    # -- the hot path -------------------------------------------------------------------------

    def _make_log(self) -> Callable[..., None]:
        """``log`` as a closure: a local is read three times as fast as an attribute."""
        buffer, pack, clock, ids, kinds = self._ring.memory, POINT.pack_into, self._clock, self._ids, self._kinds
        take: Callable[[], Any] = self._ring.free.popleft
        admit, admit_all, refuse, ring_bell = self._admit, self._admit_all, self._refuse, self._ring_bell

        def log(values: Mapping[str, Any], *, step: int | None = None, time: float | None = None) -> None:
            if step is not None or time is not None:
                admit_all(values, step, time)
                return
            now = clock()
            try:
                for name in values:
                    value = values[name]
                    if value.__class__ is not float:
                        value = (kinds.get(value.__class__) or admit)(name, value, now)
                        if value is None:
                            continue
                    try:
                        number = ids[name]
                        pack(buffer, take(), now, value, 0, number, now, value, 0, number)
                    except LookupError:
                        admit(name, value, now)
                    except TypeError:
                        ring_bell()
                        admit(name, value, now)
            except Exception as error:  # noqa: BLE001 - nothing leaves a training loop
                refuse(values, error)

        return log

    def series(self, series: Series) -> Callable[[Any], None]:
        """A function that logs one value of one series: ``log`` without looking up the name."""
        buffer, pack, clock, kinds = self._ring.memory, POINT.pack_into, self._clock, self._kinds
        take: Callable[[], Any] = self._ring.free.popleft  # None among the slots is a trip wire
        admit, ring_bell = self._admit, self._ring_bell
        number = self._define(series)
        if number is None:
            return lambda value: admit(series, value, clock())

        def put(value: Any) -> None:
            now = clock()
            if value.__class__ is not float:
                value = (kinds.get(value.__class__) or admit)(series, value, now)
                if value is None:
                    return
            try:
                pack(buffer, take(), now, value, 0, number, now, value, 0, number)
            except LookupError:
                admit(series, value, now)
            except TypeError:
                ring_bell()
                admit(series, value, now)

        return put

    def _of_float(self, what: str | Series, value: Any, now: float) -> float | None:
        """An int or a numpy scalar: a number, if a float can be as large."""
        try:
            return float(value)
        except OverflowError:
            self._admit(what, value, now)
            return None

    def _of_tensor(self, what: str | Series, value: Any, now: float) -> float | None:
        """A tensor that is here costs what its ``item()`` costs; one on a GPU is fetched meanwhile."""
        try:
            if self._arrivals.holds(value):
                if self._fetch(what, value, now, 0):
                    return None
            elif (number := value.item()).__class__ is float:
                return number
        except Exception:  # noqa: BLE001, S110 - the slow road tries again, and says what is wrong
            pass
        self._admit(what, value, now)
        return None

    # -- the slow road ------------------------------------------------------------------------

    def put(self, series: Series, value: object, *, time: float | None = None, step: int | None = None) -> None:
        """Log one value of one series, with a time and a step of its own if wanted; never raises."""
        self._admit(series, value, self._clock() if time is None else time, step)

    def _admit_all(self, values: Mapping[str, Any], step: int | None, time: float | None) -> None:
        now = self._clock() if time is None else time
        try:
            for name in values:
                self._admit(name, values[name], now, step)
        except Exception as error:  # noqa: BLE001 - nothing leaves a training loop
            self._refuse(values, error)

    def _refuse(self, values: object, error: Exception) -> None:
        self.refused += 1
        self.warn_once(
            "log",
            f"log() takes a mapping of names to numbers, not {type(values).__name__} ({error}). "
            'Nothing of it was recorded; training goes on. Log {"train.loss": value}.',
        )

    def _admit(self, what: str | Series, value: object, now: float, step: int | None = None) -> None:
        """One point by the slow road: whatever is unusual about it is dealt with here."""
        try:
            if is_tensor(value.__class__):
                self._kinds[value.__class__] = self._of_tensor
                if self._arrivals.holds(value) and self._fetch(what, value, now, self._marked_step(step)):
                    return
            number = value if value.__class__ is float else as_number(value)
        except Exception as error:  # noqa: BLE001 - a tensor on a dead device raises whatever it likes
            self.refused += 1
            self.warn_once(f"value {what}", f"{what}: {error}. The value was not recorded; training goes on.")
            return
        marked = self._marked_step(step)
        if self._writing_thread == threading.get_ident():
            self._deferred.append(functools.partial(self._admit, what, number, now, step))
            return
        series_id = self._id_of(what)
        if series_id is None:
            return
        try:
            offset = self._slot()
        except IndexError:
            self._no_slot(what)
        else:
            POINT.pack_into(self._ring.memory, offset, now, number, marked, series_id, now, number, marked, series_id)

    def _fetch(self, what: str | Series, value: Any, now: float, marked: int) -> bool:
        """Have a tensor brought here from its GPU; ``False`` where only waiting for it will do.

        The point's slot is taken now, so that it keeps its place among the others, and filled by :meth:`_land`.
        """
        if self._writing_thread == threading.get_ident():  # a signal handler, see _writing
            return False
        number = self._id_of(what)
        if number is None:
            return True
        place, departure = None, None
        if self._state == "open":
            try:
                departure = self._arrivals.begin(value)
                place = self._slot()
            except IndexError:
                pass
        if departure is not None:
            self._arrivals.describe(departure, place, now, marked, number)
        if place is None:
            self._no_slot(what)
        return True

    def _slot(self) -> int:
        """A slot of the buffer. IndexError: there is none."""
        while (offset := self._ring.free.popleft()) is None:  # a trip wire
            self._ring_bell()
        return offset

    def _marked_step(self, step: int | None) -> int:
        if step is None:
            return 0
        try:
            marked = int(step) + 1
        except (TypeError, ValueError):
            marked = -1
        if 0 < marked < 1 << 32:
            return marked
        self.warn_once("step", f"step {step!r} is not between 0 and {(1 << 32) - 2}; points are recorded without it.")
        return 0

    def _id_of(self, what: str | Series) -> int | None:
        if isinstance(what, Series):
            return self._define(what)
        known = self._ids.get(what)
        if known is not None:
            return known
        number = self._define(Series(what))
        if number is not None:
            self._ids[what] = number
        return number

    def _define(self, series: Series) -> int | None:
        """The slot number (id + 1) of a series, written to the file before its first point is taken."""
        number = self._series.get(series)
        if number is not None:
            return number
        if self._state != "open":
            self._no_slot(series)
            return None
        with self._writing():
            number = self._series.get(series)
            return self._define_new(series) if number is None else number

    def _define_new(self, series: Series) -> int | None:
        if time.monotonic() < self._undefined_until:
            self.dropped += 1
            return None
        try:
            return self._write_series(series)
        except SeriesError as error:
            self.refused += 1
            self.warn_once(f"series {series!r}", f"{error} Its values are not recorded; training goes on.")
        except OSError as error:
            self._undefined_until = time.monotonic() + 1.0
            self.dropped += 1
            self._cannot_write(error)
        return None

    def _write_series(self, series: Series) -> int:
        number = len(self._series) + 1
        good, why = self._mender.mend(series)
        if why:
            self.warn_once(f"series {series!r}", f"{why}; it is recorded as {str(good)!r}.")
        self._writer.write_series({number - 1: good})
        self._named.append(good)
        self._series[series] = number
        return number

    def _no_slot(self, what: str | Series) -> None:
        if self._state == "open":
            with self._lock:
                self.dropped += 1
            self._ring_bell()
            self.warn_once(
                "full",
                f"The buffer of {self._ring.slots} points is full; points are dropped and counted until it has room. "
                "Log less often, or raise MLOPS_BUFFER_POINTS.",
            )
            return
        self.refused += 1
        if self._state == "forked":
            self.warn_once("forked", f"{what}: logged in a forked child of the process that records; not recorded.")
        else:
            self.warn_once("closed", f"{what}: logged after the run had ended; not recorded. Start a new mlops.Run.")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the file.

        A signal handler that interrupts this very thread in here can neither write nor wait: what
        it logs is put off until the interrupted write is done, a few microseconds later.
        """
        with self._lock:
            self._writing_thread = threading.get_ident()
            try:
                yield
            finally:
                self._writing_thread = 0
        while self._deferred:
            self._deferred.popleft()()

    def warn_once(self, key: str, message: str) -> None:
        """One warning for each key in the life of this recorder."""
        if key in self._said:
            return
        self._said.add(key)
        _log.warning("%s", message)

    def _ring_bell(self) -> None:
        """Wake the drain thread; releasing a lock is one atomic call, safe in a signal handler."""
        with contextlib.suppress(RuntimeError):
            self._bell.release()

    # -- the drain thread ---------------------------------------------------------------------

    @property
    def points(self) -> int | None:
        """Points in the file, once it has been ended; ``None`` while it is not known."""
        return self._points

    def write_notes(self, notes: Mapping[str, Any]) -> None:
        """Append notes on this process to the file; a disk that refuses them is warned of."""
        if self._writing_thread == threading.get_ident():
            self._deferred.append(functools.partial(self.write_notes, dict(notes)))
            return
        with self._writing():
            try:
                self._writer.write_notes(notes)
            except OSError as error:
                self._cannot_write(error)

    def close(self, timeout: float = 5.0) -> None:
        """Fold what is left, end the file, remove the buffer; a second call does nothing.

        Args:
            timeout: seconds to wait for the disk; what it has not taken by then stays in the
                buffer's file, where readers find it.
        """
        if os.getpid() != self._pid or self._state != "open":
            return
        self._state = "closing"
        self._ring.free.clear()
        self._ring_bell()
        self._thread.join(timeout)

    def _drain(self) -> None:
        beaten = time.monotonic()
        while self._state == "open":
            self._bell.acquire(timeout=self._interval)
            if os.getpid() != self._pid:
                return
            self._pass()
            if time.monotonic() - beaten > _HEARTBEAT:
                beaten = time.monotonic()
                with contextlib.suppress(OSError):
                    os.utime(self.path)
        self._finish()

    def _pass(self) -> None:
        try:
            while self._land():
                pass
            while self.fold():
                pass
            self._look(_NOTHING)
        except Exception:  # noqa: BLE001 - the drain thread must outlive whatever goes wrong in one pass
            self.warn_once("drain", "The recorder failed in a way that it should not; please report this.")
            _log.debug("drain", exc_info=True)
        if self._on_fold is not None:
            self._on_fold()

    def fold(self) -> bool:
        """Move filled slots into the file; True if there may be more. For the drain thread."""
        columns, length = self._ring.filled(ending=self._state != "open", expects=self._arrivals.expects)
        if not length:
            if self._ring.waits:
                time.sleep(0.001)
            return self._ring.waits or self._sync()
        end = (self._ring.next + length) % self._ring.slots
        try:
            if len(columns):
                with self._writing():
                    self._writer.write_points(columns, end)
                self._unsynced = True
                if time.monotonic() - self._synced > self._interval:
                    self._sync()
        except OSError as error:
            self._cannot_write(error)
            return False
        self.not_finite += int(np.count_nonzero(~np.isfinite(columns.value)))
        if self._failing:
            _log.warning("%s can be written again; recording goes on.", self.path)
            self._failing = None
            self._said.discard("disk")
        self._ring.release(length, reuse=self._state == "open")
        if len(columns):
            self._look(columns)
        return True

    def _land(self) -> bool:
        """Put what has arrived from a GPU where it belongs; True if there may be more. For the drain thread.

        What takes longer than :data:`_PATIENCE` loses its place, so that nothing is held up by it, and is recorded
        behind the others once it comes.
        """
        here = self._arrivals.arrived(ending=self._state != "open")
        if here is not None:
            self._awaited = None
            late = here.place == LATE
            kept = ~late
            self._ring.fill(here.place[kept], here.time[kept], here.value[kept], here.step[kept], here.series[kept])
            if late.any():
                self._write_beside(
                    Columns(here.time[late], here.value[late], here.series[late] - np.uint32(1), here.step[late])
                )
            return True
        if not self._arrivals.waiting:
            self._awaited = None
        elif self._awaited is None:
            self._awaited = time.monotonic()
        elif time.monotonic() - self._awaited > _PATIENCE:
            self._ring.void(self._arrivals.release_places())
        return False

    def _await_arrivals(self) -> None:
        """At the end: a GPU that works off its queue gets a while for it, one that is dead costs no more."""
        deadline = time.monotonic() + _LATE_SECONDS
        while self._arrivals.waiting and time.monotonic() < deadline:
            if not self._land():
                time.sleep(0.001)
        self._ring.void(self._arrivals.release_places())
        if lost := self._arrivals.give_up():
            self.dropped += lost
            self.warn_once(
                "late",
                f"{lost} values were logged on a GPU and had not come from it {_LATE_SECONDS:g} s after the end; they "
                "are not recorded. Where it is well, wait for it (torch.cuda.synchronize()) before the run ends.",
            )

    def _look(self, columns: Columns) -> None:
        """Show points to the watch, and write what it says of them behind them: no slot is needed for that."""
        told: Sequence[tuple[Series, float]] = ()
        try:
            told = self._watch(columns, self._named) if self._watch is not None else ()
        except Exception:  # noqa: BLE001 - what is recorded comes before what is made of it
            self._watch = None
            self.warn_once("watch", "The recorder's watch failed in a way that it should not; please report this.")
            _log.debug("watch", exc_info=True)
        if not told:
            return
        now = self._clock()
        try:
            with self._writing():
                numbers = [self._series.get(series) or self._write_series(series) for series, _ in told]
        except OSError as error:
            self.dropped += len(told)
            self._cannot_write(error)
            return
        self._write_beside(
            Columns(
                np.full(len(told), now),
                np.array([value for _, value in told], np.float64),
                np.array(numbers, np.uint32) - np.uint32(1),
                np.zeros(len(told), np.uint32),
            )
        )

    def _write_beside(self, columns: Columns) -> None:
        """Write points that have no slot behind those that had one."""
        try:
            with self._writing():
                self._writer.write_points(columns, self._ring.next)
            self._unsynced = True
        except OSError as error:
            self.dropped += len(columns)
            self._cannot_write(error)

    def _sync(self) -> bool:
        if self._unsynced:
            try:
                self._writer.sync()
                self._unsynced = False
                self._synced = time.monotonic()
            except OSError as error:
                self._cannot_write(error)
        return False

    def _finish(self) -> None:
        self._ring.free.clear()
        self._await_arrivals()
        self._pass()
        with self._lock:
            self._state = "closed"
            try:
                counts = {"dropped": self.dropped, "refused": self.refused}
                self._writer.write_notes(
                    {"points": self._writer.seq, **{name: count for name, count in counts.items() if count}}
                )
                self._writer.close()
                self._points = self._writer.seq
            except OSError as error:
                self._cannot_write(error)
                return
            self._ring.remove()

    def _cannot_write(self, error: OSError) -> None:
        self._failing = error.strerror or str(error)
        self.warn_once(
            "disk",
            f"Cannot write {self.path}: {self._failing}. Points are kept in the buffer and written once it can be; "
            "those of new series, and all when the buffer is full, are dropped and counted. Free space there, or set "
            "MLOPS_RUNS_DIR.",
        )

    def _warn_of_memory(self) -> None:
        error = self._ring.fault
        if error is not None:
            self.warn_once(
                "ring",
                f"Cannot make the buffer beside {self.path}: {error.strerror or error}. Recording goes on from memory: "
                f"kill -9 would cost up to {self._interval:g} s of points. Free some MiB there, or set MLOPS_RUNS_DIR.",
            )

    # -- fork ---------------------------------------------------------------------------------

    def _after_fork_in_child(self) -> None:
        """The child shares the mapping and the file with its parent, and must never touch either."""
        self._ring.free.clear()
        self._state = "forked"
        self._arrivals = Arrivals()
        self._writing_thread = 0
        self._lock = threading.RLock()
        self._writer.abandon()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("A recorder holds a thread and a file and cannot be pickled or copied")


_LIVE: Final[weakref.WeakSet[Recorder]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for recorder in list(_LIVE):
        recorder._after_fork_in_child()  # noqa: SLF001 - same module
    _LIVE.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
