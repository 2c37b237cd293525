"""Points to summaries, summaries to lines."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import SinkURLError
from mlops.series import Series
from mlops.settings import Settings
from mlops.sinks import RunIdentity, Sink, open_sink
from mlops.sinks.statsd import SUFFIXES, StatsdSink
from tests.sinks.helpers import RUN, Clock, Nowhere, Table
from tests.testbed.datagrams import Line, Listener, parse

INTERVAL = 21.0
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """What stands where the agent would."""
    with Listener() as listening:
        yield listening


def packed(sink: StatsdSink) -> list[Line]:
    """The lines that a sink which leads nowhere would send."""
    return [line for datagram in sink._connection.packed for line in parse(datagram.payload)]


def test_a_summary_is_five_gauges_of_one_series(listener: Listener) -> None:
    """Last, mean, min, max and count go out under the series' name, with the run's name and dimensions, sorted."""
    sink = StatsdSink("127.0.0.1", listener.port)
    sink.write(Table().points(("train.loss", 4.0), ("train.loss", 1.0), ("train.loss", 1.75)))
    lines = listener.wait_for_lines(5)
    sink.close(10)
    assert [(line.name, line.value, line.kind) for line in lines] == [
        ("train.loss", 1.75, "g"),
        ("train.loss.mean", 2.25, "g"),
        ("train.loss.min", 1.0, "g"),
        ("train.loss.max", 4.0, "g"),
        ("train.loss.count", 3.0, "g"),
    ]
    assert {tuple(line.dimensions.items()) for line in lines} == {(("run", "digits"), ("team", "vision"))}
    assert (sink.sent, sink.dropped) == (3, 0)


def test_the_first_summary_goes_at_once_then_one_an_interval_and_the_rest_at_the_end(listener: Listener) -> None:
    """However often points come, the agent gets one value of a series an interval, and none gets lost."""
    clock, table = Clock(), Table()
    sink = StatsdSink("127.0.0.1", listener.port, interval=INTERVAL, clock=clock)
    for number in range(90):
        sink.write(table.points(("train.loss", float(number))))
        clock.now += 0.5
    sink.close(10)
    counts = [line.value for line in listener.wait_for_lines(20) if line.name == "train.loss.count"]
    lasts = [line.value for line in listener.lines() if line.name == "train.loss"]
    assert counts == [1, 42, 42, 42 + 5]  # the last one may replace the one before it, so it tells of both
    assert lasts == [0, 42, 84, 89]
    assert (sink.sent, sink.dropped) == (90, 0)


def test_a_series_that_appears_later_does_not_wait(listener: Listener) -> None:
    """Each series has an interval of its own, which begins with its first summary."""
    clock, table = Clock(), Table()
    sink = StatsdSink("127.0.0.1", listener.port, interval=INTERVAL, clock=clock)
    sink.write(table.points(("train.loss", 1.0)))
    clock.now += 1
    sink.write(table.points(("train.loss", 2.0), ("valid.loss", 3.0)))
    assert listener.wait_for_lines(10)[5].name == "valid.loss"
    clock.now += INTERVAL - 0.5
    sink.write(table.points(("valid.loss", 4.0)))
    assert listener.wait_for_lines(15)[10] == Line("train.loss", 2.0, "g", {"run": "digits", "team": "vision"})
    sink.close(10)
    assert listener.wait_for_lines(20)[15].value == 4.0


def test_nothing_is_sent_of_a_series_without_news(listener: Listener) -> None:
    """A value is sent once, and not again with every interval."""
    clock, table = Clock(), Table()
    sink = StatsdSink("127.0.0.1", listener.port, interval=INTERVAL, clock=clock)
    sink.write(table.points(("valid.loss", 1.0)))
    for _ in range(5):
        clock.now += INTERVAL + 1
        sink.write(table.points())
    sink.close(10)
    assert len(listener.wait_for_lines(5)) == 5


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), FINITE), max_size=6), min_size=1, max_size=6))
def test_a_summary_is_the_same_however_its_points_came(chunks: list[list[tuple[str, float]]]) -> None:
    """In one piece or in many, with values of any size, the five numbers are those of all points together."""
    clock = Clock()
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere(), interval=INTERVAL, clock=clock)
    table = Table()
    sink.write(table.points(("first", 0.0)))  # until this one's fate is known, nothing else is packed
    for chunk in chunks:
        sink.write(table.points(*chunk))
    sink._pack(window for window in sink._windows.values() if window.count)
    found = {line.name: line.value for line in packed(sink)}
    for name in "abc":
        values = [value for chunk in chunks for one, value in chunk if one == name]
        if not values:
            assert name not in found
            continue
        assert found[name] == values[-1]
        assert found[f"{name}.min"] == min(values)
        assert found[f"{name}.max"] == max(values)
        assert found[f"{name}.count"] == len(values)
        assert min(values) <= found[f"{name}.mean"] <= max(values)
        scale = max(map(abs, values))
        exact = float(sum(map(Fraction, values)) / len(values))  # no sum of fractions is too large
        assert found[f"{name}.mean"] == pytest.approx(exact, rel=1e-12, abs=scale * 1e-14)


@pytest.mark.parametrize("value", [0.1, 1e-3, -7.3, 1.7976931348623157e308, 5e-324])
def test_the_mean_of_equal_values_is_that_value(value: float) -> None:
    """A learning rate that does not change has a mean that does not differ in its last digit."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    table = Table()
    for count in range(1, 30):
        sink._sum_up(table.points(*[("train.lr", value)] * count))
        (window,) = sink._windows.values()
        assert window.mean == value


