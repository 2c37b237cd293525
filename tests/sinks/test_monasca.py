"""The sink of the Monasca API: its URL, what it does with refusals, what it leaves out, what it tells of a run."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as judged
from hypothesis import strategies as st

from mlops.errors import (
    AuthorisationError,
    CloudConfigError,
    CloudUnavailableError,
    RequestRefusedError,
    SinkUnavailableError,
    SinkURLError,
)
from mlops.monasca.about import RUN_METRIC, STATES
from mlops.series import Series
from mlops.sinks import Points, RunIdentity, open_sink
from mlops.sinks import monasca as monasca_module
from mlops.sinks.monasca import MonascaSink
from mlops.store import RUNNING, RunInfo
from mlops.upload import upload
from tests.monasca.imitation import Imitation
from tests.monasca.scripted import SECRET, Reply, ScriptedCloud
from tests.sinks.durable import BEGAN, Row, WrittenRun, columns_of

RUN: Final = RunIdentity("20261122-232640-digits-0a1b2c", "digits", {"team": "vision"}, "node-1")
Metric = dict[str, Any]


class Picky(Imitation):
    """Refuses a batch as a whole for one metric that it will not have, as the API does.

    Attributes:
        bad: tells which metrics it will not have.
        most_metrics: of a batch; it answers 413 to larger ones.
        posts: the batches that it was sent, those that it refused among them.
    """

    def __init__(self, bad: Callable[[Metric], bool] = lambda _: False) -> None:
        super().__init__()
        self.bad = bad
        self.status = 422
        self.most_metrics = 10_000
        self.posts: list[list[Metric]] = []

    def post_metrics(self, body: bytes) -> None:
        """Take all of them or none."""
        batch = json.loads(body)
        self.posts.append(batch)
        if len(batch) > self.most_metrics:
            raise RequestRefusedError("POST was answered with 413", status=413)
        if any(self.bad(one) for one in batch):
            raise RequestRefusedError(
                f"POST was answered with {self.status}: no", status=self.status, detail="no such thing"
            )
        self.post(batch)

    def held(self) -> dict[str, list[float]]:
        """The values that it has of each metric, in the order of their times."""
        return {name: [value for _, (value, _) in sorted(rows.items())] for (name, _), rows in self._series.items()}


def points(rows: Sequence[Row], *, run: RunIdentity = RUN, series: Mapping[int, Series] | None = None) -> Points:
    """Points of these rows; a series without a name is called after its number."""
    named = {number: Series(f"metric.{number}") for number, _, _ in rows}
    return Points(run, columns_of(rows), {**named, **(series or {})})


def rows_of(series: int, each: int = 1) -> list[Row]:
    """So many points of each of so many series, in turns; each has another value."""
    return [(number % series, number * 0.001, float(number)) for number in range(series * each)]


def values_of(rows: Iterable[Row]) -> dict[str, list[float]]:
    """What an API has that was given these rows."""
    found: dict[str, list[float]] = {}
    for number, _, value in rows:
        found.setdefault(f"metric.{number}", []).append(value)
    return found


def named(*names: str) -> Callable[[Metric], bool]:
    """Tells the metrics of these names."""
    return lambda metric: metric["name"] in names


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What has been warned of so far."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedCloud]:
    """A cloud that answers what it is told to."""
    with ScriptedCloud() as running:
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(running.clouds_file(tmp_path)))
        yield running


# -- its URL -----------------------------------------------------------------------------------------


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clouds that sinks were opened for; none is asked anything."""
    names: list[str] = []

    def connect(cloud: str) -> Imitation:
        names.append(cloud)
        return Imitation()

    monkeypatch.setattr(monasca_module, "_connect", connect)
    return names


