"""Asking NVML about one GPU, so that no unanswered question silences another.

What can be asked differs from chip to chip, from driver to driver, under MIG and on virtual GPUs.
A question answered with "not supported" is never asked again, so that it costs nothing; one that
fails otherwise is left out of this sample and asked again at the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from mlops.errors import DeviceError

__all__ = ["AVERAGE", "INSTANT", "MILLIJOULES", "Answers", "Asker"]

_MEMBER: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""The member of ``nvmlValue_t`` for each ``nvmlValueType_t``, in its order."""

Answers = dict[str, float]
"""What a GPU answered: by metric's name, or by one of the names below where it is to be worked on first."""

MILLIJOULES: Final = "energy since the driver loaded, mJ"
AVERAGE: Final = "power averaged over a second, W"
INSTANT: Final = "power of the moment, W"

# By nvmlReturn_t; its numbers are part of the driver's ABI, and older bindings lack some of the names.
_LOST: Final = {
    1: "NVML is not open any more",
    9: "its driver was unloaded",
    15: "it has fallen off the bus",
    16: "it must be reset",
    18: "its driver was replaced",
    28: "it is not there any more",
}
_LASTING: Final = frozenset({2, 3, 4, 6, 13, 22, 25, 26})
"""INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, FUNCTION_NOT_FOUND,
VGPU_ECC_NOT_SUPPORTED, ARGUMENT_VERSION_MISMATCH, DEPRECATED: asking again gives the same."""

_MEMORY_TEMPERATURE: Final = 82
_ENERGY: Final = 83
_POWER_AVERAGE: Final = 185
_POWER_INSTANT: Final = 186
_FIELDS: Final = {
    _MEMORY_TEMPERATURE: ("gpu.memory_temperature_celsius", 1.0),
    _ENERGY: (MILLIJOULES, 1.0),
    _POWER_AVERAGE: (AVERAGE, 1e-3),
    _POWER_INSTANT: (INSTANT, 1e-3),
}
"""What one ``nvmlDeviceGetFieldValues`` fetches, by NVML_FI_DEV_*: under which name, in which unit."""

_PATIENCE: Final = 5
"""Samples in a row in which a GPU answers nothing at all before it counts as lost: some drivers
say no more than "unknown error" of a GPU that has fallen off the bus."""


class _Way(NamedTuple):
    """One way to ask: a function of nvidia-ml-py's, and what its result means.

    ``spare_of`` names a field that gives the same: this way is not taken while that is offered.
    """

    function: str
    arguments: tuple[int, ...]
    read: Callable[[Any], Answers]
    spare_of: int = 0


def _one(name: str, scale: float = 1.0) -> Callable[[Any], Answers]:
    return lambda value: {name: value * scale}


_HARMFUL: Final = 0x8 | 0x20 | 0x40 | 0x80
"""Of NVML's clocks event reasons: hardware slowdown (heat, power brake), software thermal slowdown, hardware thermal
slowdown, power brake.  The others are idleness, clocks that somebody has set, the power limit, at which a GPU that
is well used runs all day, and waiting for others (NVML API reference, nvmlClocksEventReasons)."""


def _throttling(mask: int) -> Answers:
    return {"gpu.throttle_reasons": mask, "gpu.throttled": bool(mask & _HARMFUL)}


