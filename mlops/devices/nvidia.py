"""NVIDIA GPUs, through NVML (nvidia-ml-py).

Only this job's GPUs are reported (:mod:`mlops.devices.visible`), each under its UUID: the key
``uuid`` is the one that hosts' agents use, so that a job's series and its host's join.

Energy is the difference of the board's own counter (Volta and later), or, where there is none, the
integral of its instant power by the trapezoid rule over the samples; the dimension ``method`` says
which (``counter``, ``power``).  Users have seen 187 J by one and 327 J by the other for the same
five seconds, and some chips look at their power only a quarter of the time: prefer the counter, and
do not compare one method with the other.  Power is that of the board; a GPU shared without MIG
(MPS, time-slicing) is metered as a whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlops.devices.base import Device, Meter, Reading
from mlops.devices.nvml import AVERAGE, INSTANT, MILLIJOULES, Answers, Asker
from mlops.devices.visible import Board, cuda_uuids, visible
from mlops.errors import DeviceError
from mlops.series import METRICS, Series

__all__ = ["NvidiaDevice"]

_log = logging.getLogger("mlops")

_ENERGY: Final = "gpu.energy_joules"
_POWER: Final = "gpu.power_watts"
_COUNTER: Final = "counter"
_INTEGRAL: Final = "power"
_SEVERAL_INSTANCES_SINCE: Final = 570
"""The driver from which on one CUDA process may use several MIG instances (NVIDIA MIG User Guide)."""

_WHY_ABSENT: Final = {  # by nvmlReturn_t
    12: (
        "There is no NVIDIA driver here (libnvidia-ml.so.1 is not found)",
        "On a GPU node install the driver; in a container, ask for nvidia.com/gpu.",
    ),
    9: (
        "The NVIDIA driver is installed here and not loaded",
        "Load it (modprobe nvidia); dmesg says why where that fails.",
    ),
    18: (
        "The NVIDIA driver was updated under a running node: its library and kernel module differ",
        "Reboot the node, or load the new module.",
    ),
    4: ("The NVIDIA driver does not let this user in", "Have access to /dev/nvidiactl and /dev/nvidia* granted."),
}


class NvidiaDevice(Device):
    """This job's NVIDIA GPUs.

    A GPU that is lost midway ends its own readings, with one warning; the others go on.

    Args:
        environ: where ``CUDA_VISIBLE_DEVICES`` and its like are looked up; ``os.environ`` if not given.
        clock: seconds, for the integral of power.

    Raises:
        DeviceError: there is no driver, no GPU, or none of this job's. A normal case.
    """

    def __init__(
        self, *, environ: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._nvml = _opened_nvml()
        self._is_open = True
        self._gone: DeviceError | None = None
        self._about: list[str] = []
        self._gpus: list[_Gpu] = []
        try:
            self._open(os.environ if environ is None else environ, clock)
        except self._nvml.NVMLError as error:
            self.close()
            raise DeviceError(f"The NVIDIA driver does not show its GPUs: {error}") from error
        except BaseException:
            self.close()
            raise
        self._meters = [gpu.meter for gpu in self._gpus if gpu.meter]
        self._unmetered = [gpu.unmetered for gpu in self._gpus if gpu.unmetered]

    def _open(self, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        driver = self._nvml.nvmlSystemGetDriverVersion()
        boards, handles = _survey(self._nvml)
        uuids = visible(boards, environ, cuda=cuda_uuids(), several_instances=_takes_several_instances(driver))
        self._about.append(f"NVIDIA driver {driver}: {len(uuids)} of {len(boards)} GPUs are this job's")
        for uuid in uuids:
            name, handle = handles[uuid]
            whole = any(board.uuid == uuid for board in boards)
            try:
                gpu = _Gpu(Asker(self._nvml, handle, whole=whole), uuid, name, clock, whole=whole)
            except DeviceError as error:
                self._lose(uuid, name, error)
            else:
                self._gpus.append(gpu)
                self._about.append(gpu.about)
        if not self._gpus:
            raise DeviceError("None of this job's GPUs answers", remedy="See nvidia-smi and dmesg (Xid).")

    def sample(self) -> list[Reading]:
        """What each GPU shows now.

        Raises:
            DeviceError: the last of them is lost.
        """
        readings: list[Reading] = []
        for gpu in list(self._gpus):
            try:
                readings.extend(gpu.sample())
            except DeviceError as error:
                self._gpus.remove(gpu)
                self._lose(gpu.uuid, gpu.name, error)
        if self._gone is not None and not self._gpus:
            raise self._gone
        return readings

    def meters(self) -> list[Meter]:
        """The GPUs whose energy is metered, those since lost included."""
        return list(self._meters)

    def describe(self) -> list[str]:
        """The driver, and for each GPU its name, its method and what it does not tell."""
        return list(self._about)

    def not_metered(self) -> str:
        """Which of this job's GPUs have no metered energy, and why."""
        return " ".join(self._unmetered)

    def close(self) -> None:
        """End this device's use of NVML, which counts its users: others in this process keep theirs."""
        if self._is_open:
            self._is_open = False
            self._gpus.clear()
            self._gone = None
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _lose(self, uuid: str, name: str, error: DeviceError) -> None:
        """Say once that a GPU is lost: in the log, or, if it was the last, by what ``sample`` raises."""
        self._gone = DeviceError(
            f"{name} ({uuid}) is lost: {error.what}", remedy="See nvidia-smi and dmesg (Xid) for what it died of."
        )
        if self._gpus:
            _log.warning("%s Its readings end here; those of the other GPUs go on.", self._gone)