@pytest.mark.parametrize(
    ("url", "cloud", "interval", "most"),
    [
        ("monasca:", "", 5.0, 1000),
        ("monasca://", "", 5.0, 1000),
        ("monasca:?interval=60", "", 60.0, 1000),
        ("monasca://mycloud", "mycloud", 5.0, 1000),
        ("monasca://MyCloud/", "MyCloud", 5.0, 1000),
        ("monasca://My.Cloud_2?interval=0.1&batch=1500", "My.Cloud_2", 0.1, 1500),
        ("monasca://c?batch=1", "c", 5.0, 1),
        *((f"monasca://{quote(name, safe='')}", name, 5.0, 1000) for name in ("a b", "Größe", "a/b?c", "x:1", "100%")),
    ],
)
def test_a_url_names_a_cloud_as_it_is_written(
    connected: list[str], url: str, cloud: str, interval: float, most: int
) -> None:
    """Letters keep their case, what is quoted is taken for what it means, options have their defaults."""
    sink = open_sink(url)
    assert isinstance(sink, MonascaSink)
    assert connected == [cloud]
    assert (sink.where, sink.interval, sink.most) == (f"monasca://{cloud}", interval, most)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("monasca://cloud:8070", "has a port or a path.*Write monasca://CLOUD"),
        ("monasca://cloud/v2.0", "has a port or a path.*Write monasca://CLOUD"),
        ("monasca:cloud", "has a port or a path.*Write monasca://CLOUD"),
        ("monasca://cloud?rate=5", "there is no option 'rate'.*Its options: interval, batch"),
        ("monasca://cloud?interval=0", "interval='0' is no number from 0.1 to 3600"),
        ("monasca://cloud?interval=nan", "interval='nan' is no number"),
        ("monasca://cloud?interval=", "interval='' is no number"),
        ("monasca://cloud?batch=0", "batch='0' is no number from 1 to 1500"),
        ("monasca://cloud?batch=1501", "batch='1501' is no number"),
        ("monasca://cloud?batch=many", "batch='many' is no number.*The default: 1000"),
    ],
)
def test_a_url_that_means_nothing_says_what_to_write(connected: list[str], url: str, said: str) -> None:
    """No cloud is looked for."""
    with pytest.raises(SinkURLError, match=said):
        open_sink(url)
    assert connected == []


@pytest.mark.usefixtures("scripted")
def test_a_cloud_that_is_not_there_is_told_when_the_sink_is_opened() -> None:
    """With the names that there are: a training hears of it before it begins."""
    with pytest.raises(CloudConfigError, match=r"There is no cloud 'Scriptd' in .*The clouds there: 'scripted'"):
        open_sink("monasca://Scriptd")


# -- one bad metric among a thousand -----------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_the_one_that_is_refused_stands_alone_in_the_end(status: int, warned: Callable[[], list[str]]) -> None:
    """Of a thousand series 999 arrive, in some twenty requests more; what was refused, and why, is said."""
    api = Picky(named("metric.617"))
    api.status = status
    sink = MonascaSink("c", monasca=api)
    rows = rows_of(1000)
    sink.write(points(rows))
    assert api.held().keys() - {RUN_METRIC} == values_of(rows).keys() - {"metric.617"}
    assert (sink.sent, sink.dropped) == (999, 1)
    assert len(api.posts) <= 33
    (said,) = warned()
    assert f"monasca://c will not take metric.617 ({status}: no such thing). 1 of its points are not sent" in said


def test_a_refused_series_is_found_by_its_name_not_by_its_points() -> None:
    """Two hundred points of each of five series: the bad one costs a few requests, and no point of another."""
    api = Picky(named("metric.3"))
    sink = MonascaSink("c", monasca=api)
    rows = rows_of(5, 200)
    sink.write(points(rows))
    wanted = values_of(rows)
    del wanted["metric.3"]
    found = api.held()
    found.pop(RUN_METRIC, None)
    assert found == wanted
    assert (sink.sent, sink.dropped) == (800, 200)
    assert len(api.posts) <= 24


def test_one_point_of_a_series_does_not_cost_the_series(warned: Callable[[], list[str]]) -> None:
    """The other 299 of it arrive, now and later."""
    api = Picky(lambda one: one["value"] == 150.0)
    sink = MonascaSink("c", monasca=api)
    rows = rows_of(1, 300)
    sink.write(points(rows))
    sink.write(points([(0, 9.0, 7.0)]))
    assert api.held()["metric.0"] == [*(value for _, _, value in rows if value != 150.0), 7.0]
    assert (sink.sent, sink.dropped) == (300, 1)
    assert len(warned()) == 1


