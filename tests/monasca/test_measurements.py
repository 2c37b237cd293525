"""Reading measurements and statistics back: every point once, whatever the API's pages do."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.errors import AuthorisationError, CloudError, CloudUnavailableError
from mlops.monasca import Monasca
from mlops.monasca.measurements import FIRST, LAST, Measurements, PatientMonasca, Progress
from tests.monasca.imitation import Imitation, metric
from tests.testbed.monasca import Monasca as RealMonasca

pytestmark = pytest.mark.filterwarnings("ignore:Support for InfluxDB requires")  # openstacksdk warns all who use it

T = 1_795_390_000_000

Points = dict[tuple[str, int], float]

SIZES = st.sampled_from([0, 1, 2, 9, 10, 11, 30])
SPREADS = st.sampled_from([1, 3, 1000, 86_400_000])
SERIES = st.lists(st.tuples(SIZES, SPREADS, st.sampled_from([0, T, T - 10])), max_size=6)


def _points(series: list[tuple[int, int, int]]) -> Points:
    return {
        (str(number), first + place * spread): number + place / 7
        for number, (size, spread, first) in enumerate(series)
        for place in range(size)
    }


def _metrics(points: Points, name: str = "m", **dimensions: str) -> list[dict[str, Any]]:
    return [metric(name, moment, value, s=number, **dimensions) for (number, moment), value in points.items()]


def _read(monasca: Monasca, limit: int, name: str = "m", **dimensions: str) -> Points:
    found = Measurements(monasca, dimensions, limit=limit).read([name])
    points = [
        ((line.dimensions["s"], moment), value)
        for line in found.lines
        for moment, value in zip(line.time.tolist(), line.value.tolist(), strict=True)
    ]
    assert len(dict(points)) == len(points) == found.counted[name], "a point came twice"
    return dict(points)


@given(SERIES, st.sampled_from([7, 10, 11, 12, 40]))
@settings(deadline=None, max_examples=30)
def test_every_point_comes_once(series: list[tuple[int, int, int]], limit: int) -> None:
    """Many series, sizes around the API's limit, points at one time and far apart."""
    imitation = Imitation(limit)
    imitation.post(_metrics(_points(series), run_id="r"))
    imitation.post([metric("m", T, 1.0, s="x", run_id="other"), metric("n", T, 1.0, s="x", run_id="r")])
    assert _read(imitation, limit, run_id="r") == _points(series)


def test_the_apis_own_pages_would_lose_points() -> None:
    """What this is about: the way that the API offers on from a full page does not lead to all points."""
    imitation = Imitation(10)
    imitation.post(_metrics(_points([(11, 1, T), (11, 1, T)]), run_id="r"))
    asked = {"name": "m", "start_time": "1970-01-01T00:00:00Z", "end_time": "2262-01-01T00:00:00Z", "group_by": "*"}
    answer = imitation.get("/metrics/measurements", asked)
    (link,) = answer["links"]
    offset = link["href"].partition("offset=")[2].partition("&")[0]
    assert offset.startswith("0_"), "it goes on in the first series"
    assert len(answer["elements"]) == 1, "and has given nothing of the second, which has points before that time"


def test_points_that_come_while_one_reads() -> None:
    """A window that has become too large since it was counted is divided."""
    imitation = Imitation(10)
    imitation.post(_metrics(_points([(6, 5, T)]), run_id="r"))
    late = _points([(40, 1, T)])

    def grow(path: str, content: Any) -> Any:
        if path == "/metrics/statistics":
            imitation.post(_metrics(late, run_id="r"))
        return content

    imitation.answer = grow
    found = Measurements(imitation, {"run_id": "r"}, limit=10).read(["m"])
    assert [line.time.tolist() for line in found.lines] == [[T + place for place in range(40)]]
    assert found.counted == {"m": 6}


def test_more_series_at_one_time_than_an_answer_holds() -> None:
    """That cannot be read, and is said, rather than some of it given."""
    imitation = Imitation(10)
    imitation.post(metric("m", T, 1.0, run_id="r", s=str(number)) for number in range(11))
    with pytest.raises(CloudError, match="more series of m with points at the same time"):
        Measurements(imitation, {"run_id": "r"}).read(["m"])


