"""Spans of time that hold few enough points to come whole."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from mlops.monasca.windows import Window, plan

END = 9_214_646_400_000

MOMENTS = st.lists(
    st.one_of(
        st.integers(0, 50),
        st.integers(1_795_390_000_000, 1_795_390_003_000),
        st.integers(1_795_390_000_000, 1_795_990_000_000),
        st.integers(0, END - 1),
    ),
    max_size=300,
).map(sorted)


class Counting:
    """Counts moments as the API does, and how often it is asked."""

    def __init__(self, moments: Sequence[int]) -> None:
        self.moments = moments
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, start: int, end: int, seconds: int) -> list[tuple[int, int]]:
        """See :data:`mlops.monasca.windows.Count`."""
        self.asked.append((start, end, seconds))
        inside = self.moments[bisect_left(self.moments, start) : bisect_left(self.moments, end)]
        counts: dict[int, int] = {}
        for moment in inside:
            begin = moment // (1000 * seconds) * 1000 * seconds
            counts[begin] = counts.get(begin, 0) + 1
        return list(counts.items())


def _points(moments: Sequence[int], window: Window) -> int:
    return bisect_left(moments, window.end) - bisect_left(moments, window.start)


@given(MOMENTS, st.integers(1, 40))
@example([1_795_390_000_000] * 50, 3)
@example([], 5)
def test_every_point_lies_in_one_window(moments: list[int], most: int) -> None:
    """Windows follow one another, overlap nowhere, and leave no point out."""
    windows = plan(Counting(moments), 0, END, most)
    assert all(before.end <= after.start for before, after in itertools.pairwise(windows))
    assert sum(_points(moments, window) for window in windows) == len(moments)
    assert sum(window.points for window in windows) == len(moments)


@given(MOMENTS, st.integers(1, 40))
@example([1_795_390_000_000, *[1_795_390_000_666] * 3, 1_795_390_001_000], 3)
def test_windows_hold_no_more_than_they_may_and_are_not_many(moments: list[int], most: int) -> None:
    """Only one with a part of a crowded second may be too large; two that follow one another would not fit into one."""
    windows = plan(Counting(moments), 0, END, most)
    seconds = Counter(moment // 1000 for moment in moments)
    for window in windows:
        inside = moments[bisect_left(moments, window.start) : bisect_left(moments, window.end)]
        assert len(inside) <= most or any(seconds[moment // 1000] > most for moment in inside)
    for before, after in itertools.pairwise(windows):
        assert before.points + after.points > most


def _asked(make: Callable[[int], int], count: int, most: int) -> tuple[int, int]:
    counting = Counting(sorted(make(number) for number in range(count)))
    return len(plan(counting, 0, END, most)), len(counting.asked)


def test_few_questions_are_asked() -> None:
    """A run of ten minutes with 200,000 points is planned with a handful of questions, a small one with one."""
    windows, asked = _asked(lambda number: 1_795_390_000_000 + 3 * number, 200_000, 9_999)
    assert windows <= 24
    assert asked <= 4
    assert _asked(lambda number: 1_795_390_000_000 + 3 * number, 9_999, 9_999) == (1, 1)


def test_what_was_asked_for_bounds_the_windows() -> None:
    """Periods that begin before the span or end after it are cut to it."""
    counting = Counting([1500, 2500, 3500])
    assert plan(counting, 1500, 3000, 10) == [Window(1500, 3000, 2)]
