"""What Prometheus is shown, judged by prometheus_client's own parsers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlops.errors import SeriesError
from mlops.series import METRICS, Series, mend_dimensions, mend_name
from mlops.sinks._exposition import Table, Tables
from tests.sinks import helpers
from tests.sinks.helpers import RUN

NAN = float("nan")


def parse_openmetrics(text: str) -> list[Metric]:
    """What prometheus_client's strict parser makes of it."""
    return list(parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


class Shown:
    """A table and what its readers see.

    Attributes:
        table: the table.
        said: what it said.
    """

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.table = Table(self.said.setdefault)
        self.tables = Tables()
        self.tables.add(self.table)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self.tables)

    def text(self) -> str:
        """As those see it who ask for text."""
        return generate_latest(self._registry).decode()

    def openmetrics(self) -> str:
        """As those see it who ask for OpenMetrics."""
        return bytes(exposition.generate_latest(self._registry)).decode()  # type: ignore[no-untyped-call]

    def families(self) -> list[Metric]:
        """The families, which both formats must agree on."""
        openmetrics = parse_openmetrics(self.openmetrics())
        assert _samples(parse_text(self.text())) == _samples(openmetrics)
        return openmetrics

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], str]:
        """Each value as text, so that nan is nan, by its name and labels."""
        return _samples(self.families())


def _samples(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], str]:
    found = [
        ((sample.name, frozenset(sample.labels.items())), repr(float(sample.value)))
        for family in families
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found), "a series is there twice"
    return dict(found)


def _labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"run": "digits", "team": "vision", **labels}.items())


def test_the_last_value_of_each_series_is_shown() -> None:
    """With the run's name and dimensions and the series' own as labels; per cents as ratios."""
    shown = Shown()
    table = helpers.Table()
    assert (
        shown.table.take(table.points(("train.loss", 2.0), ("gpu.utilisation_percent", 50.0), ("train.loss", 1.0))) == 0
    )
    shown.table.take(table.points(("gpu.power_watts", 300.0), dimensions={"uuid": "GPU-1"}))
    assert shown.samples() == {
        _labelled("mlops_train_loss"): "1.0",
        _labelled("mlops_gpu_utilisation_ratio"): "0.5",
        _labelled("mlops_gpu_power_watts", uuid="GPU-1"): "300.0",
    }


def test_help_type_and_unit_come_from_the_table_of_metrics() -> None:
    """Energy counts, so it is a counter in joules; a metric of the user's own is a gauge without a unit."""
    shown = Shown()
    shown.table.take(helpers.Table().points(("gpu.energy_joules", 7.0), ("valid.accuracy", 0.5)))
    energy, accuracy = shown.families()
    assert (energy.name, energy.type, energy.unit) == ("mlops_gpu_energy_joules", "counter", "joules")
    assert "Energy of the board" in energy.documentation
    assert energy.samples[0].name == "mlops_gpu_energy_joules_total"
    assert (accuracy.name, accuracy.type, accuracy.unit) == ("mlops_valid_accuracy", "gauge", "")
    assert "valid.accuracy" in accuracy.documentation


def test_every_metric_of_ours_is_valid() -> None:
    """All names that mlops sends, at once, in both formats."""
    shown = Shown()
    shown.table.introduce(RUN)
    shown.table.take(helpers.Table().points(*((name, 1.0) for name in METRICS)))
    assert len(shown.samples()) == len(METRICS) + 1


def test_values_that_are_not_finite_are_shown() -> None:
    """Prometheus has nan and infinity, and so have alarms on them."""
    shown = Shown()
    points = helpers.Table().points(("a", NAN), ("b", float("inf")), ("c", -float("inf")), ("host.cpu_percent", NAN))
    assert shown.table.take(points) == 0
    assert sorted(shown.samples().values()) == ["-inf", "inf", "nan", "nan"]


