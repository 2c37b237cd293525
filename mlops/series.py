r"""What may be measured: under which name, in which unit, with which dimensions.

Monasca's rules live here and nowhere else.  They are the union of what the four parts on the way
refuse or die of (``monasca_common.validation``, the agent's statsd parser, the API, the
persister), each seen on the real part:

* a name has 1 to 255 characters, none of ``< > = { } , " \ ; & ( )``, no colon, pipe, space or
  control character, and does not begin with ``_e``, ``_sc`` (the agent takes those lines for
  events and service checks) or ``#``;
* a dimension's key and value are strings of 1 to 255 characters, none of
  ``< > = { } , " \ ; &``, no pipe, no control character (a newline kills the persister), no lone
  surrogate (the API answers 500); the key does not begin with ``_`` and is not ``time`` (this too
  kills the persister);
* a value is a finite number.

:data:`METRICS` is the one table of the names that mlops itself sends; everything that needs a
name, a unit or a description derives it from there: :func:`exposed` for Prometheus, :func:`tag` for
TensorBoard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mlops.errors import SeriesError

__all__ = [
    "METRICS",
    "Exposed",
    "Metric",
    "Series",
    "as_number",
    "check_dimensions",
    "check_name",
    "exposed",
    "mend_dimensions",
    "mend_name",
    "metric",
    "tag",
]

MAX_LENGTH: Final = 255
"""Characters in a name, a dimension's key or its value (monasca_common.validation)."""

_BAD_IN_DIMENSION: Final = '<>={},"\\;&|'
_BAD_IN_NAME: Final = _BAD_IN_DIMENSION + "():"
_UNSEEN: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_NAME_RULE: Final = re.compile(f"[{re.escape(_BAD_IN_NAME)}\\s{_UNSEEN}]")
_DIMENSION_RULE: Final = re.compile(f"[{re.escape(_BAD_IN_DIMENSION)}{_UNSEEN}]")
_KEY_RULE: Final = re.compile(f"[{re.escape(_BAD_IN_DIMENSION)}\\s{_UNSEEN}]")
_SHOWN: Final = 60
_NAME_STARTS: Final = ("_e", "_sc", "#")
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
class Series:
    """One line of a chart: a metric's name and the dimensions that tell it from its like.

    Attributes:
        name: the metric's name, for example ``gpu.power_watts``.
        dimensions: sorted pairs; sorted because the agent takes another order for another series.
    """

    name: str
    dimensions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, dimensions: Mapping[str, str] | None = None) -> Series:
        """The series of this name and these dimensions, in canonical order."""
        return cls(name, tuple(sorted((dimensions or {}).items())))

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.dimensions)
        return f"{self.name}{{{inside}}}" if inside else self.name


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
    Metric("train.epoch", "", "epochs completed so far"),
    Metric("train.epoch_seconds", "s", "duration of the epoch just completed, validation included"),
    Metric("train.epoch_energy_joules", "J", "energy that the meters counted during the epoch just completed"),
    Metric("train.epoch_loss", "", "mean training loss over the epoch"),
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
    Metric("gpu.ecc_errors", "", "uncorrected ECC errors since the driver loaded", counter=True),
    Metric("host.cpu_percent", "%", "share of all cores in use"),
    Metric("host.memory_used_bytes", "By", "memory in use on the host"),
    Metric("host.process_memory_bytes", "By", "resident memory of the training process and its children"),
    Metric("host.power_watts", "W", "power of the CPU packages, from RAPL"),
    Metric("host.energy_joules", "J", "energy of the CPU packages since recording began, from RAPL", counter=True),
    Metric("mlops.dropped_points", "", "points that could not be kept because the buffer was full", counter=True),
)

METRICS: Final[Mapping[str, Metric]] = {entry.name: entry for entry in _TABLE}
"""The names that mlops itself sends, by name."""


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


def mend_name(name: str) -> str:
    """The nearest metric name that every part of Monasca takes.

    Raises:
        SeriesError: nothing is left of it.
    """
    mended = _NAME_RULE.sub("_", name.strip()).strip()
    while mended.startswith(_NAME_STARTS):
        mended = mended[1:]
    mended = mended[:MAX_LENGTH]
    if not mended.strip("_"):
        raise SeriesError(
            f"Metric name {_show(name)} has no usable character", remedy="Give it a name like train.loss."
        )
    return mended


