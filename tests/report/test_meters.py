"""Energy as a function of time: counters, integrated power, several processes, pauses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.report.meters import Curve, curves, trapezoid
from mlops.report.view import Line, View
from tests.report.written import BEGAN, GPU, METERS, P, Written


def _counter(times: list[float], joules: list[float], method: str = "counter", uuid: str = GPU) -> list[P]:
    series = {"uuid": uuid, "method": method}
    return [P(at, "gpu.energy_joules", value, series) for at, value in zip(times, joules, strict=True)]


def _power(times: list[float], watts: list[float], uuid: str = GPU) -> list[P]:
    return [P(at, "gpu.power_watts", value, {"uuid": uuid}) for at, value in zip(times, watts, strict=True)]


def _curves(run: Written) -> list[Curve]:
    return curves(View(run.read()))


def test_a_counter_counts_from_its_first_reading(runs_dir: Path) -> None:
    """A meter that did not begin at 0 counted before the run; what came before is not the run's."""
    run = Written(runs_dir)
    run.process(_counter([0, 10, 20], [500, 1500, 1700]), METERS)
    (curve,) = _curves(run)
    assert (curve.device, curve.id, curve.name, curve.method) == ("gpu", GPU, "NVIDIA Made-Up 100", "counter")
    assert (curve.total, curve.seconds) == (1200, 20)


def test_a_counter_that_falls_back_adds_nothing(runs_dir: Path) -> None:
    """A driver reloaded midway begins anew: the fall is no negative energy."""
    run = Written(runs_dir)
    run.process(_counter([0, 10, 20, 30], [0, 100, 5, 55]))
    assert _curves(run)[0].total == 150


def test_readings_that_are_no_number_are_passed_over(runs_dir: Path) -> None:
    """One nan among the readings costs that reading only."""
    run = Written(runs_dir)
    run.process(_counter([0, 10, 20], [0, math.nan, 300]))
    assert _curves(run)[0].total == 300


def test_a_gpu_that_two_processes_meter_is_counted_once(runs_dir: Path) -> None:
    """Two ranks that see one GPU, one of them longer: its energy is that of the whole time, not twice."""
    run = Written(runs_dir)
    times = [float(at) for at in range(0, 21, 2)]
    run.process(_counter(times, [10 * at for at in times]))
    later = [float(at) for at in range(5, 31, 2)]
    run.process(_counter(later, [10 * (at - 5) for at in later]))
    (curve,) = _curves(run)
    assert curve.total == pytest.approx(10 * 29)
    assert curve.seconds == pytest.approx(29)


def test_of_two_methods_at_once_the_counter_counts(runs_dir: Path) -> None:
    """Energy that was both counted and integrated is not added up."""
    run = Written(runs_dir)
    run.process([*_counter([0, 10], [0, 90], "power"), *_counter([0, 10], [0, 100])])
    (curve,) = _curves(run)
    assert (curve.total, curve.method) == (100, "counter")


def test_gpus_are_kept_apart(runs_dir: Path) -> None:
    """Two UUIDs are two meters."""
    run = Written(runs_dir)
    run.process([*_counter([0, 10], [0, 90], uuid="a"), *_counter([0, 10], [0, 100], uuid="b")])
    assert [(curve.id, curve.total) for curve in _curves(run)] == [("a", 90), ("b", 100)]


def test_a_pause_between_two_processes_is_not_metered(runs_dir: Path) -> None:
    """Nothing is guessed for the time in which nobody looked."""
    run = Written(runs_dir)
    run.process(_counter([0, 10], [0, 100]))
    run.process(_counter([50, 60], [0, 100]))
    (curve,) = _curves(run)
    assert (curve.total, curve.seconds) == (200, 20)
    ask = BEGAN + np.array([[0, 10], [20, 40], [5, 55], [52, 58]], np.float64)
    inside = curve.between(ask[:, 0], ask[:, 1])
    assert inside[0] == pytest.approx(100)
    assert np.isnan(inside[1:3]).all()
    assert inside[3] == pytest.approx(60)


def test_power_alone_is_integrated(runs_dir: Path) -> None:
    """A device that told its power and no energy is integrated by the trapezoid rule, and said to be."""
    run = Written(runs_dir)
    run.process(_power([0, 1, 2, 4], [100, 200, 200, 0]))
    (curve,) = _curves(run)
    assert (curve.total, curve.method, curve.check) == (150 + 200 + 200, "power", None)


def test_power_is_not_integrated_over_a_long_pause() -> None:
    """A sampler that slept for an hour does not make an hour's energy of two readings."""
    line = Line(np.array([0.0, 1, 2, 3, 3603, 3604]), np.full(6, 100.0))
    assert trapezoid(line).tolist()[:3] == [100, 100, 100]
    assert math.isnan(trapezoid(line)[3])
    assert trapezoid(line)[4] == 100


def test_a_long_pause_between_power_readings_is_not_metered(runs_dir: Path) -> None:
    """Neither its energy nor its time counts."""
    run = Written(runs_dir)
    run.process(_power([0, 1, 2, 3, 3603, 3604], [100] * 6))
    (curve,) = _curves(run)
    assert (curve.total, curve.seconds) == (400, 4)


def test_integrated_power_checks_a_counter(runs_dir: Path) -> None:
    """Where the hardware counts and power was sampled too, the one is set beside the other."""
    run = Written(runs_dir)
    times = [float(at) for at in range(11)]
    run.process([*_counter(times, [105 * at for at in times]), *_power(times, [100.0] * 11)])
    (curve,) = _curves(run)
    assert (curve.total, curve.check) == (1050, 1000)


def test_power_of_another_time_checks_nothing(runs_dir: Path) -> None:
    """Power readings of a tenth of the time say nothing about the whole."""
    run = Written(runs_dir)
    times = [float(at) for at in range(11)]
    run.process([*_counter(times, [105 * at for at in times]), *_power([0, 1], [100, 100])])
    assert _curves(run)[0].check is None


@given(st.lists(st.tuples(st.floats(0.1, 2.0), st.floats(0, 500)), min_size=2, max_size=40))
def test_what_lies_between_any_two_moments_adds_up(steps: list[tuple[float, float]]) -> None:
    """Cutting a curve anywhere gives two parts whose sum is the whole."""
    time = np.cumsum([step for step, _ in steps])
    joules = np.cumsum([0.0, *(gain for _, gain in steps[1:])])
    curve = Curve("gpu", "", "", "counter", time, joules, time - time[0])
    cut = np.linspace(time[0], time[-1], 7)
    parts = curve.between(cut[:-1], cut[1:])
    assert float(parts.sum()) == pytest.approx(curve.total)
