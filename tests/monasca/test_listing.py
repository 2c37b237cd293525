"""What there is in a Monasca: names, series, values of dimensions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import CloudError
from mlops.monasca import Monasca
from mlops.monasca.listing import dimension_values, metric_names, series_of
from mlops.series import Series
from tests.monasca.imitation import Imitation, metric
from tests.testbed.monasca import Monasca as RealMonasca

pytestmark = pytest.mark.filterwarnings("ignore:Support for InfluxDB requires")  # openstacksdk warns all who use it

T = 1_795_390_000_000
NAMES = st.lists(st.text("abAB-", min_size=1, max_size=6).map(lambda text: f"x.{text}"), unique=True, max_size=12)


@given(NAMES, st.integers(1, 5))
def test_names_come_once_each_or_it_is_said(names: list[str], limit: int) -> None:
    """Page by page, though the API looks for an offset in lower case; it never gives a part for the whole."""
    imitation = Imitation()
    imitation.post(metric(name, T, 1.0, run_id="r", value=name) for name in names)
    imitation.post([metric("other", T, 1.0, run_id="s")])
    try:
        assert metric_names(imitation, {"run_id": "r"}, limit=limit) == sorted(names)
        assert dimension_values(imitation, "value", limit=limit) == sorted(names)
    except CloudError as error:
        assert "says that there are more" in str(error)  # noqa: PT017 - either is right
        assert sum(name != name.lower() for name in names) >= limit


def test_names_in_lower_case_and_in_capitals() -> None:
    """``Zebra`` at the end of a page does not hide what lies between it and ``zebra``."""
    imitation = Imitation()
    names = ["run-1-Zebra", "run-1-a", "run-1-b", "run-1-zebra", "run-2"]
    imitation.post(metric("m", T, 1.0, run_id=name) for name in names)
    assert dimension_values(imitation, "run_id", limit=4) == names


def test_series_with_spaces_in_their_dimensions() -> None:
    """The API lists them with backslashes; they come as they are, page by page."""
    imitation = Imitation()
    imitation.post(metric("m", T, 1.0, run_id="r", rack=f"row {number}") for number in range(7))
    expected = [Series.of("m", {"run_id": "r", "rack": f"row {number}"}) for number in range(7)]
    for limit in (1, 3, 7, 100):
        assert series_of(imitation, {"run_id": "r"}, limit=limit) == expected


def test_values_of_one_metric_only() -> None:
    """So that the runs of a cloud are found without looking at every metric."""
    imitation = Imitation()
    imitation.post([metric("mlops.run", T, 1.0, run_id="a"), metric("m", T, 1.0, run_id="b")])
    assert dimension_values(imitation, "run_id", name="mlops.run") == ["a"]
    assert dimension_values(imitation, "run_id") == ["a", "b"]


@pytest.mark.parametrize(
    "answer", [None, [], {"elements": 3}, {"elements": [3]}, {"elements": [{}]}, {"links": [7], "elements": []}, "x"]
)
def test_nonsense_is_an_error_of_ours(answer: object) -> None:
    """Whatever is answered, it is a list or a CloudError."""
    imitation = Imitation()
    imitation.answer = lambda _path, _content: answer
    for ask in (
        lambda: metric_names(imitation, {"run_id": "r"}),
        lambda: dimension_values(imitation, "run_id"),
        lambda: series_of(imitation, {"run_id": "r"}),
    ):
        with pytest.raises(CloudError, match="what no Monasca API says"):
            ask()


@pytest.mark.slow
def test_the_real_api_lists_everything(
    monasca: RealMonasca, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """Names with capitals, quotes and letters of many languages; dimensions with spaces; pages of every size."""
    client = Monasca.connect()
    names = sorted(["l.A", "l.B", "l.a", "l.b", "l.it's", "l.größe", "l.名前", "l.100%", "l.a+b", "l.a/b", "l.z"])
    values = sorted(["a b", "it's", "größe", "日本", "a+b", "a%41b", "a/b", "x:y", "Zebra", "a", "zebra"])
    dimensions = [{"run_id": "list-1", "l": value, "n": name} for name, value in zip(names, values, strict=True)]
    monasca.call("POST", "/metrics", [metric(name, T, 1.0, **one) for name, one in zip(names, dimensions, strict=True)])
    wait_until(lambda: len(metric_names(client, {"run_id": "list-1"})) == len(names))
    expected = {Series.of(name, one) for name, one in zip(names, dimensions, strict=True)}
    for limit in (3, 4, 5, 10, 11, 12, 10_000):
        assert metric_names(client, {"run_id": "list-1"}, limit=limit) == names
        assert dimension_values(client, "l", limit=limit) == values
        assert set(series_of(client, {"run_id": "list-1"}, limit=limit)) == expected
    for name, one in zip(names, dimensions, strict=True):
        assert series_of(client, {"l": one["l"]}, name=name) == [Series.of(name, one)]