def check_name(name: object) -> str:
    """The name, if every part of Monasca takes it as it is.

    Raises:
        SeriesError: it does not; the message says which character and offers a mended name.
    """
    if not isinstance(name, str):
        raise SeriesError(
            f"A metric name must be a string, not {type(name).__name__}", remedy='Log {"train.loss": value}.'
        )
    fault = _fault_in_name(name)
    if fault is None:
        return name
    mended = mend_name(name)
    raise SeriesError(f"Metric name {_show(name)} {fault}", remedy=f"Use {mended!r}.", mended=mended)


def mend_dimensions(dimensions: Mapping[str, object]) -> dict[str, str]:
    """The nearest dimensions that every part of Monasca takes; entries of which nothing is left are gone."""
    mended: dict[str, str] = {}
    for key, value in dimensions.items():
        good_key = _mend_key(str(key))
        good_value = _DIMENSION_RULE.sub("_", _text(value)).strip()[:MAX_LENGTH]
        if good_key and good_value:
            mended[good_key] = good_value
    return mended


def check_dimensions(dimensions: Mapping[str, object], where: str = "dimensions") -> dict[str, str]:
    """The dimensions as strings, if every part of Monasca takes them.

    Numbers and booleans become their text, since Monasca takes strings only.

    Args:
        dimensions: keys and values.
        where: what the message calls them.

    Raises:
        SeriesError: one of them is refused; the message says which character and offers mended text.
    """
    checked: dict[str, str] = {}
    for key, value in dimensions.items():
        if not isinstance(key, str):
            raise SeriesError(
                f"{where}: the key {key!r} is a {type(key).__name__}", remedy="Dimension keys are strings."
            )
        if not isinstance(value, str | int | float):
            raise SeriesError(
                f"{where}: the value of {_show(key)} is {_a(value)}",
                remedy="Dimension values are strings; write out what you mean.",
            )
        text = _text(value)
        if fault := _fault_in_key(key):
            mended = _mend_key(key)
            raise SeriesError(
                f"{where}: the key {_show(key)} {fault}",
                remedy=f"Use {mended!r}." if mended else "Give it another name.",
                mended=mended or None,
            )
        if fault := _fault(text, _DIMENSION_RULE):
            mended = _DIMENSION_RULE.sub("_", text).strip()[:MAX_LENGTH]
            raise SeriesError(
                f"{where}: the value {_show(text)} of {key!r} {fault}",
                remedy=f"Use {mended!r}." if mended else "Leave the dimension out.",
                mended=mended or None,
            )
        checked[key] = text
    return checked


def as_number(value: object) -> float:
    """A loggable value as a float: numbers, numpy scalars, tensors and arrays of one element.

    Raises:
        TypeError: it is no number; the message says what it is and what to log instead.
        ValueError: it has more than one element.
    """
    if isinstance(value, str | bytes) or value is None:
        raise TypeError(f"a number is needed, not {'None' if value is None else f'the text {value!r:.60}'}")
    shape = getattr(value, "shape", None)
    if shape is not None and any(length != 1 for length in shape):
        kind = type(value).__name__
        raise ValueError(f"a {kind} of shape {tuple(shape)} has more than one element; log its .mean() or one element")
    item = getattr(value, "item", None)
    try:
        return float(item() if callable(item) else value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a number is needed, not a {type(value).__name__}") from None


def _fault_in_name(name: str) -> str | None:
    if name.startswith(_NAME_STARTS):
        start = next(start for start in _NAME_STARTS if name.startswith(start))
        return f"begins with {start!r}, which the agent takes for something else than a metric"
    return _fault(name, _NAME_RULE)


def _fault_in_key(key: str) -> str | None:
    if key == "time":
        return "is reserved: a dimension of that name kills the persister"
    if key.startswith("_"):
        return "begins with '_', which Monasca keeps for itself"
    return _fault(key, _KEY_RULE)


def _fault(text: str, rule: re.Pattern[str]) -> str | None:
    if not text.strip():
        return "is empty"
    if len(text) > MAX_LENGTH:
        return f"has {len(text)} characters; {MAX_LENGTH} are allowed"
    if found := rule.search(text):
        return f"contains {found.group()!r} at position {found.start() + 1}"
    return None


def _mend_key(key: str) -> str:
    mended = _KEY_RULE.sub("_", key.strip()).lstrip("_")[:MAX_LENGTH]
    return "time_" if mended == "time" else mended


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}…{text[-10:]}")


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