def test_the_first_and_the_last_point_of_a_series_do_not_cost_those_between() -> None:
    """That both ends of it are refused says nothing of the middle."""
    api = Picky(lambda one: one["name"] != RUN_METRIC and one["value"] in {0.0, 99.0})
    sink = MonascaSink("c", monasca=api)
    sink.write(points(rows_of(1, 100)))
    assert api.held()["metric.0"] == [float(value) for value in range(1, 99)]
    assert (sink.sent, sink.dropped) == (98, 2)


@judged(max_examples=60, deadline=None)
@given(
    series=st.integers(1, 12),
    each=st.integers(1, 20),
    bad_series=st.sets(st.integers(0, 11), max_size=4),
    bad_points=st.sets(st.integers(0, 239), max_size=3),
    most=st.integers(1, 300),
)
def test_whatever_is_refused_all_else_arrives(
    series: int, each: int, bad_series: set[int], bad_points: set[int], most: int
) -> None:
    """Any few series and points, in an API that also takes but so many metrics at once; each point is counted once."""
    rows = rows_of(series, each)
    one_each = {number % series: float(number) for number in bad_points if number < len(rows)}  # one of a series
    bad = {f"metric.{number}" for number in bad_series}
    worst = set(one_each.values())
    api = Picky(lambda one: one["name"] in bad or (one["value"] in worst and one["name"] != RUN_METRIC))
    api.most_metrics = most
    sink = MonascaSink("c", monasca=api)
    sink.write(points(rows))
    wanted = values_of(row for row in rows if f"metric.{row[0]}" not in bad and row[2] not in worst)
    found = api.held()
    found.pop(RUN_METRIC, None)
    assert found == wanted
    assert (sink.sent, sink.dropped) == (count := sum(map(len, wanted.values())), len(rows) - count)


def test_an_api_that_takes_little_at_once_is_given_little() -> None:
    """413 is a matter of the whole batch: everything arrives in parts, and nothing is given up."""
    api = Picky()
    api.most_metrics = 100
    sink = MonascaSink("c", monasca=api)
    rows = rows_of(1, 1000)
    sink.write(points(rows))
    assert api.held() == values_of(rows)
    assert (sink.sent, sink.dropped) == (1000, 0)