def test_a_span_of_time() -> None:
    """The beginning is included, the end is not; what an API gives beyond is left out."""
    imitation = Imitation()
    imitation.post(_metrics(_points([(10, 1, T)]), run_id="r"))
    whole = imitation.get("/metrics/measurements", {"name": "m", "start_time": "1970-01-01", "end_time": "2262-01-01"})
    for answer in (lambda _, content: content, lambda path, content: whole if path.endswith("ents") else content):
        imitation.answer = answer
        (line,) = Measurements(imitation, {}, start=T + 2, end=T + 5).read(["m"]).lines
        assert line.time.tolist() == [T + 2, T + 3, T + 4]


def test_statistics_merged_and_by_series() -> None:
    """By periods that begin at multiples of their length; several answers are put together."""
    imitation = Imitation(3)
    imitation.post(_metrics({("a", T + 1000 * n): n for n in range(10)} | {("b", T + 2000): 8.0}, run_id="r"))
    asked = Measurements(imitation, {"run_id": "r"}, limit=3)
    (merged,) = asked.statistics("m", ("count", "max", "avg"), period=2)
    assert merged.time.tolist() == [T + 2000 * n for n in range(5)]
    assert merged.columns["count"].tolist() == [2, 3, 2, 2, 2]
    assert merged.columns["max"].tolist() == [1, 8, 5, 7, 9]
    apart = {one.dimensions["s"]: one for one in asked.statistics("m", ("sum",), period=2, merge=False)}
    assert apart["a"].columns["sum"].tolist() == [1, 5, 9, 13, 17]
    assert apart["b"].columns["sum"].tolist() == [8]


def test_counting() -> None:
    """One question, whatever there is; nothing is 0."""
    imitation = Imitation()
    imitation.post(_metrics(_points([(30, 86_400_000, 0), (11, 1, T)]), run_id="r"))
    assert Measurements(imitation, {"run_id": "r"}).count("m") == 41
    assert Measurements(imitation, {"run_id": "r"}, start=T).count("m") == 11
    assert Measurements(imitation, {"run_id": "r"}).count("nosuch") == 0
    assert len(imitation.asked) == 3


def test_how_it_goes_is_told() -> None:
    """The total first, then every answer, on the thread that called."""
    imitation = Imitation(10)
    imitation.post(_metrics(_points([(30, 1, T)]), run_id="r"))
    told: list[tuple[Progress, int]] = []
    Measurements(imitation, {"run_id": "r"}, limit=10).read(
        ["m"], on_progress=lambda progress: told.append((progress, threading.get_ident()))
    )
    done = [progress.done for progress, _ in told]
    assert {progress.total for progress, _ in told} == {30}
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 30)
    assert {thread for _, thread in told} == {threading.get_ident()}


class _Patient(PatientMonasca):
    """A patient one whose cloud is a list of what happens."""

    def __init__(self, *happens: object) -> None:
        super().__init__(Imitation().cloud)
        self.happens = list(happens)
        self.tries = 0

    def _request(self, *_args: Any, **_options: Any) -> Any:
        self.tries += 1
        what = self.happens.pop(0) if self.happens else CloudUnavailableError("away")
        if isinstance(what, Exception):
            raise what
        return what


