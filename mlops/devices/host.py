"""The host: CPU, memory, and the energy of its CPU packages where the kernel lets it be read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from mlops.devices import rapl
from mlops.devices.base import Device, Meter, Reading, local_rank
from mlops.series import Series

__all__ = ["HostDevice"]

_METHOD: Final = "rapl"
_WINDOW: Final = 0.1
"""CPU use and power are means over at least this many seconds: the kernel counts CPU time in steps of
10 ms, and an epoch's end can bring two samples within one."""

_REST: Final = 5.0
_REST_PER_SCAN: Final = 500.0
"""Looking for child processes reads all of ``/proc``: it is done every 5 s, or less often on a host with
so many processes that it would take more than 1/500 of the time."""

_CPU: Final = Series("host.cpu_percent")
_MEMORY: Final = Series("host.memory_used_bytes")
_PROCESSES: Final = Series("host.process_memory_bytes")


class HostDevice(Device):
    """This machine.

    CPU and memory are the whole machine's: limits that a container sets (cgroups) are not looked at,
    so ``host.cpu_percent`` in a pod is the node's.  The memory of processes is the resident memory of this
    process and its descendants; pages that they share count once for each.

    Of several ranks on a node the first shows the node; the others add the memory of their own processes.

    Args:
        environ: where the rank is looked up; ``os.environ`` if not given.
        powercap: the folder of RAPL's counters.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        powercap: Path = rapl.ROOT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = local_rank(os.environ if environ is None else environ) or 0
        self._clock = clock
        now = clock()
        self._cpu = _CpuUse(now)
        self._processes = _Processes(clock)
        self._packages, self._not_metered = ([], "") if self._rank else rapl.find_packages(powercap, now)
        self._energy = {
            package.name: Series.of("host.energy_joules", {"package": package.name, "method": _METHOD})
            for package in self._packages
        }
        self._power = {
            package.name: Series.of("host.power_watts", {"package": package.name}) for package in self._packages
        }
        self._since = {package.name: (now, 0.0) for package in self._packages}

    def sample(self) -> list[Reading]:
        """CPU use, memory, and for each package its energy and its mean power since about the last sample."""
        now = self._clock()
        readings = [] if self._rank else self._of_node(now)
        resident = self._processes.resident(now)
        if resident:
            readings.append(Reading(_PROCESSES, float(resident)))
        for package in self._packages:
            readings.extend(self._of(package, now))
        return readings

    def _of_node(self, now: float) -> list[Reading]:
        memory = Reading(_MEMORY, float(psutil.virtual_memory().used))
        percent = self._cpu.since(now)
        return [memory] if percent is None else [Reading(_CPU, percent), memory]

    def meters(self) -> list[Meter]:
        """The CPU packages whose counters can be read."""
        return [Meter("host", package.name, _cpu_name(), _METHOD) for package in self._packages]

    def describe(self) -> list[str]:
        """CPU, memory, meters."""
        if self._rank:
            return [f"{_cpu_name()}: the memory of rank {self._rank}'s processes; rank 0 of the node meters the rest"]
        memory = psutil.virtual_memory().total / (1 << 30)
        names = ", ".join(package.name for package in self._packages)
        how = f"energy of {names} by RAPL" if names else "energy not metered"
        return [f"{_cpu_name()}, {psutil.cpu_count()} CPUs, {memory:.0f} GiB: {how}"]

    def not_metered(self) -> str:
        """Why the energy of the CPUs, or of one of them, is not metered, and what to do about it."""
        return self._not_metered

    def _of(self, package: rapl.Package, now: float) -> list[Reading]:
        try:
            package.update(now)
        except (OSError, ValueError):  # not now; what it counted meanwhile comes with the next sample
            return []
        readings = [Reading(self._energy[package.name], package.joules)]
        then, before = self._since[package.name]
        if now - then >= _WINDOW:
            readings.append(Reading(self._power[package.name], (package.joules - before) / (now - then)))
            self._since[package.name] = now, package.joules
        return readings


class _CpuUse:
    """The share of all cores in use, over windows that are long enough to say something."""

    def __init__(self, now: float) -> None:
        self._then = now
        self._idle, self._total = _cpu_seconds()

    def since(self, now: float) -> float | None:
        """Percent since the last window's end; ``None`` if that was a moment ago."""
        if now - self._then < _WINDOW:
            return None
        idle, total = _cpu_seconds()
        passed = total - self._total
        if passed <= 0:
            return None
        busy = passed - (idle - self._idle)
        self._then, self._idle, self._total = now, idle, total
        return min(100.0, max(0.0, 100.0 * busy / passed))


def _cpu_seconds() -> tuple[float, float]:
    """CPU time spent idle (waiting for disks is idle) and in all, over all cores."""
    times = psutil.cpu_times()
    # Linux counts the time of virtual machines in user and nice, too.
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return times.idle + getattr(times, "iowait", 0.0), sum(times) - counted_twice


class _Processes:
    """Resident memory of this process and its descendants."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._me = psutil.Process()
        self._children: list[psutil.Process] = []
        self._look_again = clock()

    def resident(self, now: float) -> int:
        """Bytes; 0 if not even this process's can be read."""
        if now >= self._look_again:
            self._look()
        return sum(_resident(process) for process in (self._me, *self._children))

    def _look(self) -> None:
        started = self._clock()
        try:
            self._children = self._me.children(recursive=True)
        except psutil.Error:
            self._children = []
        ended = self._clock()
        self._look_again = ended + max(_REST, _REST_PER_SCAN * (ended - started))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return "CPU"
