"""The memory-mapped buffer: its layout, its free slots, and what can be read from one that a dead process left.

The buffer is a file of slots of 64 bytes: one cache line, and never across two disk sectors.  A
slot holds time (f8), value (f8), step (u4; 0 for none, else step + 1) and series id + 1 (u4), and
then the same again.  The series id is written last in each copy, and a slot is zeroed once its
point is in the points file, so that a slot is either empty, or holds one point twice, or was hit in
the middle of a write or damaged since, which its two unequal copies show.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from mlops.blocks import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["POINT", "SLOT_BYTES", "SUFFIX", "Buffer", "columns", "recover", "valid"]

SUFFIX: Final = ".ring"
SLOT_BYTES: Final = 64
POINT: Final = struct.Struct("<ddIIddII")
_WORDS: Final = POINT.size // 16
_VOID: Final = 0xFFFFFFFF
"""Stands for a series in a slot whose point came too late, or never: it is passed over."""


_FIRST_LOOK: Final = 256
_MOST: Final = 1 << 15
"""Points taken out of the buffer at once: they become one block."""

_AHEAD: Final = 1024
_PATIENCE: Final = 20
"""Looks that a hole may outlast (a thread between taking its slot and filling it) before it is
taken for abandoned by an exception in between; between two looks other threads get to run."""


class Buffer:
    """A shared mapping of slots, the list of those that are free, and the place where filled ones begin.

    Its blocks on disk are allocated now: a disk found full later would be a SIGBUS.  Where no file
    can be made, it lives in memory alone and does not outlive its process.

    Args:
        path: the buffer's file.
        slots: how many points it holds.

    Attributes:
        path: as above; ``None`` if it lives in memory alone.
        fault: why it lives in memory alone.
        slots: as above.
        memory: the mapping; slot ``n`` begins at byte ``n * SLOT_BYTES``.
        free: the first bytes of free slots, in the order in which they must be used, with ``None`` as
            a trip wire after each eighth of the buffer.
        next: the slot after the last one that was released.
    """

    def __init__(self, path: Path, slots: int) -> None:
        self.path: Path | None = path
        self.fault: OSError | None = None
        self.slots = slots
        self.free: deque[int | None] = deque()
        self.next = 0
        self._looks = 0
        self._every = max(8, slots // 8) * SLOT_BYTES
        try:
            self.memory = _map_file(path, slots * SLOT_BYTES)
        except OSError as error:
            self.path, self.fault = None, error
            self.memory = mmap.mmap(-1, slots * SLOT_BYTES)
        self._view = np.frombuffer(self.memory, np.uint64).reshape(slots, SLOT_BYTES // 8)
        self._give_back(0, slots)

    def filled(
        self, *, ending: bool = False, expects: Callable[[int], bool] = lambda _place: False
    ) -> tuple[Columns, int]:
        """The points that wait at :attr:`next`, up to the buffer's end, and how many slots they fill.

        A slot that was taken and never filled, because an exception came in between, is stepped
        over: it is one slot without a point.

        Args:
            ending: nobody takes slots any more, so that a hole need not be waited for.
            expects: whether a slot, by its first byte, is going to be filled by :meth:`fill`, so that it is no hole.
        """
        stop = min(self.next + _FIRST_LOOK, self.slots)
        while (length := self._whole(stop)) == stop - self.next and stop < min(self.slots, self.next + _MOST):
            stop = min(self.next + _MOST, self.slots)
        if length:
            self._looks = 0
            return columns(self._view[self.next : self.next + length]), length
        promised = expects(self.next * SLOT_BYTES)
        return Columns.join(()), int(not promised and self._abandoned(ending=ending))

    def fill(
        self,
        places: NDArray[np.int64],
        time: NDArray[np.float64],
        value: NDArray[np.float64],
        step: NDArray[np.uint32],
        series: NDArray[np.uint32],
    ) -> None:
        """Put points into slots that were taken for them.

        Args:
            places: the first byte of each slot.
            time: seconds since the epoch.
            value: of the points.
            step: 0 for none, else step + 1.
            series: the series' id + 1.
        """
        rows = np.zeros((len(places), SLOT_BYTES // 8), np.uint64)
        rows[:, 0] = rows[:, _WORDS] = time.view(np.uint64)
        rows[:, 1] = rows[:, _WORDS + 1] = value.view(np.uint64)
        rows[:, 2] = rows[:, _WORDS + 2] = step.astype(np.uint64) | series.astype(np.uint64) << np.uint64(32)
        self._view[places // SLOT_BYTES] = rows

    def void(self, places: NDArray[np.int64]) -> None:
        """Let slots that were taken for points be passed over, since these come later or not at all."""
        nothing, none = np.zeros(len(places)), np.zeros(len(places), np.uint32)
        self.fill(places, nothing, nothing, none, none + np.uint32(_VOID))

    def release(self, length: int, *, reuse: bool) -> None:
        """Empty this many slots from :attr:`next` on, whose points are in the points file.

        Args:
            length: how many.
            reuse: whether they become free again.
        """
        start = self.next
        self._view[start : start + length] = 0
        self.next = (start + length) % self.slots
        if reuse:
            self._give_back(start, length)

    @property
    def waits(self) -> bool:
        """Whether a hole is being waited for."""
        return self._looks > 0

    def remove(self) -> None:
        """Remove the file, unless points are still in it."""
        if self.path is not None and not valid(self._view).any():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _whole(self, stop: int) -> int:
        good = valid(self._view[self.next : stop])
        return len(good) if good.all() else int(np.argmin(good))

    def _abandoned(self, *, ending: bool) -> bool:
        """Whether the slot at ``next`` was taken and will never be filled, though later ones are."""
        after = self.next + 1
        ahead = np.concatenate([self._view[after : after + _AHEAD], self._view[: max(0, after + _AHEAD - self.slots)]])
        if not valid(ahead).any():
            self._looks = 0
            return False
        self._looks += 1
        if self._looks <= _PATIENCE and not ending:
            return False
        self._looks = 0
        return True

    def _give_back(self, start: int, length: int) -> None:
        first, last = start * SLOT_BYTES, (start + length) * SLOT_BYTES
        while first < last:
            upto = min(last, (first // self._every + 1) * self._every)
            self.free.extend(range(first, upto, SLOT_BYTES))
            if upto % self._every == 0:
                self.free.append(None)
            first = upto


def _map_file(path: Path, size: int) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def valid(slots: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of these slots (rows of 8 words) hold a point, whole and undamaged."""
    same: NDArray[np.bool_] = (slots[:, :_WORDS] == slots[:, _WORDS : 2 * _WORDS]).all(axis=1)
    named: NDArray[np.bool_] = slots[:, _WORDS - 1] >> np.uint64(32) != 0
    return same & named