class _Gpu:
    """One GPU or MIG instance: its series, and its energy since it was opened.

    Raises:
        DeviceError: from the constructor and from :meth:`sample`: it is lost.
    """

    def __init__(self, asker: Asker, uuid: str, name: str, clock: Callable[[], float], *, whole: bool) -> None:
        self.uuid = uuid
        self.name = name
        self._asker = asker
        self._clock = clock
        self._joules = 0.0
        self._last_counter: float | None = None
        self._last_power: tuple[float, float] | None = None
        now = clock()
        answers = asker.ask()
        self._method = _COUNTER if MILLIJOULES in answers else _INTEGRAL if _power(answers) is not None else ""
        self._count(answers, now)
        self._series = {metric: Series.of(metric, {"uuid": uuid}) for metric in METRICS if metric.startswith("gpu.")}
        self._series[_ENERGY] = Series.of(_ENERGY, {"uuid": uuid, "method": self._method})
        self.meter = Meter("gpu", uuid, name, self._method) if self._method else None
        self.unmetered = "" if self._method else _why_unmetered(uuid, name, whole=whole)
        self.about = self._describe(answers, whole=whole)

    def sample(self) -> list[Reading]:
        """What it shows now."""
        now = self._clock()
        answers = self._asker.ask()
        counted = self._count(answers, now)
        power = answers.get(AVERAGE, answers.get(INSTANT))
        readings = [Reading(self._series[_POWER], power)] if power is not None else []
        if counted:
            readings.append(Reading(self._series[_ENERGY], self._joules))
        readings.extend(
            Reading(self._series[metric], float(value)) for metric, value in answers.items() if metric in self._series
        )
        return readings

    def _count(self, answers: Answers, now: float) -> bool:
        """Add the energy since the last sample; whether it is known up to now."""
        if self._method == _COUNTER:
            counter = answers.get(MILLIJOULES)
            if counter is None:
                return False
            if self._last_counter is not None:  # a counter that went back was reset with its driver
                self._joules += max(0.0, counter - self._last_counter) / 1000
            self._last_counter = counter
            return True
        power = _power(answers)
        if power is None or self._method != _INTEGRAL:
            return False
        if self._last_power is not None:
            then, before = self._last_power
            self._joules += (power + before) / 2 * max(0.0, now - then)
        self._last_power = now, power
        return True

    def _describe(self, answers: Answers, *, whole: bool) -> str:
        how = {_COUNTER: "energy by its counter", _INTEGRAL: "energy by integrating its power"}.get(
            self._method, "energy not metered"
        )
        told = {*answers, *([_POWER] if _power(answers) is not None else []), *([_ENERGY] if self._method else [])}
        silent = [metric.removeprefix("gpu.") for metric in self._series if metric not in told] if whole else []
        return f"{self.name} {self.uuid}: {how}" + (f"; it does not tell {', '.join(silent)}" if silent else "")


def _power(answers: Answers) -> float | None:
    """The power to integrate: that of the moment, if the GPU tells it."""
    return answers.get(INSTANT, answers.get(AVERAGE))


def _why_unmetered(uuid: str, name: str, *, whole: bool) -> str:
    if whole:
        return f"{name} ({uuid}) tells neither its energy nor its power."
    return f"{name} ({uuid}) is a part of a GPU (MIG): power and energy are the whole board's, which it shares."


def _opened_nvml() -> Any:
    """The module ``pynvml`` with NVML opened once more."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        what, remedy = _WHY_ABSENT.get(error.value, (f"The NVIDIA driver cannot be asked: {error}", ""))
        raise DeviceError(what, remedy=remedy) from error
    return pynvml


def _takes_several_instances(driver: str) -> bool:
    major = driver.partition(".")[0]
    return not major.isdigit() or int(major) >= _SEVERAL_INSTANCES_SINCE


def _survey(nvml: Any) -> tuple[list[Board], dict[str, tuple[str, Any]]]:
    """The node's GPUs, and for each of their UUIDs and of their instances' the name and the handle.

    A GPU that this process may not open, or that is lost already, is not this job's.
    """
    boards: list[Board] = []
    handles: dict[str, tuple[str, Any]] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError:
            continue
        handles[uuid] = name, handle
        instances = _instances(nvml, handle, name) if _is_split(nvml, handle) else None
        handles.update(instances or {})
        boards.append(Board(uuid, name, None if instances is None else tuple(instances)))
    return boards, handles


def _is_split(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:  # a chip or driver that knows nothing of MIG
        return False


def _instances(nvml: Any, board: Any, name: str) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    try:
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(board)
    except nvml.NVMLError:
        return found
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, index)
            uuid = nvml.nvmlDeviceGetUUID(handle)
        except nvml.NVMLError:  # not made, or another job's
            continue
        try:
            found[uuid] = nvml.nvmlDeviceGetName(handle), handle
        except nvml.NVMLError:
            found[uuid] = f"{name} MIG", handle
    return found