def test_the_rank_tells_the_processes_of_one_training_apart() -> None:
    """It is a dimension where there is one; the run's id and the host never are."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    sink.write(Table(RunIdentity("id-1", "digits", {}, "node-1", 3)).points(("train.loss", 1.0)))
    assert packed(sink)[0].dimensions == {"rank": "3", "run": "digits"}


def test_what_is_nearer_to_the_series_wins() -> None:
    """A series' own dimension comes before the run's of the same key, and both before what mlops adds."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    table = Table(RunIdentity("id-1", "digits", {"run": "mine", "uuid": "none", "zone": "a"}, "node-1", 0))
    sink.write(table.points(("gpu.power_watts", 250.0), dimensions={"uuid": "GPU-1"}))
    assert list(packed(sink)[0].dimensions.items()) == [
        ("rank", "0"),
        ("run", "mine"),
        ("uuid", "GPU-1"),
        ("zone", "a"),
    ]


def test_what_monasca_would_refuse_is_mended_on_the_way(caplog: pytest.LogCaptureFixture) -> None:
    """Names and dimensions that came past the checks are sent in the nearest form that is taken, said once."""
    run = RunIdentity("id-1", "run|1 a", {"time": "now", "_x": "a=b", "empty": " "}, "node-1", None)
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    table = Table(run)
    for _ in range(2):
        sink.write(table.points(("_e{loss}", 1.0), ("_e{loss}", 2.0)))
    assert packed(sink)[0] == Line("e_loss_", 2.0, "g", {"run": "run_1_a", "time_": "now", "x": "a_b"})
    assert len(caplog.records) == 2
    assert "Value 'run|1 a' of 'run' contains '|' at position 4" in caplog.text
    assert "Metric name '_e{loss}' begins with '_'" in caplog.text
    assert "it is sent as 'e_loss_{run=run_1_a, time_=now, x=a_b}'" in caplog.text


def test_series_that_would_come_to_the_same_on_the_wire_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """Two lines of one name and one set of dimensions would be one value lost; the later series gets a mark."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    table = Table()
    sink.write(table.points(("a b", 1.0), ("a,b", 3.0)))
    names = dict.fromkeys(line.name.partition(".")[0] for line in packed(sink))
    assert list(names) == ["a_b", "a_b-2cd913df"]
    values = {line.name: line.value for line in packed(sink)}
    assert (values["a_b"], values["a_b.count"]) == (1.0, 1.0)
    assert (values["a_b-2cd913df"], values["a_b-2cd913df.count"]) == (3.0, 1.0)
    assert "'a,b' would come to the same as 'a b'; it is sent as 'a_b-2cd913df{run=digits, team=vision}'" in caplog.text


def test_a_dimension_that_the_run_has_too_makes_no_two_series_one() -> None:
    """A series with the run's own dimension written out is another than the one without."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    table = Table(RunIdentity("id-1", "digits", {"zone": "a"}, "node-1", None))
    points = table.of([(Series.of("loss"), 1.0), (Series.of("loss", {"zone": "a"}), 2.0)])
    sink.write(points)
    assert sorted(line.value for line in packed(sink) if line.name.count(".") == 0) == [1.0, 2.0]
    assert len({line.name for line in packed(sink)}) == 10