class _Said:
    def json(self) -> object:
        return {"elements": []}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that are slept, which pass at once."""
    passed: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", passed.append)
    return passed


def test_a_query_is_asked_again(slept: list[float]) -> None:
    """An API that is away for a moment costs a moment; a Retry-After is heeded; each trouble is told."""
    patient = _Patient(CloudUnavailableError("away"), CloudUnavailableError("busy", retry_after=7.0), _Said())
    told: list[str] = []
    patient.on_trouble = lambda error: told.append(error.what)
    assert patient.get("/metrics/names") == {"elements": []}
    assert told == ["away", "busy"]
    assert slept[1] == 7.0


def test_patience_ends(slept: list[float]) -> None:
    """After six attempts, or at once where the API asks to be left alone for longer than one would wait."""
    patient = _Patient()
    with pytest.raises(CloudUnavailableError, match="away"):
        patient.get("/metrics/names")
    assert patient.tries == 6
    hopeless = _Patient(CloudUnavailableError("maintenance", retry_after=600.0))
    with pytest.raises(CloudUnavailableError, match="maintenance"):
        hopeless.get("/metrics/names")
    assert hopeless.tries == 1
    assert sum(slept) < 60


def test_what_waiting_does_not_mend_is_raised_at_once(slept: list[float]) -> None:
    """A role that may not read is told without delay."""
    patient = _Patient(AuthorisationError("no role"))
    with pytest.raises(AuthorisationError):
        patient.get("/metrics/names")
    assert (patient.tries, slept) == (1, [])


def test_an_error_on_the_way_ends_the_reading() -> None:
    """One window that cannot be had: the error, not the rest."""
    imitation = Imitation(10)
    imitation.post(_metrics(_points([(100, 1, T)]), run_id="r"))

    def fail(path: str, content: Any) -> Any:
        if path == "/metrics/measurements":
            raise CloudUnavailableError("away for good")
        return content

    imitation.answer = fail
    with pytest.raises(CloudUnavailableError, match="away for good"):
        Measurements(imitation, {"run_id": "r"}, limit=10).read(["m"])


def test_all_of_time_is_what_monasca_keeps() -> None:
    """1970 to the end of 2261."""
    assert (FIRST, LAST) == (0, 9_214_646_400_000)


# -- the real one -------------------------------------------------------------------------------


def _holds(asked: Measurements, total: int) -> bool:
    return asked.count("page.borders") == total


def _shapes(random_: random.Random) -> list[tuple[int, int, int]]:
    size = random_.choice([0, 1, 5, 40, 99, 100, 101])
    shapes = [
        (size, random_.choice([1, 3, 250, 3_600_000]), T + random_.randint(0, 3)) for _ in range(random_.randint(1, 7))
    ]
    return [*shapes, (random_.choice([1, 100]), 1, T)]


@pytest.mark.slow
def test_every_point_of_the_real_api_comes_once(
    monasca: RealMonasca, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """Runs of many shapes through the real API, broker, persister and database, read with limits around their sizes."""
    random_ = random.Random(20261122)  # noqa: S311 - the same shapes in every run
    client = Monasca.connect()
    runs = {f"page-borders-{number}": _points(_shapes(random_)) for number in range(8)}
    for run, points in runs.items():
        metrics = _metrics(points, "page.borders", run_id=run)
        for first in range(0, len(metrics), 1000):
            monasca.call("POST", "/metrics", metrics[first : first + 1000])
    for run, points in runs.items():
        total = len(points)
        asked = Measurements(client, {"run_id": run})
        wait_until(partial(_holds, asked, total))
        for limit in {100, 101, max(total - 1, 10), max(total, 10), total + 10}:
            assert _read(client, limit, "page.borders", run_id=run) == points


@pytest.mark.slow
def test_more_than_one_answer_of_the_real_api(
    monasca: RealMonasca, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """Three series with 12,001 points: the API's own limit of ten thousand stands in the way, and loses nothing."""
    client = Monasca.connect()
    points = _points([(4000, 2, T), (4000, 2, T), (4001, 2, T)])
    metrics = _metrics(points, "page.large", run_id="large")
    for first in range(0, len(metrics), 1000):
        monasca.call("POST", "/metrics", metrics[first : first + 1000])
    asked = Measurements(client, {"run_id": "large"})
    wait_until(lambda: asked.count("page.large") == len(points))
    assert _read(client, 20_000, "page.large", run_id="large") == points
    by_series = asked.statistics("page.large", ("count", "min", "max"), period=9_000_000_000, merge=False)
    assert {one.dimensions["s"]: int(one.columns["count"][0]) for one in by_series} == {"0": 4000, "1": 4000, "2": 4001}
    by_second = asked.statistics("page.large", ("count",), period=1)
    assert sum(one.columns["count"].sum() for one in by_second) == len(points)
