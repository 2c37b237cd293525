"""Answers of the Monasca API as columns."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import CloudError
from mlops.monasca.parsing import Line, iso, measurements_of, moments_of, statistics_of

MOMENTS = st.integers(0, 9_214_646_400_000 - 1)


def _answer(*rows: list[Any], links: tuple[str, ...] = ("self",), **dimensions: str) -> dict[str, Any]:
    element = {
        "name": "train.loss",
        "id": "0",
        "columns": ["timestamp", "value", "value_meta"],
        "measurements": list(rows),
        "dimensions": dimensions,
    }
    return {"links": [{"rel": rel, "href": ""} for rel in links], "elements": [element]}


@given(st.lists(MOMENTS, max_size=20))
def test_times_are_read_as_they_were_written(moments: list[int]) -> None:
    """Every millisecond from 1970 to 2261 survives the way there and back."""
    assert moments_of([iso(moment) for moment in moments]).tolist() == moments


@given(st.lists(st.timedeltas(dt.timedelta(0), dt.timedelta(days=106_000)), max_size=5))
def test_times_in_other_spellings_are_read_too(since: list[dt.timedelta]) -> None:
    """Without a fraction, with microseconds, with an offset, and mixed: to the millisecond."""
    times = [dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + one for one in since]
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S.%f+00:00"):
        read = moments_of([*(time.strftime(form) for time in times), "1970-01-01T00:00:00.001Z"])
        exact = [one // dt.timedelta(milliseconds=1) for one in since]
        whole = [moment // 1000 * 1000 for moment in exact]
        assert read.tolist() == [*(whole if "%f" not in form else exact), 1]


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01T00:00:00.000Z", "2026-11-22T2a:00:00.000Z", "é" * 12])
def test_what_is_no_time_is_refused(text: str) -> None:
    """It never becomes some other time."""
    with pytest.raises(ValueError, match=r".+"):
        moments_of([text, "2026-11-22T23:26:40.000Z"][:1])


def test_points_with_steps_and_times_of_logging() -> None:
    """value_meta gives step and time; what others put there is passed over."""
    stamp = "2026-11-22T23:26:4{}.000Z"
    answer = _answer(
        [stamp.format(0), 1, {"step": "12"}],
        [stamp.format(1), 1e300, {"step": "0", "logged": "1795390001.0001"}],
        [stamp.format(2), -0.5, {}],
        [stamp.format(3), 2, None],
        [stamp.format(4), 2, {"step": "many", "logged": "soon", "rack": "7"}],
        [stamp.format(5), 2, {"step": str(1 << 32)}],
        run_id="r",
        uuid="",
    )
    (line,) = measurements_of(answer).content
    assert line.time.tolist() == [1795390000000 + 1000 * second for second in range(6)]
    assert line.value.tolist() == [1.0, 1e300, -0.5, 2.0, 2.0, 2.0]
    assert line.step.tolist() == [13, 1, 0, 0, 0, 0]
    assert [second for second in line.logged.tolist() if not math.isnan(second)] == [1795390001.0001]
    assert line.dimensions == {"run_id": "r"}, "a dimension that the series lacks comes as an empty one"


def test_an_answer_says_whether_it_is_whole() -> None:
    """A link to the next page means that there is more."""
    assert measurements_of(_answer()).whole
    assert not measurements_of(_answer(links=("self", "next"))).whole
    assert measurements_of({"elements": []}).whole


def test_statistics_come_by_column() -> None:
    """Each statistic by its name, with the beginnings of its periods."""
    element = {
        "name": "gpu.power_watts",
        "columns": ["timestamp", "avg", "count"],
        "statistics": [["2026-11-22T23:26:00Z", 1.5, 2], ["2026-11-22T23:27:00Z", 3, 1]],
        "dimensions": {"run": "digits"},
    }
    (found,) = statistics_of({"links": [], "elements": [element]}).content
    assert np.diff(found.time).tolist() == [60_000]
    assert {key: column.tolist() for key, column in found.columns.items()} == {"avg": [1.5, 3.0], "count": [2.0, 1.0]}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "no",
        {},
        {"elements": 7},
        {"elements": [7]},
        {"elements": [{"name": "x"}]},
        _answer(["when", 1.0, {}]),
        _answer(["2026-11-22T23:26:40.000Z", "much", {}]),
        _answer(["2026-11-22T23:26:40.000Z"]),
        _answer(["2026-11-22T23:26:40.000Z", 1.0, 7]),
        _answer([b"x", 1.0, {}]),
        _answer(["2026-11-22T23:26:40.000Z", 10**400, {}]),
        _answer(["2026-11-22T23:26:41.000Z", 1.0, {}], ["2026-11-22T23:26:40.000Z", 1.0, {}]),
    ],
)
def test_nonsense_is_an_error_of_ours(answer: object) -> None:
    """Whatever is answered, it is points or a CloudError that says what came."""
    with pytest.raises(CloudError, match="what no Monasca API says"):
        measurements_of(answer)


def test_a_part_of_a_line_by_time() -> None:
    """The end is not included, the beginning is."""
    time = np.array([10, 20, 30], np.int64)
    line = Line("x", {}, time, np.zeros(3), np.zeros(3, np.uint32), np.full(3, np.nan))
    assert line.between(10, 30).time.tolist() == [10, 20]
    assert line.between(0, 99) is line
    assert len(line.between(40, 50)) == 0