def test_a_series_that_the_persister_may_die_of_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and said, also where a datagram has room for it."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere(), max_bytes=8192)
    sink.write(Table().points(("a", 1.0), dimensions={f"key{number}": "v" * 250 for number in range(9)}))
    assert (packed(sink), sink.dropped) == ([], 1)
    assert "Monasca's persister may die of more than 2200" in caplog.text


def test_a_series_of_the_users_comes_before_a_derived_one(caplog: pytest.LogCaptureFixture) -> None:
    """Who logs loss and loss.mean gets loss.mean as logged, and one warning."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    sink.write(Table().points(("loss", 1.0), ("loss", 3.0), ("loss.mean", 7.0)))
    assert [line.value for line in packed(sink) if line.name == "loss.mean"] == [7.0]
    assert len(packed(sink)) == 9
    assert len(caplog.records) == 1
    assert "loss.mean is logged itself, so the mean of loss is not sent. Rename one of them." in caplog.text


def test_values_that_are_no_numbers_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Values that are nan or infinite change no summary, count as dropped, and cause one warning."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    nan, inf = float("nan"), float("inf")
    table = Table()
    sink.write(table.points(("a", 1.0), ("a", nan), ("a", 3.0), ("a", inf), ("b", -inf), ("b", nan)))
    sink.write(table.points(("a", nan)))
    assert {line.name: line.value for line in packed(sink)} == {
        "a": 3.0,
        "a.mean": 2.0,
        "a.min": 1.0,
        "a.max": 3.0,
        "a.count": 2.0,
    }
    assert sink.dropped == 5
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].message.startswith("a is nan. Monasca takes finite numbers only")


def test_a_name_is_refused_where_its_longest_line_would_be_too_long(caplog: pytest.LogCaptureFixture) -> None:
    """With .count after it a name may have 255 characters; a longer one is counted and said once."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    table = Table()
    sink.write(table.points(("n" * 249, 1.0), ("m" * 250, 2.0), ("k" * 255, 3.0)))
    assert max(len(line.name) for line in packed(sink)) == 255
    assert {line.name[0] for line in packed(sink)} == {"n"}
    assert sink.dropped == 2
    assert len(caplog.records) == 1
    assert "has 250 characters; with .count after it, Monasca takes at most 255" in caplog.text


def test_dimensions_that_do_not_fit_into_a_datagram_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """They are counted and said once, with what would help; and that does help."""
    large = {f"key{number}": "v" * 250 for number in range(8)}
    table = Table()
    points = table.points(("train.loss", 1.0), ("train.lr", 0.1), dimensions=large)
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    sink.write(points)
    assert (packed(sink), sink.dropped) == ([], 2)
    assert len(caplog.records) == 1
    assert "more than a datagram's 1432" in caplog.text
    assert "?max_bytes=N" in caplog.text
    roomy = StatsdSink("nowhere.invalid", lookup=Nowhere(), max_bytes=8192)
    roomy.write(points)
    assert len(packed(roomy)) == 10


def test_a_name_of_which_nothing_can_be_made_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """No name at all is refused, not invented."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    sink.write(Table().points(("()", 1.0)))
    assert (packed(sink), sink.dropped) == ([], 1)
    assert "has no usable character" in caplog.text


def test_points_after_the_end_are_counted(caplog: pytest.LogCaptureFixture, listener: Listener) -> None:
    """A closed sink takes nothing, and says so once."""
    sink = StatsdSink("127.0.0.1", listener.port)
    sink.close(10)
    sink.write(Table().points(("a", 1.0)))
    sink.write(Table().points(("a", 1.0)))
    assert sink.dropped == 2
    assert caplog.text.count("points came after the end") == 1


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=40), max_size=5),
    st.lists(st.tuples(st.text(max_size=270), st.floats()), max_size=12),
    st.sampled_from([256, 512, 1432, 8192]),
)
def test_no_line_is_malformed_and_no_datagram_too_long(
    dimensions: dict[str, str], values: list[tuple[str, float]], most: int
) -> None:
    """Whatever is logged, each line is one line of the form that the agent takes, and every point is counted."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere(), max_bytes=most)
    table = Table(RunIdentity("id-1", "digits", dimensions, "node-1", None))
    sink.write(table.of((Series.of(name, dimensions), value) for name, value in values))
    for datagram in sink._connection.packed:
        assert len(datagram.payload) <= most
    for line in packed(sink):
        assert 1 <= len(line.name) <= 255
        assert math.isfinite(line.value)
        assert list(line.dimensions) == sorted(line.dimensions)
    sink.close(0)
    assert (sink.sent, sink.dropped) == (0, len(values))