_MEMORY: Final = (
    _Way(
        "nvmlDeviceGetMemoryInfo",
        (),
        lambda memory: {"gpu.memory_used_bytes": memory.used, "gpu.memory_total_bytes": memory.total},
    ),
)
_WHOLE: Final[tuple[tuple[_Way, ...], ...]] = (
    (
        _Way(
            "nvmlDeviceGetUtilizationRates",
            (),
            lambda rates: {"gpu.utilisation_percent": rates.gpu, "gpu.memory_utilisation_percent": rates.memory},
        ),
    ),
    _MEMORY,
    (_Way("nvmlDeviceGetTemperature", (0,), _one("gpu.temperature_celsius")),),  # NVML_TEMPERATURE_GPU
    (_Way("nvmlDeviceGetClockInfo", (1,), _one("gpu.sm_clock_hertz", 1e6)),),  # NVML_CLOCK_SM, MHz
    (_Way("nvmlDeviceGetClockInfo", (2,), _one("gpu.memory_clock_hertz", 1e6)),),  # NVML_CLOCK_MEM, MHz
    (_Way("nvmlDeviceGetEnforcedPowerLimit", (), _one("gpu.power_limit_watts", 1e-3)),),
    (
        _Way("nvmlDeviceGetCurrentClocksEventReasons", (), _throttling),
        _Way("nvmlDeviceGetCurrentClocksThrottleReasons", (), _throttling),  # before driver 535
    ),
    # NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC
    (_Way("nvmlDeviceGetTotalEccErrors", (1, 0), _one("gpu.ecc_errors")),),
    # A 1 s average since Ampere, GA100 excepted; of the moment before (NVML API reference).
    (_Way("nvmlDeviceGetPowerUsage", (), _one(AVERAGE, 1e-3), _POWER_AVERAGE),),
    (_Way("nvmlDeviceGetTotalEnergyConsumption", (), _one(MILLIJOULES), _ENERGY),),
)


class Asker:
    """Asks NVML about one GPU or MIG instance.

    Args:
        nvml: the module ``pynvml``.
        handle: the GPU's handle.
        whole: whether it is a whole board. Of a MIG instance only its memory is asked, because
            everything else is the board's, which it shares with other jobs.
    """

    def __init__(self, nvml: Any, handle: Any, *, whole: bool) -> None:
        self._nvml = nvml
        self._handle = handle
        self._fields = list(_FIELDS) if whole else []
        self._questions = [deque(ways) for ways in (_WHOLE if whole else (_MEMORY,))]
        self._silent = 0
        self._last_error = ""

    def ask(self) -> Answers:
        """What it answers now; nothing for what it cannot tell.

        Raises:
            DeviceError: it is gone.
        """
        answers = self._ask_fields(self._fields)
        for ways in self._questions:
            answers.update(self._ask(ways))
        self._questions = [ways for ways in self._questions if ways]
        self._silent = 0 if answers or not (self._fields or self._questions) else self._silent + 1
        if self._silent >= _PATIENCE:
            raise DeviceError(f"it has not answered {_PATIENCE} times in a row ({self._last_error})")
        return answers

    def _ask_fields(self, fields: Sequence[int]) -> Answers:
        if not fields:
            return {}
        try:
            values = self._nvml.nvmlDeviceGetFieldValues(self._handle, list(fields))
        except self._nvml.NVMLError as error:
            if not self._is_lasting(error.value):
                return {}
            if len(fields) > 1:  # an old driver may refuse all for one that it does not know
                return {name: value for field in fields for name, value in self._ask_fields([field]).items()}
            self._fields = [field for field in self._fields if field not in fields]
            return {}
        answers: Answers = {}
        for value in values:
            if value.nvmlReturn == 0:
                name, scale = _FIELDS[value.fieldId]
                answers[name] = getattr(value.value, _MEMBER[value.valueType]) * scale
            elif self._is_lasting(value.nvmlReturn):
                self._fields = [field for field in self._fields if field != value.fieldId]
        return answers

    def _ask(self, ways: deque[_Way]) -> Answers:
        """Ask by the first way that is supported; the others are dropped."""
        while ways:
            function, arguments, read, spare_of = ways[0]
            if spare_of in self._fields:
                return {}
            try:
                return read(getattr(self._nvml, function)(self._handle, *arguments))
            except self._nvml.NVMLError as error:
                if not self._is_lasting(error.value):
                    return {}
            except AttributeError:  # an nvidia-ml-py older than the question
                pass
            ways.popleft()
        return {}

    def _is_lasting(self, code: int) -> bool:
        """Whether to ask this never again.

        Raises:
            DeviceError: the code says that the GPU is gone.
        """
        if code in _LOST:
            raise DeviceError(_LOST[code])
        self._last_error = f"{self._nvml.NVMLError(code)}"
        return code in _LASTING