def columns(slots: NDArray[np.uint64]) -> Columns:
    """The points in these slots, all of which must be :func:`valid`; copies, not views."""
    last = slots[:, _WORDS - 1]
    void = last >> np.uint64(32) == _VOID
    if void.any():
        slots, last = slots[~void], last[~void]
    return Columns(
        time=slots[:, 0].copy().view(np.float64),
        value=slots[:, 1].copy().view(np.float64),
        step=(last & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        series=((last >> np.uint64(32)) - np.uint64(1)).astype(np.uint32),
    )


def recover(raw: bytes, start: int, folded: Columns | None = None) -> Columns:
    """The points in a buffer's bytes that the points file does not hold, in the order of logging.

    Args:
        raw: the buffer's file.
        start: the slot after the last point that the points file holds.
        folded: the last block of the points file: a process killed between writing that block and
            zeroing its slots leaves its points in both places.
    """
    slots = len(raw) // SLOT_BYTES
    if not slots:
        return Columns.join(())
    view = np.frombuffer(raw[: slots * SLOT_BYTES], np.uint64).reshape(slots, SLOT_BYTES // 8)
    first = start % slots
    ordered = np.concatenate([view[first:], view[:first]])
    left = ordered[valid(ordered)]
    if folded is not None and len(folded) and len(left):
        known = set(_rows(folded))
        fresh = np.fromiter((row not in known for row in _rows(columns(left))), np.bool_, len(left))
        left = left[fresh]
    return columns(left)


def _rows(points: Columns) -> Iterator[tuple[int, int, int, int]]:
    """Each point as integers, bit for bit: nan equals itself there, and -0.0 is not 0.0."""
    bits = (points.time.view(np.int64), points.value.view(np.int64), points.series, points.step)
    return zip(*(column.tolist() for column in bits), strict=True)