def test_points_whose_name_was_lost_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file may lack the definition of a series: its points are dropped, those of others are not."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    points = Table().points(("a", 1.0), ("b", 2.0), ("b", float("nan")))
    del points.series[1]  # type: ignore[attr-defined]
    sink.write(points)
    assert {line.name for line in packed(sink)} == {f"a{suffix}" for suffix in SUFFIXES}
    assert sink.dropped == 2
    assert caplog.text.count("name was lost") == 1


def test_ids_are_told_apart_by_run() -> None:
    """A sink that is given to two runs does not take the series of one for those of the other."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    sink._sum_up(Table().points(("train.loss", 1.0)))
    sink._sum_up(Table(RunIdentity("other", "faces", {}, "node-1", None)).points(("valid.loss", 2.0)))
    assert {name for name, _ in sink._windows} == {"train.loss", "valid.loss"}


def test_a_wide_table_is_summed_up_by_column() -> None:
    """Points of many series in any order find their own windows."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere())
    table = Table()
    rng = np.random.default_rng(0)
    names = [f"layer.{number}" for number in rng.integers(0, 50, 5000)]
    sink._sum_up(table.points(*((name, float(place)) for place, name in enumerate(names))))
    for (name, _), window in sink._windows.items():
        places = [place for place, one in enumerate(names) if one == name]
        assert window.values() == pytest.approx((places[-1], np.mean(places), places[0], places[-1], len(places)))


def test_a_url_says_where_how_often_and_how_large() -> None:
    """What it leaves out comes from the settings."""
    settings = Settings.load(environ={}, statsd_seconds=30)
    plain = open_sink("statsd://agent.example", settings)
    assert isinstance(plain, StatsdSink)
    assert (plain.where, plain._interval, plain._max_bytes) == ("statsd://agent.example:8125", 30.0, 1432)
    full = open_sink("statsd://[::1]:9125?interval=2.5&max_bytes=8192", settings)
    assert isinstance(full, StatsdSink)
    assert (full.where, full._interval, full._max_bytes) == ("statsd://[::1]:9125", 2.5, 8192)
    assert Settings.load(environ={}).statsd_seconds == StatsdSink("h")._interval == 21


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("statsd:", "names no host"),
        ("statsd://", "names no host"),
        ("statsd://:8125", "names no host"),
        ("statsd:localhost:8125", "names no host"),
        ("statsd://h:0", "port 0"),
        ("statsd://h:65536", "Port out of range"),
        ("statsd://h:http", "cannot be read"),
        ("statsd://h/path", "has a path, '/path'"),
        ("statsd://[::1", "cannot be read"),
        ("statsd://a..b", "cannot be the name of a host"),
        ("statsd://a%20b", "cannot be the name of a host"),
        (f"statsd://{'a' * 64}.org", "cannot be the name of a host"),
        ("statsd://user:secret@h", "user name or password"),
        ("statsd://user:secret[@h", "cannot be read"),
        ("user:secret@h", "no sink of scheme 'user'"),
        ("//user:secret@h", "has no scheme"),
        ("statsd://h?interval=0", "is no number from 0.1 to 3600"),
        ("statsd://h?interval=soon", "is no number"),
        ("statsd://h?max_bytes=9000", "is no number from 256 to 8192"),
        ("statsd://h?intervall=3", "there is no option 'intervall'"),
        ("statsd://h#part", "fragment"),
    ],
)
def test_a_bad_url_is_refused_with_a_remedy(url: str, problem: str) -> None:
    """The message says what is wrong with it and how to write it, and never shows a password."""
    with pytest.raises(SinkURLError) as caught:
        open_sink(url)
    assert problem in caught.value.what
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_the_scheme_is_known() -> None:
    """The class is what the scheme's URLs open."""
    assert isinstance(open_sink("statsd://localhost"), Sink)
    assert RUN.rank is None
