"""The thread that samples the devices and counts the energy of epochs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.devices import Absent, Device, Meter, Reading, Sampler
from mlops.devices.sampler import _next_due
from mlops.errors import DeviceError
from mlops.series import Series

Wait = Callable[[Callable[[], object]], None]

ENERGY = Series.of("gpu.energy_joules", {"uuid": "GPU-a", "method": "counter"})
POWER = Series.of("gpu.power_watts", {"uuid": "GPU-a"})
OF_EPOCH = Series.of("train.epoch_energy_joules", {"device": "gpu", "method": "counter"})
NEVER = 3600.0


class Put(NamedTuple):
    """One value that the sampler recorded."""

    series: Series
    value: float
    time: float | None
    step: int | None


class Counter(Device):
    """A GPU whose counter the test moves.

    Attributes:
        joules: what its counter shows; ``None`` for nothing.
        coming: what it will show at the next samples.
        error: what sampling it raises.
        hold: sampling waits for this.
    """

    def __init__(self, series: Series = ENERGY) -> None:
        self.series = series
        self.joules: float | None = 0.0
        self.coming: list[float] = []
        self.error: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.samples = 0
        self.closed = 0

    def sample(self) -> list[Reading]:
        """What the test has set."""
        self.samples += 1
        self.hold.wait(60)
        if self.coming:
            self.joules = self.coming.pop(0)
        if self.error is not None:
            raise self.error
        return [] if self.joules is None else [Reading(self.series, self.joules), Reading(POWER, 300.0)]

    def meters(self) -> list[Meter]:
        """One."""
        return [Meter("gpu", "GPU-a", "made up", "counter")]

    def describe(self) -> list[str]:
        """A line."""
        return ["made up"]

    def close(self) -> None:
        """Counted."""
        self.closed += 1


class Bench:
    """Samplers made in one test, and what they recorded."""

    def __init__(self) -> None:
        self.puts: list[Put] = []
        self.made: list[Sampler] = []

    def put(self, series: Series, value: float, *, time: float | None = None, step: int | None = None) -> None:
        """Take a value."""
        self.puts.append(Put(series, value, time, step))

    def start(self, *devices: Device, interval: float = NEVER, **given: Any) -> Sampler:
        """A sampler of these devices, which are open when it is returned."""
        sampler = Sampler([lambda device=device: device for device in devices], self.put, interval=interval, **given)  # type: ignore[misc]
        self.made.append(sampler)
        assert sampler.wait_open(30)
        return sampler

    def epochs(self) -> list[tuple[int | None, float]]:
        """The energies of epochs so far."""
        return [(put.step, put.value) for put in self.puts if put.series == OF_EPOCH]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Nothing is left running behind a test."""
    made = Bench()
    yield made
    for sampler in made.made:
        assert sampler.close(30)


def test_the_first_sample_is_taken_at_once(bench: Bench) -> None:
    """Not an interval later: a training that is over in a second has readings, too."""
    before = time.time()
    bench.start(Counter())
    assert [(put.series, put.value, put.step) for put in bench.puts] == [(ENERGY, 0.0, None), (POWER, 300.0, None)]
    assert all(put.time is not None and before <= put.time <= time.time() for put in bench.puts)


def test_samples_come_at_the_interval(bench: Bench, wait_until: Wait) -> None:
    """Again and again, each with the time at which it was taken."""
    device = Counter()
    bench.start(device, interval=0.05)
    wait_until(lambda: device.samples >= 4)
    times = [put.time for put in bench.puts if put.series == POWER and put.time is not None]
    assert len(times) >= 3
    assert times == sorted(times)


def test_the_energy_of_an_epoch_is_the_difference_of_the_counter(bench: Bench, wait_until: Wait) -> None:
    """From lap to lap, under the epoch's number, with device and method."""
    device = Counter()
    device.joules = 7.0
    sampler = bench.start(device)
    for number, joules in ((1, 107.0), (2, 357.0), (3, 357.0)):
        device.joules = joules
        sampler.lap(number)
        wait_until(lambda: bench.epochs() and bench.epochs()[-1][0] == number)  # noqa: B023 - waited for at once
    assert bench.epochs() == [(1, 100.0), (2, 250.0), (3, 0.0)]


