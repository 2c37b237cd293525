"""What can be read from the buffer of a process that died."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlops import ring
from mlops.blocks import Columns

SLOTS = 16


def _buffer(slots: dict[int, tuple[float, float]], *, torn: tuple[int, ...] = ()) -> bytearray:
    raw = bytearray(SLOTS * ring.SLOT_BYTES)
    for slot, (time, value) in slots.items():
        ring.POINT.pack_into(raw, slot * ring.SLOT_BYTES, time, value, 0, 1, time, value, 0, 1)
    for slot in torn:
        ring.POINT.pack_into(raw, slot * ring.SLOT_BYTES, 1.0, 2.0, 0, 1, 1.0, 0.0, 0, 0)
    return raw


def _times(columns: Columns) -> list[float]:
    return [float(time) for time in columns.time]


def test_points_come_in_the_order_of_logging_across_the_end() -> None:
    """Reading begins at the slot after the last folded point and goes round."""
    raw = _buffer({14: (1.0, 0.1), 15: (2.0, 0.2), 0: (3.0, 0.3), 1: (4.0, 0.4)})
    assert _times(ring.recover(bytes(raw), 14)) == [1.0, 2.0, 3.0, 4.0]


def test_a_point_torn_in_the_middle_is_no_point() -> None:
    """A process killed while it was packing a point had not accepted it."""
    raw = _buffer({3: (1.0, 0.1)}, torn=(4,))
    assert _times(ring.recover(bytes(raw), 3)) == [1.0]


def test_points_that_the_file_holds_already_are_not_read_twice() -> None:
    """A process killed between writing a block and zeroing its slots leaves its points in both places."""
    raw = _buffer({3: (1.0, float("nan")), 4: (2.0, -0.0), 5: (3.0, 0.3)})
    whole = ring.recover(bytes(raw), 3)
    folded = whole.pick(slice(0, 2))
    assert _times(ring.recover(bytes(raw), 5, folded)) == [3.0]


def test_a_full_round_of_new_points_over_the_last_block_is_kept() -> None:
    """When the disk was full the whole buffer is new, also where the last block's points once were."""
    raw = _buffer({slot: (float(slot + 100), 1.0) for slot in range(SLOTS)})
    folded = ring.recover(bytes(_buffer({3: (1.0, 1.0), 4: (2.0, 1.0)})), 0)
    assert _times(ring.recover(bytes(raw), 5, folded)) == [float((5 + i) % SLOTS + 100) for i in range(SLOTS)]


def test_every_flipped_bit_of_a_slot_hides_the_point_and_never_changes_it() -> None:
    """The two copies disagree, so the point is left out."""
    good = _buffer({3: (1.5, 0.1), 4: (2.5, 0.2)})
    for position in range(3 * ring.SLOT_BYTES, 3 * ring.SLOT_BYTES + ring.POINT.size):
        for bit in range(8):
            raw = bytearray(good)
            raw[position] ^= 1 << bit
            assert _times(ring.recover(bytes(raw), 0)) == [2.5]


@given(st.binary(max_size=300), st.integers(0, 100))
def test_rubbish_never_raises(raw: bytes, start: int) -> None:
    """Any bytes of any length are read without an error."""
    assert len(ring.recover(raw, start)) <= len(raw) // ring.SLOT_BYTES