def test_counters_keep_their_last_value_that_counts() -> None:
    """A counter that is nan or negative would make the whole answer invalid; such points are refused, and said."""
    shown = Shown()
    table = helpers.Table()
    assert shown.table.take(table.points(("gpu.energy_joules", NAN))) == 1
    assert shown.samples() == {}
    values = (5.0, 6.0, NAN, -1.0)
    assert shown.table.take(table.points(*(("gpu.energy_joules", value) for value in values))) == 2
    assert shown.samples() == {_labelled("mlops_gpu_energy_joules_total"): "6.0"}
    assert list(shown.said) == ["counter"]


def test_the_run_and_its_id_are_one_series() -> None:
    """The id is a label of nothing else, so that a series outlives a run; ranks have theirs."""
    shown = Shown()
    shown.table.introduce(replace(RUN, rank=3))
    shown.table.take(helpers.Table(replace(RUN, rank=3)).points(("train.loss", 1.0)))
    assert shown.samples() == {
        ("mlops_run_info", frozenset({"run": "digits", "rank": "3", "run_id": RUN.id}.items())): "1.0",
        _labelled("mlops_train_loss", rank="3"): "1.0",
    }


def test_the_labels_that_joins_need_are_never_others() -> None:
    """A dimension of the user's that comes to the id's label has another, whichever was there first."""
    shown = Shown()
    shown.table.take(helpers.Table().points(("x", 1.0), dimensions={"run.id": "mine"}))
    shown.table.introduce(RUN)
    assert set(shown.samples()) == {
        ("mlops_run_info", frozenset({"run": "digits", "run_id": RUN.id}.items())),
        _labelled("mlops_x", run_id_2="mine"),
    }


def test_processes_without_a_rank_are_told_apart() -> None:
    """Where a run has several of them, each has its mark as a label."""
    shown = Shown()
    for source, process in (("a", ""), ("b", "node-1-7-0")):
        shown.table.take(helpers.Table(replace(RUN, process=process)).points(("train.loss", 1.0)), source)
    assert set(shown.samples()) == {
        _labelled("mlops_train_loss"),
        _labelled("mlops_train_loss", process="node-1-7-0"),
    }


def test_names_that_come_to_one_are_two() -> None:
    """The first has the name, a metric of ours always has its own, and what is called otherwise is said."""
    shown = Shown()
    names = ("a.b", "a_b", "gpu.energy_joules_total", "gpu.energy_joules", "gpu.energy.joules", "run", "run_info")
    shown.table.introduce(RUN)
    shown.table.take(helpers.Table().points(*((name, float(number)) for number, name in enumerate(names))))
    assert {key[0]: value for key, value in shown.samples().items()} == {
        "mlops_run_info": "1.0",
        "mlops_a_b": "0.0",
        "mlops_a_b_2": "1.0",
        "mlops_gpu_energy_joules_total_2": "2.0",
        "mlops_gpu_energy_joules_total": "3.0",
        "mlops_gpu_energy_joules_2": "4.0",
        "mlops_run_2": "5.0",
        "mlops_run_info_2": "6.0",
    }
    assert "a_b is shown as mlops_a_b_2" in shown.said["name a_b"]


def test_labels_that_come_to_one_are_two() -> None:
    """Two dimensions are never one label, whatever is in their names; it is said."""
    shown = Shown()
    table = helpers.Table()
    shown.table.take(table.points(("x", 1.0), dimensions={"gpu-id": "1", "gpu.id": "2", "1st": "3", "größe": "4"}))
    shown.table.take(table.points(("x", 2.0), dimensions={"gpu.id": "1"}))
    labels = {"gpu_id": "1", "gpu_id_2": "2", "_1st": "3", "gr__e": "4"}
    assert shown.samples() == {_labelled("mlops_x", **labels): "1.0", _labelled("mlops_x", gpu_id_2="1"): "2.0"}
    assert list(shown.said) == ["label gpu.id"]