def test_what_was_used_before_an_epoch_began_is_not_its_energy(bench: Bench, wait_until: Wait) -> None:
    """A lap without a number begins one."""
    device = Counter()
    sampler = bench.start(device)
    device.joules = 40.0
    asked = device.samples
    sampler.lap(None)
    wait_until(lambda: device.samples > asked)
    wait_until(lambda: sampler._lap_joules == {ENERGY: 40.0})
    device.joules = 50.0
    sampler.lap(1)
    wait_until(bench.epochs)
    assert bench.epochs() == [(1, 10.0)]


def test_laps_closer_than_samples_share_their_energy(bench: Bench, wait_until: Wait) -> None:
    """Three epochs end while one sample is being taken: the meters cannot tell them apart."""
    device = Counter()
    sampler = bench.start(device)
    device.coming = [10.0, 40.0]
    device.hold.clear()
    asked = device.samples
    sampler.lap(1)
    wait_until(lambda: device.samples > asked)
    for number in (2, 3, 4):
        sampler.lap(number)
    device.hold.set()
    wait_until(lambda: len(bench.epochs()) == 4)
    assert bench.epochs() == [(1, 10.0), (2, 10.0), (3, 10.0), (4, 10.0)]


def test_laps_before_the_devices_are_open_are_counted_when_they_are(bench: Bench, wait_until: Wait) -> None:
    """Opening a GPU can take seconds, in which a short epoch ends."""
    opening = threading.Event()

    def slowly() -> Device:
        opening.wait(60)
        return Counter()

    sampler = Sampler([slowly], bench.put, interval=NEVER)
    bench.made.append(sampler)
    sampler.lap(1)
    assert not sampler.wait_open(0)
    assert bench.puts == []
    opening.set()
    wait_until(bench.epochs)
    assert bench.epochs() == [(1, 0.0)]


def test_closing_takes_a_last_sample_and_counts_the_open_lap(bench: Bench) -> None:
    """The last epoch ends just before the run does; the devices are closed, once."""
    device = Counter()
    sampler = bench.start(device)
    device.joules = 5.0
    sampler.lap(1)
    assert sampler.close(30)
    assert sum(value for _, value in bench.epochs()) == 5.0
    assert [put.value for put in bench.puts if put.series == ENERGY][-1] == 5.0
    assert device.closed == 1
    assert sampler.close(30)
    assert device.closed == 1


def test_a_process_that_does_not_publish_counts_energy_all_the_same(bench: Bench) -> None:
    """One that joined a run whose owner samples the same devices records only its epochs' energy."""
    device = Counter()
    sampler = bench.start(device, publish=False)
    device.joules = 8.0
    sampler.lap(1)
    assert sampler.close(30)
    assert [put.series for put in bench.puts] == [OF_EPOCH]
    assert bench.epochs() == [(1, 8.0)]


def test_energies_are_summed_by_kind_and_method(bench: Bench) -> None:
    """Two counters of GPUs make one sum; a CPU package and a GPU without a counter stay apart."""
    gpus = [Counter(Series.of("gpu.energy_joules", {"uuid": uuid, "method": "counter"})) for uuid in ("a", "b")]
    other = Counter(Series.of("gpu.energy_joules", {"uuid": "c", "method": "power"}))
    host = Counter(Series.of("host.energy_joules", {"package": "package-0", "method": "rapl"}))
    sampler = bench.start(*gpus, other, host)
    gpus[0].joules, gpus[1].joules, other.joules, host.joules = 1.0, 2.0, 4.0, 8.0
    sampler.lap(1)
    assert sampler.close(30)
    found = {put.series: put.value for put in bench.puts if put.step == 1}
    assert found == {
        OF_EPOCH: 3.0,
        Series.of(OF_EPOCH.name, {"device": "gpu", "method": "power"}): 4.0,
        Series.of(OF_EPOCH.name, {"device": "host", "method": "rapl"}): 8.0,
    }


