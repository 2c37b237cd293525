"""RAPL's counters, in a made-up folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.devices.rapl import Package, find_packages
from tests.devices.powercap import Powercap

RANGE = 262_143_328_850


def test_packages_are_found_and_nothing_else(powercap: Powercap) -> None:
    """Not psys, which holds them, nor core and dram, which lie inside, nor the same package over MMIO."""
    powercap.zone("intel-rapl:0", "package-0", 5)
    powercap.zone("intel-rapl:1", "package-1", 5)
    powercap.zone("intel-rapl:2", "psys", 5)
    powercap.zone("intel-rapl:0:0", "core", 5)
    powercap.zone("intel-rapl:0:1", "dram", 5)
    powercap.zone("intel-rapl-mmio:0", "package-0", "no number")
    (powercap.root / "intel-rapl:3").mkdir()
    packages, why = find_packages(powercap.root, 0.0)
    assert [package.name for package in packages] == ["package-0", "package-1"]
    assert why == ""


def test_energy_counts_from_the_first_look_in_joules(powercap: Powercap) -> None:
    """The kernel counts microjoules since boot."""
    powercap.zone("intel-rapl:0", "package-0", 1_000_000)
    ((package,), _) = find_packages(powercap.root, 0.0)
    assert package.joules == 0.0
    powercap.zone("intel-rapl:0", "package-0", 3_500_000)
    package.update(1.0)
    assert package.joules == 2.5


def test_a_counter_that_wraps_around_goes_on(powercap: Powercap) -> None:
    """From just below its range to just above 0."""
    powercap.zone("intel-rapl:0", "package-0", RANGE - 40_000_000)
    ((package,), _) = find_packages(powercap.root, 0.0)
    powercap.zone("intel-rapl:0", "package-0", 60_000_000)
    package.update(1.0)
    assert package.joules == pytest.approx(100.0)


def test_a_counter_that_was_reset_is_no_wrap(powercap: Powercap) -> None:
    """From 50 kJ to 1 J within a second would be 200 kW: what was counted stays, and it goes on from there."""
    powercap.zone("intel-rapl:0", "package-0", 50_000_000_000)
    ((package,), _) = find_packages(powercap.root, 0.0)
    for counter, joules in ((50_030_000_000, 30.0), (1_000_000, 30.0), (4_000_000, 33.0)):
        powercap.zone("intel-rapl:0", "package-0", counter)
        package.update(package._last[0] + 1.0 if package._last else 0.0)
        assert package.joules == pytest.approx(joules)


def test_a_counter_whose_range_is_not_said(powercap: Powercap) -> None:
    """A wrap then counts for nothing: too little rather than made up."""
    powercap.zone("intel-rapl:0", "package-0", 9_000_000)
    (powercap.root / "intel-rapl:0" / "max_energy_range_uj").unlink()
    ((package,), _) = find_packages(powercap.root, 0.0)
    powercap.zone("intel-rapl:0", "package-0", 1_000_000)
    (powercap.root / "intel-rapl:0" / "max_energy_range_uj").unlink()
    package.update(1.0)
    assert package.joules == 0.0


@settings(deadline=None)
@given(
    start=st.integers(0, RANGE - 1), steps=st.lists(st.integers(0, 400_000_000), max_size=40), wraps_at=st.just(RANGE)
)
def test_whatever_was_used_is_counted(
    tmp_path_factory: pytest.TempPathFactory, start: int, steps: list[int], wraps_at: int
) -> None:
    """Up to 400 W over a second each, from anywhere in the range: the sum of the steps, never going down."""
    counter = tmp_path_factory.getbasetemp() / "energy_uj"
    counter.write_text(f"{start}\n")
    package = Package("package-0", counter, float(wraps_at))
    package.update(0.0)
    used, before = 0, 0.0
    for number, step in enumerate(steps, 1):
        used += step
        counter.write_text(f"{(start + used) % wraps_at}\n")
        package.update(float(number))
        assert package.joules >= before
        before = package.joules
    assert package.joules == pytest.approx(used / 1e6)


def test_counters_that_only_root_may_read(powercap: Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which they are, why, and what the administrator may do."""
    powercap.zone("intel-rapl:0", "package-0", 5)
    powercap.zone("intel-rapl:1", "package-1", 5)
    powercap.lock("intel-rapl:1", monkeypatch)
    packages, why = find_packages(powercap.root, 0.0)
    assert [package.name for package in packages] == ["package-0"]
    assert f"CPU package-1 ({powercap.root}/intel-rapl:1/energy_uj) is readable by root only (CVE-2020-8694)" in why
    assert f"sudo chmod a+r {powercap.root}/intel-rapl:*/energy_uj" in why


def test_a_counter_that_holds_no_number(powercap: Powercap) -> None:
    """It is said which, and the machine goes without."""
    powercap.zone("intel-rapl:0", "package-0", "")
    packages, why = find_packages(powercap.root, 0.0)
    assert packages == []
    assert f"package-0 ({powercap.root}/intel-rapl:0/energy_uj) cannot be read" in why


def test_a_machine_without_rapl(tmp_path: Path) -> None:
    """A virtual machine, for one."""
    packages, why = find_packages(tmp_path / "nowhere", 0.0)
    assert packages == []
    assert "has no RAPL package" in why
    assert "modprobe intel_rapl_msr" in why


def test_an_error_of_the_system_is_passed_on(powercap: Powercap) -> None:
    """update() leaves it to the device what a failed read means."""
    powercap.zone("intel-rapl:0", "package-0", 5)
    ((package,), _) = find_packages(powercap.root, 0.0)
    (powercap.root / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        package.update(1.0)
