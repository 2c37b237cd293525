"""Points as the API takes them."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.blocks import Columns
from mlops.monasca.points import LATEST, Encoder, body, encode_one, sendable
from mlops.series import Series

OWN = {"run": "digits", "run_id": "20261122-232640-digits-0a1b2c", "hostname": "node-1"}


def _columns(*rows: tuple[float, float, int, int], logged: list[float] | None = None) -> Columns:
    """Points from times, values, series' numbers and marked steps."""
    time, value, series, step = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Columns(
        np.array(time, np.float64),
        np.array(value, np.float64),
        np.array(series, np.uint32),
        np.array(step, np.uint32),
        None if logged is None else np.array(logged, np.float64),
    )


def _encoder() -> Encoder:
    return Encoder(OWN, lambda _: None)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9_214_646_399_999).map(lambda ms: ms / 1000),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(0, 2),
            st.integers(0, 2**32 - 1),
        ),
        max_size=20,
    )
)
def test_every_point_is_json_with_the_same_numbers(rows: list[tuple[float, float, int, int]]) -> None:
    """Value to the last bit, time as a whole number of milliseconds, step as a text, in the order given."""
    table = {number: Series.of(f"metric.{number}", {"uuid": f'"{number}'[1:]}) for number in range(3)}
    found = json.loads(body(_encoder().encode(_columns(*rows), table)))
    assert len(found) == len(rows)
    for (time, value, number, step), one in zip(rows, found, strict=True):
        assert one["name"] == f"metric.{number}"
        assert one["dimensions"] == {**OWN, "uuid": str(number)}
        assert one["timestamp"] == round(time * 1000)
        assert math.copysign(1, one["value"]) == math.copysign(1, value)
        assert one["value"] == value
        assert one.get("value_meta") == ({"step": str(step - 1)} if step else None)


def test_no_points_are_an_empty_list() -> None:
    """Which the API takes."""
    assert body(_encoder().encode(_columns(), {})) == b"[]"


def test_a_series_own_dimensions_come_before_the_processes_but_never_its_identity() -> None:
    """A metric about another host keeps that host; which run and process it is of cannot be overridden."""
    series = {0: Series.of("m", {"hostname": "other", "run_id": "forged", "process": "forged"})}
    encoder = Encoder({**OWN, "process": "node-1-2-0"}, lambda _: None)
    (one,) = json.loads(body(encoder.encode(_columns((1.0, 2.0, 0, 0)), series)))
    assert one["dimensions"] == {
        "hostname": "other",
        "process": "node-1-2-0",
        "run": "digits",
        "run_id": OWN["run_id"],
    }
    assert list(one["dimensions"]) == sorted(one["dimensions"]), "another order is another series to the agent"


def test_what_is_sent_otherwise_is_said_once() -> None:
    """A name that Monasca would refuse is mended, and it is told what became of it."""
    said: list[str] = []
    encoder = Encoder(OWN, said.append)
    series = {0: Series("bad name{}")}
    for _ in range(2):
        (one,) = json.loads(body(encoder.encode(_columns((1.0, 2.0, 0, 0)), series)))
        assert one["name"] == "bad_name__"
    assert len(said) == 1
    assert "bad name{}" in said[0]
    assert "bad_name__" in said[0]


def test_what_can_be_sent() -> None:
    """Finite values at times from 1970 to 2261; the rest is in the store."""
    nan, inf = math.nan, math.inf
    rows = [
        (0.0, 1.0, True),
        (-0.001, 1.0, False),
        (-2.2e9, 1.0, False),  # 1901
        (7.3e9, 1.0, True),  # 2201
        (LATEST, 1.0, False),
        (1e30, 1.0, False),
        (nan, 1.0, False),
        (inf, 1.0, False),
        (1.7e9, nan, False),
        (1.7e9, -inf, False),
        (1.7e9, 1.7976931348623157e308, True),
        (1.7e9, 5e-324, True),
    ]
    columns = _columns(*((time, value, 0, 0) for time, value, _ in rows))
    assert sendable(columns).tolist() == [good for _, _, good in rows]


def test_the_time_of_logging_goes_along_where_the_millisecond_does_not_tell_it() -> None:
    """Of points within one millisecond, and of one that had to move; not of those whose order can be seen."""
    logged = [1.0, 1.01, 1.02, 1.0201, 1.0202, 1.05, 1.06]
    own = [1.0, 1.01, 1.02, 1.021, 1.022, 1.05, 1.06]
    columns = _columns(*((time, 0.0, 0, 3) for time in own), logged=logged)
    found = json.loads(body(_encoder().encode(columns, {0: Series("m")})))
    told = [one["value_meta"].get("logged") for one in found]
    assert told == [None, None, None, "1.0201", "1.0202", None, None]
    assert all(one["value_meta"]["step"] == "2" for one in found)


def test_one_measurement_with_what_it_means() -> None:
    """As the one about the run itself is sent."""
    one = json.loads(encode_one("mlops.run", {"run_id": "x", "b c": "y\n"}, 1.2345, 3.0, {"name": "é"}))
    assert one["timestamp"] == 1234
    assert one["value"] == 3.0
    assert one["value_meta"] == {"name": "é"}
    assert one["dimensions"] == {"b_c": "y", "run_id": "x"}
    assert "value_meta" not in json.loads(encode_one("m", {"a": "b"}, 1.0, 1.0, {}))
