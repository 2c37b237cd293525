"""What a run used, and what it took to reach an accuracy."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import mlops
from mlops import report
from mlops.devices import Device, Meter, Reading
from mlops.errors import ReportError
from mlops.report.energy import lower_is_better, milestones, spent
from mlops.report.meters import curves
from mlops.report.tables import epochs
from mlops.report.view import View
from mlops.series import Series
from tests.conftest import DEADLINE
from tests.report.written import GPU, METERS, NO_METERS, P, Written, digits, epoch, in_order, readings


def _laps(runs_dir: Path, joules: list[float], **metrics: list[float]) -> Written:
    """Epochs of ten seconds, each of which counted so many joules."""
    run = Written(runs_dir)
    points: list[P] = []
    for place, amount in enumerate(joules):
        number, end = place + 1, 10.0 * (place + 1)
        points += epoch(number, end, 10, **{name: values[place] for name, values in metrics.items()})
        points.append(P(end, "train.epoch_energy_joules", amount, {"device": "gpu", "method": "counter"}, number))
    run.process(points, METERS)
    return run


def test_the_energy_to_an_accuracy_is_that_of_the_epochs_until_then(runs_dir: Path) -> None:
    """The first epoch that reached it counts, with all before it."""
    record = _laps(runs_dir, [100, 200, 300, 400], accuracy=[0.5, 0.9, 0.8, 0.95]).read()
    found = report.energy_to_reach(record, "accuracy", 0.9)
    assert (found.reached, found.epoch, found.value, found.seconds, found.joules) == (True, 2, 0.9, 20, 300)
    assert (found.method, found.why) == ("gpu counter", "")
    assert report.energy_to_reach(record, "valid.accuracy", 0.91).joules == 1000


def test_a_loss_is_reached_from_above(runs_dir: Path) -> None:
    """Losses and errors fall; the name tells, and the caller may say otherwise."""
    record = _laps(runs_dir, [100, 200, 300], loss=[1.0, 0.4, 0.2]).read()
    assert report.energy_to_reach(record, "loss", 0.5).epoch == 2
    assert report.energy_to_reach(record, "loss", 0.5, lower_is_better=False).epoch == 1
    assert [lower_is_better(name) for name in ("loss", "error_rate", "perplexity", "accuracy", "f1")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_target_never_reached_is_said_with_the_best(runs_dir: Path) -> None:
    """No number is made up: the answer is no, and how near it came."""
    record = _laps(runs_dir, [100, 200], accuracy=[0.5, 0.9]).read()
    found = report.energy_to_reach(record, "accuracy", 0.97)
    assert (found.reached, found.value, found.epoch, found.joules) == (False, 0.9, 2, 300)
    assert found.why == "accuracy did not reach 97 %: the best was 90 %"


def test_single_precision_does_not_cost_an_epoch(runs_dir: Path) -> None:
    """90 right of 100 is 0.8999999762 in the precision that frameworks compute in, and has reached 0.9."""
    record = _laps(runs_dir, [100, 200], accuracy=[0.8999999761581421, 0.95]).read()
    assert report.energy_to_reach(record, "accuracy", 0.9).epoch == 1


def test_without_a_meter_the_time_is_told_and_why_not_the_energy(runs_dir: Path) -> None:
    """Half an answer, and the reason for the other half."""
    found = report.energy_to_reach(digits(runs_dir, notes=NO_METERS).read(), "accuracy", 0.97)
    assert found.reached
    assert found.seconds == 56
    assert found.joules is None
    assert "no NVIDIA driver" in found.why


def test_energy_unknown_for_one_epoch_is_unknown_from_there_on(runs_dir: Path) -> None:
    """A sum with a hole in it is no sum."""
    record = _laps(runs_dir, [100, math.nan, 300], accuracy=[0.5, 0.9, 0.95]).read()
    assert report.energy_to_reach(record, "accuracy", 0.5).joules == 100
    assert report.energy_to_reach(record, "accuracy", 0.95).joules is None


def test_a_loop_without_epochs_is_read_off_its_points(runs_dir: Path) -> None:
    """Validation now and then, no epochs: time and energy count from the first point."""
    run = Written(runs_dir)
    counter = [P(at, "gpu.energy_joules", 50.0 * at, {"uuid": GPU, "method": "counter"}) for at in range(31)]
    run.process(in_order(counter, [P(12.5, "valid.accuracy", 0.8), P(25.0, "valid.accuracy", 0.9)]), METERS)
    found = report.energy_to_reach(run.read(), "accuracy", 0.85)
    assert (found.epoch, found.seconds) == (None, 25)
    assert found.joules == pytest.approx(1250)


def test_values_that_are_no_number_reach_nothing(runs_dir: Path) -> None:
    """A metric that is nan all along is told to be."""
    found = report.energy_to_reach(_laps(runs_dir, [1, 2], accuracy=[math.nan, math.nan]).read(), "accuracy", 0.1)
    assert not found.reached
    assert "nan" in found.why
    json.dumps(found.as_json(), allow_nan=False)


def test_an_unknown_metric_or_target_is_an_error_that_lists_what_there_is(runs_dir: Path) -> None:
    """A slip in a metric's name is not the answer "never"."""
    record = _laps(runs_dir, [1], accuracy=[0.5], loss=[1.0]).read()
    with pytest.raises(ReportError, match=r"no validation metric 'acuracy'.*loss, accuracy"):
        report.energy_to_reach(record, "acuracy", 0.9)
    with pytest.raises(ReportError, match="no finite number"):
        report.energy_to_reach(record, "accuracy", math.nan)


