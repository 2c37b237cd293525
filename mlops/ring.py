"""The layout of the memory-mapped buffer, and what can be read from one that a dead process left.

The buffer is a file of slots of 64 bytes: one cache line, and never across two disk sectors.  A
slot holds time (f8), value (f8), step (u4; 0 for none, else step + 1) and series id + 1 (u4), and
then the same again.  The series id is written last in each copy, and a slot is zeroed once its
point is in the points file, so that a slot is either empty, or holds one point twice, or was hit in
the middle of a write or damaged since, which its two unequal copies show.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from mlops.blocks import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["POINT", "SLOT_BYTES", "SUFFIX", "columns", "recover", "valid"]

SUFFIX: Final = ".ring"
SLOT_BYTES: Final = 64
POINT: Final = struct.Struct("<ddIIddII")
_WORDS: Final = POINT.size // 16


def valid(slots: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of these slots (rows of 8 words) hold a point, whole and undamaged."""
    same: NDArray[np.bool_] = (slots[:, :_WORDS] == slots[:, _WORDS : 2 * _WORDS]).all(axis=1)
    named: NDArray[np.bool_] = slots[:, _WORDS - 1] >> np.uint64(32) != 0
    return same & named


def columns(slots: NDArray[np.uint64]) -> Columns:
    """The points in these slots, all of which must be :func:`valid`; copies, not views."""
    last = slots[:, _WORDS - 1]
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
