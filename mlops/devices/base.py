"""What every device is, and how one is made from its name in the settings."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from mlops.errors import DeviceError, SettingsError
from mlops.series import Series

__all__ = ["ENERGY_SUFFIX", "KINDS", "Absent", "Device", "Meter", "Reading", "local_rank", "opener"]

KINDS: Final[Mapping[str, str]] = {
    "nvidia": "mlops.devices.nvidia:NvidiaDevice",
    "host": "mlops.devices.host:HostDevice",
    "replay": "mlops.devices.replay:ReplayDevice",
}
"""The class of each kind of device. In the settings a kind may be followed by ``:ARGUMENT``."""

ENERGY_SUFFIX: Final = ".energy_joules"
"""How the name of a reading ends that counts energy since the device was opened."""


class Reading(NamedTuple):
    """One value that a device gave, for the series it belongs to."""

    series: Series
    value: float


@dataclass(frozen=True, slots=True)
class Meter:
    """Something whose energy is metered.

    Attributes:
        device: ``gpu`` or ``host``: the first part of its metrics' names.
        id: the GPU's UUID, or the name of the RAPL package.
        name: of the product, for people.
        method: ``counter`` (the hardware counts joules), ``power`` (watts sampled and integrated
            by the trapezoid rule), ``rapl``, ``replay``; also a dimension of its energy series.
    """

    device: str
    id: str
    name: str
    method: str


class Device(abc.ABC):
    """Something that can be sampled. All methods run on the sampler's thread.

    Devices that are absent are a class of their own (:class:`Absent`), not a special case.
    """

    @abc.abstractmethod
    def sample(self) -> list[Reading]:
        """What it shows now; a field that cannot be read is left out, never guessed and never 0.

        Energy readings (names ending in ``.energy_joules``) count from when the device was opened
        and never decrease.

        Raises:
            DeviceError: nothing at all can be read any more.
        """

    @abc.abstractmethod
    def meters(self) -> list[Meter]:
        """What of it is metered for energy."""

    @abc.abstractmethod
    def describe(self) -> list[str]:
        """What it is, in a line for each part, for people."""

    def not_metered(self) -> str:
        """Why it, or a part of it, meters no energy, in sentences; empty where all of it does."""
        return ""

    def close(self) -> None:  # noqa: B027 - most devices hold nothing
        """Let go of it; a second call does nothing, and :meth:`sample` is not called any more."""


class Absent(Device):
    """A device that is not here, which is a normal case.

    Args:
        reason: why, in a sentence.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def sample(self) -> list[Reading]:
        """Nothing."""
        return []

    def meters(self) -> list[Meter]:
        """Nothing."""
        return []

    def describe(self) -> list[str]:
        """Why it is not here."""
        return [self.reason]

    def not_metered(self) -> str:
        """Why it is not here."""
        return self.reason


def local_rank(environ: Mapping[str, str]) -> int | None:
    """This process's number among the ranks of its node; ``None`` where there is only one rank.

    Args:
        environ: with ``WORLD_SIZE`` and ``LOCAL_RANK``, as torchrun sets them.
    """
    try:
        size, rank = int(environ.get("WORLD_SIZE", "1")), int(environ.get("LOCAL_RANK", "-1"))
    except ValueError:
        return None
    return rank if size > 1 and rank >= 0 else None


def opener(name: str, environ: Mapping[str, str] | None = None) -> Callable[[], Device]:
    """A function that opens the device that a name in the settings means.

    The name is judged now and the device opened later, since opening can take seconds.  The
    function never raises: what cannot be opened is :class:`Absent`, with the reason.

    Args:
        name: such as ``nvidia``.
        environ: tells the device what of the node is this process's, if not ``os.environ``.

    Raises:
        SettingsError: there is no such kind of device.
    """
    kind, separator, argument = name.partition(":")
    home = KINDS.get(kind)
    if home is None:
        raise SettingsError(f"There is no device {name!r}", remedy=f"The devices are: {', '.join(KINDS)}.")
    if kind == "replay" and not argument:
        raise SettingsError("The device replay needs a file", remedy="Write replay:FILE, a trace of readings.")
    if kind != "replay" and separator:
        raise SettingsError(f"The device {kind} takes no argument ({name!r})", remedy=f"Write {kind}.")

    def open_device() -> Device:
        module, _, class_name = home.partition(":")
        try:
            made = getattr(importlib.import_module(module), class_name)
            arguments = [argument] if argument else []
            device = made(*arguments) if environ is None else made(*arguments, environ=environ)
        except DeviceError as error:
            return Absent(str(error))
        except Exception as error:  # noqa: BLE001 - a broken driver raises whatever it likes
            return Absent(f"{kind}: {type(error).__name__}: {error}")
        if not isinstance(device, Device):
            return Absent(f"{kind}: {class_name} is no Device")
        return device

    return open_device