def test_a_series_that_was_given_up_is_not_asked_about_again(warned: Callable[[], list[str]]) -> None:
    """Later points of it are counted and cost no request; another run's, of the same name, is judged anew."""
    api = Picky(lambda one: one["name"] == "metric.1" and one["dimensions"]["run_id"] == RUN.id)
    sink = MonascaSink("c", monasca=api)
    sink.write(points(rows_of(3, 5)))
    asked = len(api.posts)
    sink.write(points([(number, 1.0 + moment, value) for number, moment, value in rows_of(3, 5)]))
    assert len(api.posts) == asked + 1
    assert {one["name"] for one in api.posts[-1]} == {"metric.0", "metric.2"}
    sink.write(points([(1, 5.0, 1.0)]))
    assert len(api.posts) == asked + 1, "there is nothing to ask"
    assert (sink.sent, sink.dropped) == (20, 11)
    assert len(warned()) == 1
    other = RunIdentity("20261122-232640-digits-ffffff", "digits")
    sink.write(points([(1, 5.0, 1.0)], run=other))
    assert (sink.sent, sink.dropped) == (21, 11)


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("count", [1, 300])
def test_an_api_that_refuses_everything_is_out_of_order(count: int, described: bool) -> None:
    """It refuses a measurement too that it must take: nothing is given up, and once it is well all arrives."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    if described:
        sink.describe(RUN, RunInfo(RUN.id, RUN.name, BEGAN))
    api.posts.clear()
    api.bad = lambda _: True
    rows = rows_of(3, count)
    for _ in range(2):
        with pytest.raises(SinkUnavailableError, match=r"refuses everything, also what it must take.*out of order"):
            sink.write(points(rows))
    assert (sink.sent, sink.dropped) == (0, 0)
    assert len(api.posts) <= 33
    api.bad = lambda _: False
    sink.write(points(rows))
    assert (sink.sent, sink.dropped) == (3 * count, 0)
    found = api.held()
    found.pop(RUN_METRIC, None)
    assert found == values_of(rows)


def test_an_api_that_comes_to_its_senses_costs_nothing(warned: Callable[[], list[str]]) -> None:
    """What it refused and then takes is not given up: it is asked again before anything is."""
    left = [4]

    def bad(metric: Metric) -> bool:
        if metric["name"] != "metric.0":
            return False
        left[0] -= 1
        return left[0] >= 0

    api = Picky(bad)
    sink = MonascaSink("c", monasca=api)
    sink.write(points(rows_of(2)))
    assert (sink.sent, sink.dropped) == (2, 0)
    assert api.held().keys() >= {"metric.0", "metric.1"}
    assert not warned()


@pytest.mark.parametrize("many", [2, 3, 4])
@pytest.mark.parametrize("each", [1, 50])
def test_one_of_several_apis_that_is_out_of_order_costs_nothing(many: int, each: int) -> None:
    """A load balancer asks them in turns: that one refuses what it is asked says nothing about what that was."""
    api = Picky(lambda _: len(api.posts) % many == 1)
    sink = MonascaSink("c", monasca=api)
    for _ in range(20):
        with contextlib.suppress(SinkUnavailableError):
            sink.write(points(rows_of(3, each)))
            break
    assert (sink.sent, sink.dropped) == (3 * each, 0)


def test_the_known_good_measurement_is_the_runs_own() -> None:
    """What is asked again is what was told of the run; so no second series about it comes to be."""
    api = Picky(named("metric.0"))
    sink = MonascaSink("c", monasca=api)
    sink.describe(RUN, RunInfo(RUN.id, RUN.name, BEGAN))
    sink.write(points(rows_of(2)))
    assert len({json.dumps(one) for batch in api.posts for one in batch if one["name"] == RUN_METRIC}) == 1


def test_a_run_that_was_not_told_of_yet_is_not_told_of_twice() -> None:
    """Of two series about a run one would have all the dimensions of the other: the API cannot list those any more."""
    api = Picky(named("metric.0"))
    sink = MonascaSink("c", monasca=api)
    sink.write(points(rows_of(2)))
    sink.describe(RUN, RunInfo(RUN.id, RUN.name, BEGAN))
    series = [dict(dimensions) for name, dimensions in api._series if name == RUN_METRIC]
    assert not [(one, other) for one in series for other in series if one != other and one.items() <= other.items()]


def test_what_is_no_matter_of_points_is_not_divided() -> None:
    """A refusal of another kind comes out as it is, after one request; nothing is counted."""
    api = Picky(lambda _: True)
    api.status = 409
    sink = MonascaSink("c", monasca=api)
    with pytest.raises(RequestRefusedError):
        sink.write(points(rows_of(5)))
    assert len(api.posts) == 1
    assert (sink.sent, sink.dropped) == (0, 0)


def test_a_cloud_that_goes_away_midway_is_given_the_same_again() -> None:
    """In the midst of dividing: nothing counts as sent or dropped, and the next call sends and counts all."""
    api = Picky(named("metric.3"))
    post, calls = api.post_metrics, [0]

    def away(body: bytes) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise CloudUnavailableError("It is away", retry_after=9.0)
        post(body)

    api.post_metrics = away  # type: ignore[method-assign]
    sink = MonascaSink("c", monasca=api)
    with pytest.raises(SinkUnavailableError, match="It is away") as caught:
        sink.write(points(rows_of(8)))
    assert caught.value.retry_after == 9.0
    assert (sink.sent, sink.dropped) == (0, 0)
    sink.write(points(rows_of(8)))
    assert (sink.sent, sink.dropped) == (7, 1)


# -- what is left out, and said ----------------------------------------------------------------------


def test_what_monasca_cannot_keep_is_counted_and_said_once(warned: Callable[[], list[str]]) -> None:
    """nan and infinities, times before 1970 and after 2261: one sentence for each kind, whatever their number."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    unfit = [
        (0, 0.0, math.nan),
        (1, 0.0, math.inf),
        (0, 0.0, -math.inf),
        (0, -BEGAN - 1.0, 1.0),
        (1, 1e10, 1.0),
        (1, 1e30, 1.0),
        (0, math.inf, 1.0),
        (0, math.nan, math.nan),
    ]
    for _ in range(2):
        sink.write(points([*unfit[:4], *rows_of(2), *unfit[4:]]))
    assert api.held() == values_of(rows_of(2))
    assert (sink.sent, sink.dropped) == (4, 16)
    finite, when = warned()
    assert finite.startswith("monasca://c: a value is nan. Monasca takes finite numbers only")
    assert when.startswith("monasca://c: a point's time is -1 s after 1970.")
    assert "Check this machine's clock." in when


