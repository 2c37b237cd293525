"""The one table of the names that mlops itself sends, and what else they are called elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mlops.series._rules import Series

__all__ = ["METRICS", "SUMMARIES", "Exposed", "Metric", "exposed", "metric", "tag"]

_NOT_IN_PROMETHEUS: Final = re.compile("[^a-zA-Z0-9_]")
_PROMETHEUS_UNITS: Final[Mapping[str, str]] = {
    "W": "watts",
    "J": "joules",
    "By": "bytes",
    "Cel": "celsius",
    "Hz": "hertz",
    "s": "seconds",
    "%": "ratio",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """What mlops knows of one name it sends.

    Attributes:
        name: as recorded and sent.
        unit: UCUM-like word (``W``, ``J``, ``By``, ``Cel``, ``%``, ``s``), empty for a plain number.
        description: one sentence.
        host_name: the name under which a host's own agent publishes the same quantity (StackHPC's
            nvidia plugin), so that a host's series and a job's join by ``uuid``; empty if none.
        counter: it only grows, from 0 or so, as long as what is counted lives; rates of it mean something.
    """

    name: str
    unit: str
    description: str
    host_name: str = ""
    counter: bool = False


_TABLE: Final = (
    Metric("train.loss", "", "loss of the batch just trained on"),
    Metric("train.smooth_loss", "", "exponentially weighted mean of the training loss"),
    Metric("train.lr", "", "learning rate of the last parameter group"),
    Metric("train.samples_per_second", "/s", "training samples taken in per second"),
    Metric("train.data_wait_seconds", "s", "mean time per batch for which the training waited for its data"),
    Metric("train.batch_seconds", "s", "mean time per batch from its data's arrival until the next is asked for"),
    Metric("train.epoch", "", "epochs completed so far"),
    Metric("train.epoch_seconds", "s", "duration of the epoch just completed, validation included"),
    Metric("train.epoch_energy_joules", "J", "energy that the meters counted during the epoch just completed"),
    Metric("train.epoch_loss", "", "mean training loss over the epoch"),
    Metric("train.mean_loss", "", "mean training loss over the whole training"),
    Metric("train.grad_norm", "", "norm of the gradients"),
    Metric(
        "train.progress_lost_percent",
        "%",
        "how much of what the loss has fallen since its first minute it has risen again, by means over a minute",
    ),
    Metric("valid.loss", "", "loss over the validation set"),
    Metric(
        "gpu.power_watts",
        "W",
        "electrical power of the board, averaged over 1 s where the GPU does so",
        "nvidia.power_watts",
    ),
    Metric("gpu.energy_joules", "J", "energy of the board since recording began", counter=True),
    Metric("gpu.utilisation_percent", "%", "share of time in which a kernel ran", "nvidia.utilisation_gpu_percent"),
    Metric(
        "gpu.memory_utilisation_percent",
        "%",
        "share of time in which memory was read or written",
        "nvidia.utilisation_memory_percent",
    ),
    Metric("gpu.memory_used_bytes", "By", "device memory in use", "nvidia.memory_fb_used_bytes"),
    Metric("gpu.memory_total_bytes", "By", "device memory installed", "nvidia.memory_fb_total_bytes"),
    Metric("gpu.temperature_celsius", "Cel", "temperature of the GPU", "nvidia.temperature_deg_c"),
    Metric("gpu.memory_temperature_celsius", "Cel", "temperature of the device memory"),
    Metric("gpu.power_limit_watts", "W", "power limit in force", "nvidia.power_limit_watts"),
    Metric("gpu.sm_clock_hertz", "Hz", "clock of the streaming multiprocessors"),
    Metric("gpu.memory_clock_hertz", "Hz", "clock of the device memory"),
    Metric("gpu.throttle_reasons", "", "bit mask of NVML's clocks event reasons"),
    Metric("gpu.throttled", "", "1 while heat or the power supply slow the GPU down, else 0"),
    Metric("gpu.ecc_errors", "", "uncorrected ECC errors since the driver loaded", counter=True),
    Metric("host.cpu_percent", "%", "share of all cores in use"),
    Metric("host.memory_used_bytes", "By", "memory in use on the host"),
    Metric("host.process_memory_bytes", "By", "resident memory of the training process and its children"),
    Metric("host.power_watts", "W", "power of the CPU packages, from RAPL"),
    Metric("host.energy_joules", "J", "energy of the CPU packages since recording began, from RAPL", counter=True),
    Metric("mlops.not_finite_points", "", "values of a metric so far that were nan or infinite", counter=True),
    Metric("mlops.silent_seconds", "s", "how long a training that still runs has logged nothing; told while it is so"),
)

METRICS: Final[Mapping[str, Metric]] = {entry.name: entry for entry in _TABLE}
"""The names that mlops itself sends, by name."""

SUMMARIES: Final = ("", ".mean", ".min", ".max", ".count")
"""What ends a metric's name where an agent gets a summary of it: the last value, and these."""


def metric(name: str) -> Metric:
    """What is known of a name; a name of the user's own has no unit and no description."""
    return METRICS.get(name) or Metric(name, "", "")


@dataclass(frozen=True, slots=True)
class Exposed:
    """A metric as Prometheus is shown it.

    Attributes:
        name: of its samples, such as ``mlops_gpu_energy_joules_total``.
        kind: its type.
        unit: Prometheus' word for its unit, with which the name ends, ``_total`` aside; empty if it has none.
        divisor: what a value is divided by: 100 where we count in per cent, since Prometheus counts in wholes.
        help: one sentence.
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    divisor: float
    help: str


def exposed(name: str) -> Exposed:
    """A metric as Prometheus is shown it, by its rules: base units at the end, ``_total`` for what is counted.

    Two names of the user's own may come to one (``a.b`` and ``a_b``), also to one of ours.
    Source: https://prometheus.io/docs/practices/naming/.
    """
    known = metric(name)
    unit = _PROMETHEUS_UNITS.get(known.unit, "")
    mended = _NOT_IN_PROMETHEUS.sub("_", name.removeprefix("mlops."))
    if unit == "ratio":
        mended = f"{mended.removesuffix('percent')}ratio"
    about = known.description or "a value of the training"
    return Exposed(
        f"mlops_{mended}_total" if known.counter else f"mlops_{mended}",
        "counter" if known.counter else "gauge",
        unit,
        100.0 if unit == "ratio" else 1.0,
        f"{about[0].upper()}{about[1:]} (recorded as {name}).",
    )


def tag(series: Series) -> str:
    """A series' name in TensorBoard, which folds at slashes: ``gpu/power_watts/uuid=GPU-1``."""
    inside = ",".join(f"{key}={value}" for key, value in series.dimensions)
    folded = series.name.replace(".", "/")
    return f"{folded}/{inside}" if inside else folded
