"""What every device keeps, whatever it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from mlops.devices.base import ENERGY_SUFFIX, KINDS, Absent, Device
from mlops.devices.host import HostDevice
from mlops.devices.nvidia import NvidiaDevice
from mlops.devices.replay import ReplayDevice
from mlops.series import METRICS, check_dimensions, check_name
from tests.devices.conftest import Clock
from tests.devices.powercap import Powercap
from tests.devices.stub import Node

MADE_UP = Path(__file__).with_name("data") / "trace.csv"
GIGAWATT = 1e9


class Times(NamedTuple):
    """CPU time, as psutil gives it."""

    user: float
    idle: float


class Rig:
    """A device, and how to let its world move on.

    Args:
        device: the device.
        move: lets time pass and the meters count; the time is passed in seconds.
    """

    def __init__(self, device: Device, move: Callable[[float], None]) -> None:
        self.device = device
        self.move = move


def nvidia_counter(request: pytest.FixtureRequest, clock: Clock) -> Rig:
    """Two GPUs with counters."""
    node: Node = request.getfixturevalue("node")
    node.has(2)
    shown = [1_000_000_000, 2_000_000_000]

    def move(seconds: float) -> None:
        clock.go(seconds)
        for index in (0, 1):
            shown[index] += int(300_000 * seconds)
            node.gpu(index, {"field.83": shown[index]})

    return Rig(NvidiaDevice(clock=clock), move)


def nvidia_power(request: pytest.FixtureRequest, clock: Clock) -> Rig:
    """A GPU without a counter."""
    node: Node = request.getfixturevalue("node")
    node.gpu(0, {"field.83": None, "energy": None})
    return Rig(NvidiaDevice(clock=clock), clock.go)


def nvidia_silent(request: pytest.FixtureRequest, clock: Clock) -> Rig:
    """A GPU that supports nothing."""
    request.getfixturevalue("node").silence(0)
    return Rig(NvidiaDevice(clock=clock), clock.go)


def nvidia_mig(request: pytest.FixtureRequest, clock: Clock) -> Rig:
    """A MIG instance."""
    request.getfixturevalue("node").split(0, instances=2)
    return Rig(NvidiaDevice(clock=clock, environ={"CUDA_VISIBLE_DEVICES": "MIG-01"}), clock.go)


def steady_cpu(request: pytest.FixtureRequest, clock: Clock) -> None:
    """CPU time goes with the clock of the test, half of it idle."""
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(clock.now, clock.now))


def host(request: pytest.FixtureRequest, clock: Clock) -> Rig:
    """This machine."""
    steady_cpu(request, clock)
    return Rig(HostDevice(clock=clock), clock.go)


def host_rapl(request: pytest.FixtureRequest, clock: Clock) -> Rig:
    """A made-up machine with two CPU packages, one of which wraps around."""
    powercap: Powercap = request.getfixturevalue("powercap")
    steady_cpu(request, clock)
    counters = [0, 262_143_000_000]

    def show() -> None:
        for index in (0, 1):
            powercap.zone(f"intel-rapl:{index}", f"package-{index}", counters[index] % 262_143_328_850)

    def move(seconds: float) -> None:
        clock.go(seconds)
        for index in (0, 1):
            counters[index] += int(120e6 * seconds)
        show()

    show()
    return Rig(HostDevice(powercap=powercap.root, clock=clock), move)


def replay(_: pytest.FixtureRequest, clock: Clock) -> Rig:
    """A made-up trace."""
    return Rig(ReplayDevice(MADE_UP, clock=clock), clock.go)


def absent(_: pytest.FixtureRequest, clock: Clock) -> Rig:
    """None."""
    return Rig(Absent("It is not here."), clock.go)


RIGS = (nvidia_counter, nvidia_power, nvidia_silent, nvidia_mig, host, host_rapl, replay, absent)


@pytest.fixture(params=RIGS, ids=lambda make: make.__name__)
def rig(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Rig]:
    """Each device in turn."""
    made: Rig = request.param(request, clock)
    yield made
    made.device.close()


def test_every_kind_is_in_this_suite() -> None:
    """A new kind of device has to be added here."""
    assert {make.__name__.partition("_")[0] for make in RIGS} == {*KINDS, "absent"}


def test_readings_are_finite_numbers_of_known_metrics(rig: Rig) -> None:
    """Under names and dimensions that Monasca takes, and each series once a sample."""
    for _ in range(3):
        readings = rig.device.sample()
        for series, value in readings:
            assert check_name(series.name) in METRICS
            assert check_dimensions(dict(series.dimensions)) == dict(series.dimensions)
            assert list(series.dimensions) == sorted(series.dimensions)
            assert type(value) is float
            assert math.isfinite(value)
        assert len({reading.series for reading in readings}) == len(readings)
        rig.move(1.0)


def test_readings_have_no_series_now_and_another_then(rig: Rig) -> None:
    """A series is the same from sample to sample, and few: nothing that changes is a dimension."""
    rig.device.sample()
    rig.move(1.0)
    second = {reading.series for reading in rig.device.sample()}
    for _ in range(5):
        rig.move(1.0)
        assert {reading.series for reading in rig.device.sample()} == second


def test_energy_counts_from_opening_and_never_goes_down(rig: Rig) -> None:
    """And goes up where something is used."""
    energies = [
        {
            reading.series: reading.value
            for reading in rig.device.sample()
            if reading.series.name.endswith(ENERGY_SUFFIX)
        }
    ]
    assert all(value == 0.0 for value in energies[0].values())
    for _ in range(20):
        rig.move(1.0)
        now = {one.series: one.value for one in rig.device.sample() if one.series.name.endswith(ENERGY_SUFFIX)}
        assert now.keys() == energies[0].keys()
        assert all(0 <= now[series] - energies[-1][series] < GIGAWATT for series in now)
        energies.append(now)
    assert all(energies[-1][series] > 0 for series in energies[0])


def test_every_meter_has_an_energy_and_every_energy_a_meter(rig: Rig) -> None:
    """With the same method; the id is what tells its series from others."""
    of_meters = {(meter.device, meter.id, meter.method) for meter in rig.device.meters()}
    of_readings = set()
    for series, _ in rig.device.sample():
        if series.name.endswith(ENERGY_SUFFIX):
            dimensions = dict(series.dimensions)
            method = dimensions.pop("method")
            of_readings.add((series.name.removesuffix(ENERGY_SUFFIX), *dimensions.values(), method))
    assert of_meters == of_readings
    assert all(meter.name for meter in rig.device.meters())


def test_what_is_not_metered_has_a_reason(rig: Rig) -> None:
    """No meter, no silence."""
    reason = rig.device.not_metered()
    assert rig.device.meters() or reason
    assert not reason or reason.rstrip().endswith(".")
    assert "\n" not in reason


def test_it_can_be_described(rig: Rig) -> None:
    """In lines that fit a terminal's list."""
    lines = rig.device.describe()
    assert lines
    assert all(line.strip() == line and line and "\n" not in line for line in lines)


def test_it_can_be_closed_twice(rig: Rig) -> None:
    """And before it was ever sampled."""
    rig.device.close()
    rig.device.close()