def test_nothing_that_can_be_sent_is_no_request() -> None:
    """Neither no points at all, nor points of which none can be kept."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    sink.write(points([]))
    sink.write(points([(0, 0.0, math.nan)]))
    assert api.posts == []
    assert (sink.sent, sink.dropped) == (0, 1)


def test_a_series_that_cannot_be_sent_is_counted_and_said_once(warned: Callable[[], list[str]]) -> None:
    """One whose dimensions are too long for Monasca; all others arrive."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    long = Series.of("metric.0", {f"key.{number}": "x" * 200 for number in range(12)})
    for moment in (0.0, 1.0):
        rows = [(number, moment + time, value) for number, time, value in rows_of(2, 3)]
        sink.write(points(rows, series={0: long}))
    assert api.held().keys() == {"metric.1"}
    assert (sink.sent, sink.dropped) == (6, 6)
    (said,) = warned()
    assert "Its points are in the store, and are not sent." in said


@pytest.mark.parametrize(
    ("skew", "said"),
    [
        (-7200.0, r"this machine's clock is 7[12]\d\d s ahead of the cloud's"),
        (3.2e9, r"this machine's clock is 3[12]\d+ s behind the cloud's"),
        (-200.0, ""),
        (200.0, ""),
    ],
)
def test_a_clock_that_is_wrong_is_said_once(
    scripted: ScriptedCloud, skew: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The API's answers tell the time; a few minutes are nobody's fault. The points are sent all the same."""
    scripted.usual = Reply(204, skew=skew)
    sink = open_sink("monasca://scripted")
    for _ in range(3):
        sink.write(points(rows_of(2)))
    assert sink.sent == 6
    found = [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]
    assert len(found) == bool(said)
    assert re.search(said, "".join(found))


# -- a cloud that cannot now -------------------------------------------------------------------------


Call = Callable[[MonascaSink], object]
CALLS: Final[Mapping[str, Call]] = {
    "write": lambda sink: sink.write(points(rows_of(2))),
    "describe": lambda sink: sink.describe(RUN, RunInfo(RUN.id, RUN.name, BEGAN)),
    "arrived": lambda sink: sink.arrived(RUN.id),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_retry_after_is_carried_to_whoever_waits(scripted: ScriptedCloud, call: Call, status: int) -> None:
    """Whatever it was asked, and by whatever status it says so; without one nothing is made up."""
    sink = open_sink("monasca://scripted")
    assert isinstance(sink, MonascaSink)
    scripted.reply(Reply(status, headers={"Retry-After": "17"}), Reply(status))
    for after in (17.0, None):
        with pytest.raises(SinkUnavailableError, match=f"was answered with {status}") as caught:
            call(sink)
        assert caught.value.retry_after == after
    assert (sink.sent, sink.dropped) == (0, 0)


def test_a_login_that_cannot_now_is_waited_for_too(scripted: ScriptedCloud) -> None:
    """The destination is not known before Keystone has told the project; it is asked for again."""
    sink = open_sink("monasca://scripted")
    assert isinstance(sink, MonascaSink)
    scripted.logins.append(Reply(503, headers={"Retry-After": "17"}))
    with pytest.raises(SinkUnavailableError, match="Keystone of cloud 'scripted' answered with 503") as caught:
        sink.destination()
    assert caught.value.retry_after == 17.0
    assert sink.destination() == "monasca p1 RegionOne"


def test_a_page_instead_of_a_receipt_is_no_receipt(scripted: ScriptedCloud) -> None:
    """A login page of a proxy's, with 200: nothing counts as sent."""
    scripted.reply(Reply(200, b"<html>Log in here</html>"))
    sink = open_sink("monasca://scripted")
    with pytest.raises(SinkUnavailableError, match="Something else answers there"):
        sink.write(points(rows_of(2)))
    assert sink.sent == 0


def test_a_role_that_may_not_is_no_outage(scripted: ScriptedCloud) -> None:
    """It comes out as what it is, so that it is not waited for like one."""
    scripted.usual = Reply(403, b'{"title": "Forbidden"}')
    sink = open_sink("monasca://scripted")
    for call in CALLS.values():
        with pytest.raises(AuthorisationError, match="this is a matter of roles"):
            call(sink)  # type: ignore[arg-type]  # it is one
    assert (sink.sent, sink.dropped) == (0, 0)


def test_no_secret_is_shown(scripted: ScriptedCloud, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by repr nor in a log or an error, whoever refuses what."""
    texts = []
    with caplog.at_level(logging.DEBUG):
        for scripted.usual in (Reply(401), Reply(403), Reply(422), Reply(500), Reply(0)):
            sink = open_sink("monasca://scripted")
            scripted.logins.append(Reply(401))
            for _ in range(2):
                with pytest.raises((AuthorisationError, SinkUnavailableError)) as caught:
                    sink.write(points(rows_of(2)))
                texts += [str(caught.value), repr(caught.value), repr(sink), repr(vars(sink))]
    shown = " ".join([*texts, caplog.text])
    assert "Keystone refuses the credentials of cloud 'scripted'" in shown
    assert SECRET not in shown
    assert "token-1" not in shown


# -- whose points they are ---------------------------------------------------------------------------


def dimensions_of(api: Imitation, name: str = "metric.0") -> list[dict[str, str]]:
    """Of each series of that name that it has."""
    return [dict(dimensions) for found, dimensions in api._series if found == name]


def test_every_series_tells_whose_it_is() -> None:
    """The run, its id, the host and the run's own dimensions; the rank or the process, where there are several."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    common = {"run": "digits", "run_id": RUN.id, "hostname": "node-1", "team": "vision"}
    for more in ({}, {"rank": 3}, {"process": "node-1-7-0"}):
        sink.write(points([(0, 0.0, 1.0)], run=replace(RUN, **more)))
    assert sorted(dimensions_of(api), key=len) == [
        common,
        {**common, "rank": "3"},
        {**common, "process": "node-1-7-0"},
    ]
    sink.write(points([(0, 0.0, 1.0)], run=RunIdentity("an-id", "digits")))
    assert {"run": "digits", "run_id": "an-id"} in dimensions_of(api), "what is not known is left out"


@pytest.mark.parametrize("key", ["run_id", "process"])
def test_who_it_is_cannot_be_overridden_by_a_runs_own_dimensions(key: str) -> None:
    """Nor by a series': with another id its points would be another run's, and with another process another's."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    run = replace(RUN, process="node-1-7-0", dimensions={key: "forged"})
    sink.write(points([(0, 0.0, 1.0)], run=run, series={0: Series.of("metric.0", {key: "forged"})}))
    (found,) = dimensions_of(api)
    assert (found["run_id"], found["process"]) == (RUN.id, "node-1-7-0")


@pytest.mark.parametrize("where", ["run", "series"])
@pytest.mark.parametrize("key", ["rank", "process", "hostname", "run", "run_id"])
def test_two_processes_stay_two_whatever_dimensions_they_have(key: str, where: str) -> None:
    """Else of two points of the same millisecond one would be lost."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    who: list[dict[str, Any]] = [{"process": "node-1-1-0"}, {"process": "node-1-2-0"}, {"rank": 0}, {"rank": 1}]
    own = {key: "forged"}
    for more in who:
        run = replace(RUN, dimensions=own if where == "run" else {}, **more)
        series = {0: Series.of("metric.0", own if where == "series" else {})}
        sink.write(points([(0, 0.0, 1.0)], run=run, series=series))
    assert len(dimensions_of(api)) == len(who)


def test_dimensions_that_have_to_be_mended_are_said_once(warned: Callable[[], list[str]]) -> None:
    """What a run was given by an older version, or by hand, is sent so that Monasca takes it."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    run = replace(RUN, dimensions={"team": "a{b}"})
    for _ in range(2):
        sink.write(points([(0, 0.0, 1.0)], run=run))
    assert dimensions_of(api)[0]["team"] == "a_b_"
    assert len(warned()) == 1


# -- the run itself, and what has arrived --------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "value"), [(RUNNING, 0.0), ("finished", 1.0), ("of a later version", 0.0), ("killed", None)]
)
def test_a_run_is_told_of_by_one_measurement(outcome: str, value: float | None) -> None:
    """When it began, how it goes or went, and what it was given: of the run, not of one of its processes."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    whose = replace(RUN, rank=3, process="x", dimensions={"team": "vision", "run_id": "forged", "rank": "9"})
    info = RunInfo(RUN.id, RUN.name, BEGAN + 0.1239, outcome=outcome, parameters={"lr": 0.1})
    sink.describe(whose, info)
    sink.describe(whose, info)
    first, again = api.posts
    assert first == again
    (told,) = first
    assert told["name"] == RUN_METRIC
    assert told["timestamp"] == round((BEGAN + 0.1239) * 1000)
    assert told["dimensions"] == {"run": "digits", "run_id": RUN.id, "hostname": "node-1", "team": "vision"}
    assert told["value"] == (float(STATES.index("killed")) if value is None else value)
    assert told["value_meta"]["outcome"] == outcome
    assert json.loads(told["value_meta"]["parameters"]) == {"lr": 0.1}
    assert (sink.sent, sink.dropped) == (0, 0), "it is no point of the run's"


@pytest.mark.parametrize("started", [9.3e9, 2.5e11])
def test_a_run_that_began_in_another_century_is_told_of_all_the_same(started: float) -> None:
    """A clock that was wrong then does not keep the run's points from being delivered, nor its end from being told."""
    api = Picky(lambda one: not 0 <= one["timestamp"] <= 9_214_646_400_000)  # what the API refuses or the database
    sink = MonascaSink("c", monasca=api)
    sink.describe(RUN, RunInfo(RUN.id, RUN.name, started))
    assert RUN_METRIC in api.held()


def test_a_refusal_of_the_runs_own_measurement_is_waited_out() -> None:
    """It is one that the API must take; what else it refuses then says nothing about points."""
    api = Picky(lambda _: True)
    sink = MonascaSink("c", monasca=api)
    with pytest.raises(SinkUnavailableError, match="monasca://c refuses what it must take"):
        sink.describe(RUN, RunInfo(RUN.id, RUN.name, BEGAN))


def test_what_has_arrived_is_counted_by_the_api() -> None:
    """All points of the run, of all its processes and metrics; not the one about the run, not another run's."""
    api = Picky()
    sink = MonascaSink("c", monasca=api)
    assert sink.arrived(RUN.id) == 0
    sink.describe(RUN, RunInfo(RUN.id, RUN.name, BEGAN))
    sink.write(points(rows_of(3, 20)))
    sink.write(points([(0, -BEGAN, 1.0), (0, 7.3e9 - BEGAN, 2.0)], run=replace(RUN, rank=1)))
    sink.write(points(rows_of(2), run=replace(RUN, id="another-run")))
    assert sink.arrived(RUN.id) == 62 == sink.sent - 2
    api.forget("metric.1")
    assert sink.arrived(RUN.id) == 42


def test_a_whole_run_of_two_ranks_goes_through(runs_dir: Path) -> None:
    """From its files to the API, refused and unfit points among them; what is there is confirmed, and sent once."""
    run = WrittenRun(runs_dir, dimensions={"team": "vision"})
    rows = [*rows_of(3, 400), (0, 5.0, math.nan), (1, 5.0, 1.0), (1, 5.0, 2.0), (1, 5.0, 3.0)]
    for rank in range(2):
        run.whole([rows[:500], rows[500:]], pid=1 + rank, rank=rank, dimensions={"team": "vision"})
    api = Picky(named("metric.2"))
    sink = MonascaSink("c", most=250, monasca=api)
    (result,) = upload([run.folder], sink)
    assert (result.sent, result.dropped, result.refused, result.left) == (1606, 802, 800, 0)
    assert result.confirmed
    assert (sink.sent, sink.dropped) == (1606, 802)
    wanted = values_of(row for row in rows if row[0] != 2 and math.isfinite(row[2]))
    for whose in ("0", "1"):
        mine = {name: found for (name, own), found in api._series.items() if dict(own).get("rank") == whose}
        assert {name: [value for _, (value, _) in sorted(found.items())] for name, found in mine.items()} == wanted
    asked = len(api.posts)
    (result,) = upload([run.folder], sink)
    assert (result.sent, result.before, len(api.posts)) == (0, 1606, asked)
