"""The energy counters of CPU packages (RAPL), as Linux shows them below ``/sys/class/powercap``.

Read are the zones ``intel-rapl:N`` whose name begins with ``package`` (AMD's appear under the same
name); ``psys``, ``dram`` and ``core`` overlap with them or lie inside.  Since CVE-2020-8694 the
counters are readable by root only, unless the administrator decides otherwise.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "Package", "find_packages"]

ROOT: Final = Path("/sys/class/powercap")

MOST_WATTS: Final = 2000.0
"""No package uses more: a counter that stands lower than before has wrapped around only if that
makes sense at this power, and has been reset (by a resume from suspend) otherwise."""


@dataclass(slots=True)
class Package:
    """The energy counter of one CPU package.

    Attributes:
        name: such as ``package-0``.
        joules: counted since the first :meth:`update`.
    """

    name: str
    joules: float = field(default=0.0, init=False)
    _counter: Path
    _range: float
    _last: tuple[float, float] | None = field(default=None, init=False)

    def update(self, now: float) -> None:
        """Count up to now.

        The counter wraps around, at full load about every quarter of an hour on large CPUs (its range is
        in ``max_energy_range_uj``): energy is lost where samples lie further apart.

        Args:
            now: seconds of a monotonic clock.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds no number.
        """
        counter = int(self._counter.read_bytes())
        if self._last is not None:
            then, before = self._last
            gained = counter - before
            if gained < 0:
                gained += self._range
                if not 0 <= gained <= MOST_WATTS * 1e6 * (now - then):
                    gained = 0.0
            self.joules += gained / 1e6
        self._last = now, counter


def find_packages(root: Path, now: float) -> tuple[list[Package], str]:
    """The packages whose counters can be read, each counting from now.

    Args:
        root: the powercap folder.
        now: seconds of a monotonic clock.

    Returns:
        The packages by name, and why there are none, or fewer than the machine has; empty if all are there.
    """
    packages: dict[str, Package] = {}
    locked: list[str] = []
    broken: list[str] = []
    for zone in sorted(root.glob("intel-rapl:*")):
        name = _name(zone)
        if not name.startswith("package") or name in packages:
            continue
        package = Package(name, zone / "energy_uj", _range(zone))
        try:
            package.update(now)
        except (OSError, ValueError) as error:
            denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM)
            (locked if denied else broken).append(f"{name} ({zone / 'energy_uj'})")
            continue
        packages[name] = package
    return [packages[name] for name in sorted(packages)], _why(root, packages, locked, broken)


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _range(zone: Path) -> float:
    """Where the counter wraps around, in microjoules; 0 where it is not said: then a wrap counts for nothing."""
    try:
        return float((zone / "max_energy_range_uj").read_bytes())
    except (OSError, ValueError):
        return 0.0


def _why(root: Path, packages: dict[str, Package], locked: list[str], broken: list[str]) -> str:
    if locked:
        return (
            f"The energy counter of CPU {', '.join(locked)} is readable by root only (CVE-2020-8694). "
            f"Where all users are trusted: sudo chmod a+r {root}/intel-rapl:*/energy_uj, and a udev or tmpfiles rule "
            "to keep it so."
        )
    if broken:
        return f"The energy counter of CPU {', '.join(broken)} cannot be read: the kernel gives no number."
    if not packages:
        return (
            f"The CPU's energy is not counted: {root} has no RAPL package (a virtual machine, a container that hides "
            "it, or a kernel without intel_rapl). On bare metal: sudo modprobe intel_rapl_msr."
        )
    return ""