def test_a_series_that_is_the_same_is_shown_once() -> None:
    """What a series says itself comes before what the run says; two that then are one have one place."""
    shown = Shown()
    table = helpers.Table()
    shown.table.take(table.points(("x", 1.0)))
    shown.table.take(table.points(("x", 2.0), dimensions={"team": "vision"}))
    shown.table.take(table.points(("x", 3.0), dimensions={"team": "audio"}))
    assert shown.samples() == {_labelled("mlops_x"): "2.0", _labelled("mlops_x", team="audio"): "3.0"}


def test_series_whose_name_was_lost_are_refused() -> None:
    """Points of a damaged file whose series is unknown are counted and said, the others shown."""
    shown = Shown()
    points = helpers.Table().points(("a", 1.0), ("b", 2.0))
    lost = replace(points, series={1: points.series[1]})
    assert shown.table.take(lost) == 1
    assert [key[0] for key in shown.samples()] == ["mlops_b"]
    assert list(shown.said) == ["unnamed"]


def test_several_tables_are_shown_as_one() -> None:
    """Two runs of one process: one family, the series of both; the one that has left is gone."""
    shown, other = Shown(), Shown()
    shown.tables.add(other.table)
    for run, table in ((RUN, shown.table), (replace(RUN, name="other"), other.table)):
        table.take(helpers.Table(run).points(("x", 1.0), ("y", 1.0)))
    assert len(shown.samples()) == 4
    assert [family.name for family in shown.families()] == ["mlops_x", "mlops_y"]
    shown.tables.remove(shown.table)
    assert {dict(labels)["run"] for _, labels in shown.samples()} == {"other"}


def test_a_batch_is_shown_whole_or_not_at_all() -> None:
    """While points come, every answer is valid, and two series that are written together are never apart."""
    shown = Shown()
    table = helpers.Table()
    ending = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not ending.is_set():
            written += 1
            fresh = (f"new.{written % 200}", 0.0)
            shown.table.take(table.points(("a", float(written)), fresh, ("b", float(written))))

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[float] = []
    try:
        while len(set(seen)) < 5:
            values = {labelled[0]: float(value) for labelled, value in _samples(parse_text(shown.text())).items()}
            assert values.get("mlops_a") == values.get("mlops_b")
            seen.append(values.get("mlops_a", 0.0))
            parse_openmetrics(shown.openmetrics())
    finally:
        ending.set()
        writer.join()
    assert seen == sorted(seen)


NAMES = st.one_of(st.sampled_from(sorted(METRICS)), st.text(max_size=20), st.text("ab._-:1", max_size=4))
KEYS = st.one_of(
    st.sampled_from(["run", "rank", "run_id", "process", "le", "uuid"]), st.text("a._-1é", max_size=3), st.text()
)
VALUES = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=40)
@given(st.lists(st.tuples(NAMES, st.dictionaries(KEYS, st.text(), max_size=3), VALUES), max_size=8))
def test_any_series_is_shown_with_its_value(given: list[tuple[str, Mapping[str, str], float]]) -> None:
    """Whatever names, dimensions and values there may be, both formats are valid and give every last value back."""
    shown = Shown()
    points: list[tuple[Series, float]] = []
    for text, dimensions, value in given:
        try:
            points.append((Series.of(mend_name(text), mend_dimensions(dimensions)), value))
        except SeriesError:
            continue
    refused = shown.table.take(helpers.Table().of(points))

    expected: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}
    distinct = set()
    unfit = 0
    for series, value in points:
        what = METRICS.get(series.name)
        if what is not None and what.counter and not value >= 0:
            unfit += 1
            continue
        dimensions = {"run": "digits", "team": "vision", **dict(series.dimensions)}
        distinct.add((series.name, *sorted(dimensions.items())))
        labels = frozenset((shown.table._label(key), text) for key, text in dimensions.items())
        scaled = value / 100 if what is not None and what.unit == "%" else value
        expected[shown.table._name(series.name), labels] = repr(scaled)
    assert refused == unfit
    assert len(expected) == len(distinct)
    assert shown.samples() == expected
