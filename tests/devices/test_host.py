"""The host: what the kernel says of CPU, memory and RAPL."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from mlops.devices import host
from mlops.devices.base import Meter
from mlops.devices.host import HostDevice
from tests.devices.conftest import Clock
from tests.devices.powercap import Powercap

Wait = Callable[[Callable[[], object]], None]


def values(device: HostDevice) -> dict[str, float]:
    """A sample by series."""
    return {str(one.series): one.value for one in device.sample()}


class Times(NamedTuple):
    """CPU time as Linux has it."""

    user: float
    idle: float
    iowait: float
    guest: float


def test_cpu_use_is_the_share_of_all_cores_over_a_window(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for disks is idle, guests are counted once, and a window too short to tell gives nothing."""
    now = Times(100.0, 1000.0, 50.0, 10.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: now)
    device = HostDevice(clock=clock)
    assert "host.cpu_percent" not in values(device), "nothing is known at once"
    now = Times(106.0, 1008.0, 52.0, 16.0)
    clock.go(0.0625)
    assert "host.cpu_percent" not in values(device)
    clock.go(0.0625)
    assert values(device)["host.cpu_percent"] == pytest.approx(100 * 6 / 16)
    clock.go(1)
    assert "host.cpu_percent" not in values(device), "the kernel's clock has not moved"
    now = Times(107.0, 1008.0, 52.0, 16.0)
    assert values(device)["host.cpu_percent"] == 100.0


def test_memory_is_what_psutil_says() -> None:
    """Of the host, and of this process with its children, of which other tests may have started some."""
    device = HostDevice()
    sample = values(device)
    assert sample["host.memory_used_bytes"] == pytest.approx(psutil.virtual_memory().used, rel=0.5)
    ours = psutil.Process()
    resident = sum(one.memory_info().rss for one in (ours, *ours.children(recursive=True)))
    assert sample["host.process_memory_bytes"] == pytest.approx(resident, rel=0.5)


def test_the_memory_of_children_counts_as_long_as_they_live(clock: Clock, wait_until: Wait) -> None:
    """They are looked for every few seconds; one that has ended counts no more."""
    device = HostDevice(clock=clock)
    alone = values(device)["host.process_memory_bytes"]
    code = "import sys; kept = b'x' * (200 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert values(device)["host.process_memory_bytes"] < alone + (100 << 20), "not looked for yet"
        clock.go(5)
        assert values(device)["host.process_memory_bytes"] > alone + (200 << 20)
        child.kill()
        wait_until(lambda: values(device)["host.process_memory_bytes"] < alone + (100 << 20))


def test_looking_for_children_is_rare_where_it_is_slow(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of 40 ms, as on a host with thousands of processes, is repeated after 20 s."""
    scans = []

    def slow(process: psutil.Process, *, recursive: bool) -> list[psutil.Process]:
        scans.append((process.pid, recursive))
        clock.go(0.04)
        return []

    monkeypatch.setattr(psutil.Process, "children", slow)
    device = HostDevice(clock=clock)
    for _ in range(20):
        device.sample()
        clock.go(1)
    assert scans == [(os.getpid(), True)]
    device.sample()
    clock.go(1)
    device.sample()
    assert len(scans) == 2


def test_a_process_that_may_not_look_at_others(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its own memory is what there is to say; and nothing, not 0, if not even that."""

    def refuse(*_: object, **__: object) -> object:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "children", refuse)
    device = HostDevice(clock=clock)
    assert values(device)["host.process_memory_bytes"] > 0
    monkeypatch.setattr(psutil.Process, "memory_info", refuse)
    assert "host.process_memory_bytes" not in values(device)


def test_rapl_gives_energy_since_opening_and_power_over_a_window(powercap: Powercap, clock: Clock) -> None:
    """For each package a series of its own; energy at every sample, power where it can be told."""
    powercap.zone("intel-rapl:0", "package-0", 7_000_000)
    powercap.zone("intel-rapl:1", "package-1", 9_000_000)
    device = HostDevice(powercap=powercap.root, clock=clock)
    first = values(device)
    assert first["host.energy_joules{method=rapl, package=package-0}"] == 0.0
    assert not [name for name in first if name.startswith("host.power_watts")]
    powercap.zone("intel-rapl:0", "package-0", 207_000_000)
    powercap.zone("intel-rapl:1", "package-1", 59_000_000)
    clock.go(2)
    second = values(device)
    assert second["host.energy_joules{method=rapl, package=package-0}"] == 200.0
    assert second["host.energy_joules{method=rapl, package=package-1}"] == 50.0
    assert second["host.power_watts{package=package-0}"] == 100.0
    assert second["host.power_watts{package=package-1}"] == 25.0
    powercap.zone("intel-rapl:0", "package-0", 208_000_000)
    clock.go(0.0625)
    third = values(device)
    assert third["host.energy_joules{method=rapl, package=package-0}"] == 201.0
    assert "host.power_watts{package=package-0}" not in third
    clock.go(0.0625)
    assert values(device)["host.power_watts{package=package-0}"] == pytest.approx(8.0)


def test_meters_are_the_packages_that_can_be_read(
    powercap: Powercap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the CPU's name; and of the other it is said why not."""
    powercap.zone("intel-rapl:0", "package-0", 5)
    powercap.zone("intel-rapl:1", "package-1", 5)
    powercap.lock("intel-rapl:0", monkeypatch)
    monkeypatch.setattr(host, "_cpu_name", lambda: "A CPU")
    device = HostDevice(powercap=powercap.root)
    assert device.meters() == [Meter("host", "package-1", "A CPU", "rapl")]
    assert "package-0" in device.not_metered()
    assert device.describe()[0].startswith("A CPU, ")
    assert device.describe()[0].endswith(": energy of package-1 by RAPL")
    assert HostDevice(powercap=tmp_path).describe()[0].endswith(": energy not metered")


def test_a_counter_that_cannot_be_read_for_a_while(powercap: Powercap, clock: Clock) -> None:
    """Nothing is said meanwhile; what was used comes with the next reading."""
    powercap.zone("intel-rapl:0", "package-0", 0)
    device = HostDevice(powercap=powercap.root, clock=clock)
    clock.go(1)
    (powercap.root / "intel-rapl:0" / "energy_uj").unlink()
    assert not [name for name in values(device) if "package" in name]
    clock.go(1)
    powercap.zone("intel-rapl:0", "package-0", 80_000_000)
    sample = values(device)
    assert sample["host.energy_joules{method=rapl, package=package-0}"] == 80.0
    assert sample["host.power_watts{package=package-0}"] == 40.0


def test_a_machine_that_does_not_name_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Arm, or without /proc."""

    def missing(*_: object, **__: object) -> object:
        raise FileNotFoundError

    assert host._cpu_name()
    monkeypatch.setattr(Path, "open", missing)
    assert host._cpu_name() == "CPU"


def test_what_a_sample_costs() -> None:
    """Printed, not judged."""
    device = HostDevice()
    seconds = min(timeit.repeat(device.sample, number=50, repeat=5)) / 50
    print(f"HostDevice.sample(): {seconds * 1e6:.0f} us")  # noqa: T201 - see the docstring