def test_the_energy_of_a_run_is_told_by_meter(runs_dir: Path) -> None:
    """What each meter counted, how, its mean power, and the cross-check by integrated power."""
    record = digits(runs_dir).read()
    used = report.energy_used(record)
    (meter,) = used.meters
    assert meter.name == "NVIDIA Made-Up 100"
    assert used.joules == meter.joules == used.by_device["gpu"]
    assert used.watts == pytest.approx(meter.joules / meter.seconds)
    assert used.method == "gpu counter"
    assert meter.check_share == pytest.approx(0, abs=0.02)
    assert "RAPL" in used.not_metered[0]
    json.dumps(used.as_json(), allow_nan=False)


def test_without_meters_no_energy_is_told(runs_dir: Path) -> None:
    """None, not 0, and why."""
    used = report.energy_used(digits(runs_dir, notes=NO_METERS).read())
    assert (used.joules, used.watts, used.meters, used.method) == (None, None, (), "")
    assert "no NVIDIA driver" in used.not_metered[0]


def test_milestones_are_the_highest_round_shares_reached(runs_dir: Path) -> None:
    """Five at most, none above the best, and none of a metric that is no share."""
    run = _laps(runs_dir, [1, 2], accuracy=[0.5, 0.9702], perplexity=[30.0, 12.0])
    view = View(run.read())
    assert milestones(spent(view, epochs(view), curves(view), "accuracy")) == [0.8, 0.9, 0.95, 0.96, 0.97]
    assert milestones(spent(view, epochs(view), curves(view), "perplexity")) == []


def test_pauses_between_fits_are_not_spent_training(runs_dir: Path) -> None:
    """Two fits an hour apart: the hour is neither in the time nor in the energy."""
    run = Written(runs_dir)
    points = [*epoch(1, 10, 10, accuracy=0.5), *epoch(2, 3610, 10, accuracy=0.9)]
    run.process(in_order(points, readings(3620, 100.0)), METERS)
    found = report.energy_to_reach(run.read(), "accuracy", 0.9)
    assert found.seconds == 20
    assert found.joules == pytest.approx(2000, rel=0.3)


class Scripted(Device):
    """A GPU whose counter says what a test tells it to. Made up: no GPU was near."""

    joules = 0.0

    def sample(self) -> list[Reading]:
        """The counter's reading."""
        return [Reading(Series.of("gpu.energy_joules", {"uuid": GPU, "method": "counter"}), Scripted.joules)]

    def meters(self) -> list[Meter]:
        """Itself."""
        return [Meter("gpu", GPU, "Scripted", "counter")]

    def describe(self) -> list[str]:
        """Nothing to say."""
        return []


def test_a_run_meters_its_epochs_and_not_what_came_before_them(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """From a device through mlops.Run to the table: loading data before the first epoch is no epoch's energy."""
    module = types.ModuleType("scripted_device")
    module.__dict__["Scripted"] = Scripted
    monkeypatch.setitem(sys.modules, "scripted_device", module)
    monkeypatch.setattr(Scripted, "joules", 0.0)
    monkeypatch.setattr("mlops.devices.base.KINDS", {"scripted": "scripted_device:Scripted"})
    with mlops.Run("metered", runs_dir=runs_dir, devices=["scripted"]) as run:
        sampler = run._sampler
        assert sampler.wait_open(DEADLINE)
        Scripted.joules = 500.0
        run.begin_epoch()
        wait_until(lambda: 500.0 in sampler._lap_joules.values())
        Scripted.joules = 530.0
        run.end_epoch({"valid.accuracy": 0.9}, seconds=2.0)
        wait_until(lambda: 530.0 in sampler._lap_joules.values())
        Scripted.joules = 570.0
        run.end_epoch({"valid.accuracy": 0.95}, seconds=2.0)
    record = report.read(run.id, runs_dir=runs_dir)
    assert [(row.joules, row.watts, row.method) for row in report.epochs(record).rows] == [
        (30.0, 15.0, "gpu counter"),
        (40.0, 20.0, "gpu counter"),
    ]
    assert report.energy_used(record).joules == 570.0
    assert report.energy_to_reach(record, "accuracy", 0.95).joules == 70.0