def test_a_device_that_raises_is_warned_of_once_and_ends_no_other(
    bench: Bench, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """Whatever it raises."""
    broken, sound = Counter(), Counter(Series.of("host.energy_joules", {"package": "p", "method": "rapl"}))
    broken.error = DeviceError("it is lost", remedy="Look at dmesg.")
    with caplog.at_level(logging.WARNING, "mlops"):
        bench.start(broken, sound, interval=0.05)
        wait_until(lambda: sound.samples >= 3)
        broken.error = ZeroDivisionError()
        wait_until(lambda: sound.samples >= 6)
    (said,) = caplog.messages
    assert said == ("Counter cannot be sampled any more: it is lost. Look at dmesg. The training goes on without it.")


def test_an_epoch_of_which_no_meter_knows_anything_has_no_energy(bench: Bench, wait_until: Wait) -> None:
    """0 J would be a lie; what was counted before a GPU was lost still belongs to its epoch."""
    device = Counter()
    sampler = bench.start(device)

    def end_epoch(number: int) -> None:
        asked = device.samples
        sampler.lap(number)
        wait_until(lambda: device.samples > asked)
        wait_until(lambda: not sampler._laps)

    device.joules = 30.0
    asked = device.samples
    sampler._ring_bell()  # a sample in the middle of the first epoch, as the interval would bring
    wait_until(lambda: device.samples > asked)
    wait_until(lambda: sampler._joules == {ENERGY: 30.0})
    device.joules = None
    end_epoch(1)
    end_epoch(2)
    device.joules = 35.0
    end_epoch(3)
    wait_until(lambda: len(bench.epochs()) == 2)
    assert bench.epochs() == [(1, 30.0), (3, 5.0)]


def test_without_a_meter_epochs_have_no_energy(bench: Bench) -> None:
    """On a machine without GPU and RAPL there is simply none."""
    sampler = bench.start(Absent("No GPU is here."))
    sampler.lap(1)
    assert sampler.close(30)
    assert bench.puts == []


def test_a_device_that_hangs_does_not_hold_up_the_end(
    bench: Bench, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """The end waits for its deadline and no longer; what the device says afterwards is recorded no more."""
    device = Counter()
    sampler = bench.start(device)
    device.joules = 30.0
    sampler._ring_bell()  # a sample in the middle of the epoch, as the interval would bring
    wait_until(lambda: sampler._joules == {ENERGY: 30.0} and len(bench.puts) == 4)
    device.hold.clear()
    asked = device.samples
    sampler.lap(1)
    wait_until(lambda: device.samples > asked)
    recorded = len(bench.puts)
    assert not sampler.close(0.2)
    device.hold.set()
    wait_until(lambda: device.closed)
    assert len(bench.puts) == recorded
    assert caplog.messages == []


def test_a_device_that_hangs_while_it_is_opened(bench: Bench, wait_until: Wait) -> None:
    """The same, before anything was sampled."""
    opening = threading.Event()
    device = Counter()

    def hang() -> Device:
        opening.wait(60)
        return device

    sampler = Sampler([hang], bench.put, interval=NEVER)
    assert not sampler.close(0.2)
    opening.set()
    wait_until(lambda: device.closed)
    assert bench.puts == []


@given(due=st.floats(0, 1e6), late=st.floats(-100, 1e5), interval=st.floats(0.05, 3600))
def test_a_device_that_is_slower_than_the_interval_gets_its_rest(due: float, late: float, interval: float) -> None:
    """Missed samples are skipped, not made up for in a row; the schedule stays."""
    now = due + late
    following = _next_due(due, now, interval)
    if now < due:
        assert following == due
        return
    assert -1e-4 < (following - now) / interval < 1.0001
    intervals = (following - due) / interval
    assert round(intervals) >= 1
    assert math.isclose(intervals, round(intervals), rel_tol=1e-6)


def test_what_is_told_of_the_open_devices(bench: Bench) -> None:
    """Absent ones included, with their reasons."""
    told: list[Sequence[Device]] = []
    device, absent = Counter(), Absent("No GPU is here.")
    bench.start(device, absent, on_open=told.append).close(30)
    assert told == [[device, absent]]


def test_devices_that_cannot_be_told_of_or_closed_are_sampled_all_the_same(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A device may raise whatever it likes: one sentence each, and no thread dies of it."""

    class Rude(Counter):
        def close(self) -> None:
            """Refuse."""
            super().close()
            raise OSError("busy")

    def refuse(_: object) -> None:
        raise RuntimeError("no meters")

    rude, other = Rude(), Counter()
    sampler = bench.start(rude, other, on_open=refuse)
    rude.joules = other.joules = 6.0
    sampler.lap(1)
    assert sampler.close(30)
    assert bench.epochs() == [(1, 6.0)]
    assert other.closed == 1
    assert caplog.messages == [
        "The run could not note what it is metered by: RuntimeError: no meters.",
        "Rude cannot be closed: busy.",
    ]
