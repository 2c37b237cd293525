"""Fewer points, every extreme."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.report.reduce import bucket_means, min_max
from mlops.report.view import Line


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """Lines in the order of time, with pauses and moments of several points."""
    gaps = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 50.0]), min_size=1, max_size=300))
    values = draw(st.lists(st.integers(-5, 5), min_size=len(gaps), max_size=len(gaps)))
    return Line(np.cumsum(gaps), np.array(values, np.float64))


@given(lines(), st.integers(1, 40))
def test_min_max_keeps_ends_and_extremes_of_every_span(line: Line, buckets: int) -> None:
    """At most two points a span and the ends; what is kept was there, in order; each span's extremes are among it."""
    less = min_max(line, buckets)
    assert len(less) <= max(2 * buckets + 2, 1)
    points = list(zip(line.time.tolist(), line.value.tolist(), strict=True))
    kept = list(zip(less.time.tolist(), less.value.tolist(), strict=True))
    assert set(kept) <= set(points)
    assert (np.diff(less.time) >= 0).all()
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    edges = np.linspace(line.time[0], line.time[-1], buckets + 1)
    edges[-1] = np.inf
    for low, high in itertools.pairwise(edges):
        inside = [value for at, value in points if low <= at < high]
        if inside:
            left = {value for at, value in kept if low <= at < high}
            assert {min(inside), max(inside)} <= left


def test_a_spike_among_a_million_points_stays() -> None:
    """One reading of a million is still there among two thousand."""
    value = np.zeros(1_000_000)
    value[123_456] = 7.0
    value[777_777] = -7.0
    less = min_max(Line(np.arange(1_000_000.0), value), 1000)
    assert len(less) <= 2002
    assert (less.value.max(), less.value.min()) == (7.0, -7.0)
    assert less.time[int(less.value.argmax())] == 123_456


def test_a_short_line_is_left_as_it_is() -> None:
    """Nothing is lost where nothing need be."""
    line = Line(np.arange(10.0), np.arange(10.0))
    assert min_max(line, 5) is line
    assert bucket_means(line, 10) is line


def test_points_at_one_moment_do_not_divide_by_zero() -> None:
    """A clock that stood still makes one span of a million points."""
    line = Line(np.zeros(1_000_000), np.arange(1_000_000.0))
    assert min_max(line, 5).value.tolist() == [0.0, 999_999.0]
    assert bucket_means(line, 5).value.tolist() == [499_999.5]


@given(lines(), st.integers(1, 40))
def test_means_weigh_up_to_the_whole(line: Line, buckets: int) -> None:
    """Means of spans lie within the line's range and in the order of time."""
    less = bucket_means(line, buckets)
    assert line.value.min() - 1e-9 <= less.value.min()
    assert less.value.max() <= line.value.max() + 1e-9
    assert (np.diff(less.time) >= -1e-9).all()


def test_a_mean_is_a_mean() -> None:
    """Two spans, two means."""
    less = bucket_means(Line(np.arange(4.0), np.array([1.0, 3.0, 10.0, 20.0])), 2)
    assert less.value.tolist() == pytest.approx([2.0, 15.0])
    assert less.time.tolist() == pytest.approx([0.5, 2.5])
