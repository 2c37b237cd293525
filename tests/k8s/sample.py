"""A run that records everything that the library can record, on a made-up node."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import mlops
from mlops.devices.host import HostDevice
from mlops.devices.nvidia import NvidiaDevice
from mlops.series import METRICS, Series
from mlops.sinks import Point, Sink
from tests.devices.powercap import Powercap
from tests.devices.stub import Node
from tests.testbed.processes import wait_for

__all__ = ["METRIC", "NAME", "log", "own_dimensions", "running", "write_trace"]

NAME = "digits"
METRIC = "accuracy"
"""What the validation metric is called."""


def write_trace(path: Path, node: Node, powercap: Powercap) -> Path:
    """What the real devices read on the made-up node, as a trace to be played back."""
    node.has(gpus=2)
    powercap.zone("intel-rapl:0", "package-0", 1_000_000)
    read: dict[Series, float] = {}
    with (
        contextlib.closing(NvidiaDevice(environ={})) as gpus,
        contextlib.closing(HostDevice(powercap=powercap.root)) as host,
    ):
        powercap.zone("intel-rapl:0", "package-0", 900_000_000)

        def has_read() -> bool:
            """CPU use and power are means over a while."""
            read.update([*gpus.sample(), *host.sample()])
            return {"host.cpu_percent", "host.power_watts"} <= {series.name for series in read}

        wait_for(has_read, 30, "CPU use and power of the host")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("# mlops trace 1\n")
        rows = csv.writer(file)
        rows.writerow(("seconds", "name", "value", "dimensions"))
        for series, value in read.items():
            rows.writerow((0.0, series.name, value, ";".join(f"{key}={text}" for key, text in series.dimensions)))
    return path


@contextlib.contextmanager
def running(trace: Path, runs_dir: Path, sinks: Sequence[str | Sink], name: str = NAME) -> Iterator[mlops.Run]:
    """The run, while it is open; everything has been logged once, and :func:`log` logs it again."""
    with mlops.Run(name, devices=[f"replay:{trace}"], sinks=sinks, runs_dir=runs_dir) as run:
        log(run)
        yield run


def log(run: mlops.Run) -> None:
    """What callbacks log in an epoch; of what the library tells by itself, what would take a minute to come."""
    run.log({name: 0.5 for name in METRICS if name.startswith("train.") and not name.startswith("train.epoch")})
    run.log({"train.loss": math.nan})
    run.log({"mlops.silent_seconds": 61.0})
    run.end_epoch({"train.epoch_loss": 0.4, "valid.loss": 0.3, f"valid.{METRIC}": 0.9}, seconds=3.0)


def own_dimensions(points: Iterable[Point]) -> dict[str, set[str]]:
    """The metrics that were recorded, each with the dimensions that its series have of their own."""
    found: dict[str, set[str]] = {}
    for point in points:
        found.setdefault(point.name, set()).update(point.dimensions)
    return found
