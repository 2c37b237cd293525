"""A millisecond for each point, the same one whoever reads the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops.blocks import Columns
from mlops.monasca.moments import Moments, milliseconds
from tests.sinks.durable import milliseconds_of

Rows = list[tuple[int, float]]

TIMES = st.one_of(
    st.integers(0, 12).map(lambda half: 1.7e9 + half * 0.0005),
    st.integers(0, 40).map(lambda tenth: 1.7e9 + tenth * 0.0001),
    st.floats(0, 9.2e9),
)
"""Few milliseconds for many points, halves of them, and times far apart, all in any order."""
ROWS = st.lists(st.tuples(st.integers(0, 2), TIMES), max_size=60)


class Feeder:
    """Gives points to a :class:`Moments` block by block, as the reader of a file does."""

    def __init__(self, fail: int = 0) -> None:
        self.blocks: list[Columns] = []
        self.looks = 0
        self.fail = fail
        self.moments = Moments(self._before)

    def _before(self) -> Iterator[Columns]:
        self.looks += 1
        for place, block in enumerate(self.blocks):
            if place and self.fail:
                self.fail -= 1
                raise OSError("away")
            yield block

    def give(self, rows: Rows) -> list[int]:
        """The milliseconds that these points get."""
        columns = Columns(
            np.array([time for _, time in rows], np.float64),
            np.zeros(len(rows)),
            np.array([number for number, _ in rows], np.uint32),
            np.zeros(len(rows), np.uint32),
        )
        own = self.moments.assign(columns)
        self.blocks.append(columns)
        assert (own.series == columns.series).all()
        return milliseconds(own.time).tolist()  # type: ignore[no-any-return]  # numpy's tolist is Any


def _split(rows: Rows, cuts: list[int]) -> Iterator[Rows]:
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for first, last in itertools.pairwise(places):
        yield rows[first:last]


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 60), max_size=8))
@example(rows=[(0, 1.0), (0, 1.0), (0, 1.001), (0, 0.999), (0, 1.0)], cuts=[1, 2, 3, 4])
@example(rows=[(0, 5.0), (1, 2.0), (0, 4.0), (1, 2.0), (0, 4.0)], cuts=[2])
def test_any_order_split_in_any_way_is_what_the_plain_rule_says(rows: Rows, cuts: list[int]) -> None:
    """Each point gets its own millisecond or the next that is free, wherever the blocks end."""
    feeder = Feeder()
    given_ = [own for block in _split(rows, cuts) for own in feeder.give(block)]
    assert given_ == list(milliseconds_of(rows))


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, first=st.lists(st.integers(0, 60), max_size=5), then=st.lists(st.integers(0, 60), max_size=5))
def test_whoever_reads_the_file_again_comes_to_the_same(rows: Rows, first: list[int], then: list[int]) -> None:
    """A restart that finds the points in other blocks, such as a buffer that was folded meanwhile, gives the same."""
    before, after = Feeder(), Feeder()
    assert [own for block in _split(rows, first) for own in before.give(block)] == [
        own for block in _split(rows, then) for own in after.give(block)
    ]


def test_points_in_order_need_no_look_back() -> None:
    """A training's points come in the order of their times: the file is not read again for them."""
    feeder = Feeder()
    rows = [(number % 3, 1.7e9 + number // 9 * 0.001) for number in range(3000)]
    owns = [own for block in _split(rows, [10, 500, 2000]) for own in feeder.give(block)]
    assert owns == list(milliseconds_of(rows))
    assert feeder.looks == 0
    assert len(set(zip((number for number, _ in rows), owns, strict=True))) == 3000


def test_one_that_comes_late_has_the_file_read_once_more() -> None:
    """For a time before others, what is in use is looked up, once for all that follow."""
    feeder = Feeder()
    rows: Rows = [(0, 10.0), (0, 20.0), (0, 10.0), (0, 10.0), (0, 20.0)]
    owns = [own for row in rows for own in feeder.give([row])]
    assert owns == [10_000, 20_000, 10_001, 10_002, 20_001]
    assert feeder.looks == 1


def test_a_look_back_that_fails_is_made_again() -> None:
    """A file system that is away in the middle of it leaves nothing half known."""
    feeder = Feeder(fail=1)
    rows: Rows = [(0, 10.0), (0, 20.0), (0, 20.0)]
    owns = [own for row in rows for own in feeder.give([row])]
    with pytest.raises(OSError, match="away"):
        feeder.give([(0, 20.0), (0, 10.0)])
    assert [*owns, *feeder.give([(0, 20.0), (0, 10.0)])] == list(milliseconds_of([*rows, (0, 20.0), (0, 10.0)]))


def test_halves_are_rounded_and_negative_times_are_milliseconds_too() -> None:
    """To the nearest whole one."""
    assert milliseconds(np.array([0.0, 0.0004, 0.0006, 1.7e9 + 0.1234, -0.0011])).tolist() == [
        0,
        0,
        1,
        1_700_000_000_123,
        -1,
    ]
