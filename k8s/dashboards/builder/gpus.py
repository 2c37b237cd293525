"""For whoever is on call for the GPU nodes: what is held, idle, hot, slowed down or broken, and by whose run."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard as Page
from grafana_foundation_sdk.models.dashboard import Dashboard

from k8s.dashboards.builder import training
from k8s.dashboards.builder.pages import add_row, page
from k8s.dashboards.builder.panels import BAD, PLAIN, WARN, Level, Maker
from k8s.dashboards.builder.prometheus import DCGM
from k8s.dashboards.builder.roads import UUID, Curve, Fold, Road
from k8s.dashboards.builder.throttle import HOT, HOT_MEMORY, STATES
from mlops.series import METRICS

__all__ = ["NAME", "dashboard"]

NAME: Final = "gpus"
IDLE: Final = 5
"""Per cent of the time, on average over :data:`LATELY`, below which a GPU counts as idle."""
LATELY: Final = "15m"
NOW: Final = "5m"
_LINES: Final = ("run", "hostname", "uuid")
_LEGEND: Final = "{hostname} {uuid} {run}"
_NODE: Final = ("hostname", "uuid")
_OF_NODE: Final = "{hostname} {uuid}"


def dashboard(road: Road) -> Dashboard:
    """The dashboard of all nodes, and of one GPU."""
    made = page(
        road,
        NAME,
        "GPUs",
        "All GPUs that runs hold, on all nodes; and one GPU, as its run and as its host see it.",
        since="now-6h",
        refresh="1m",
        variables=[*road.nodes, UUID],
        scope=road.nodes,
    )
    maker = Maker(road, road.nodes)
    _now(made, maker)
    _idle(made, maker)
    _health(made, maker)
    _hosts(made, maker, road)
    _one(made, Maker(road, [UUID]), road)
    _details(made, maker)
    return made.build()


def _now(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Now",
        maker.total(
            "GPUs held",
            "GPUs and MIG instances that a run has reported in the last five minutes.",
            Curve("gpu.memory_used_bytes", _LEGEND, _LINES),
            of_last=NOW,
            calc="count",
        ),
        maker.total(
            "Held and idle",
            f"Held by a run, and less than {IDLE} % of the last quarter of an hour at work. Who holds them is in the "
            "table below; ask them.",
            Curve("gpu.utilisation_percent", _LEGEND, _LINES),
            of_last=LATELY,
            calc="count",
            below=IDLE,
            levels=(Level(1, WARN),),
        ),
        maker.total(
            "Power of all",
            "Of all GPUs that runs hold, on average over the last five minutes.",
            Curve("gpu.power_watts", _LEGEND, _LINES),
            of_last=NOW,
            calc="sum",
        ),
        maker.total(
            "Slowed down",
            "By heat or by their power supply, in the last five minutes. Each is a fault of the node, not of the run.",
            Curve("gpu.throttled", _LEGEND, _LINES, fold="max"),
            of_last=NOW,
            calc="count",
            above=0,
            levels=(Level(1, BAD),),
        ),
        maker.total(
            "With memory errors",
            "GPUs with uncorrected ECC errors since the driver was loaded. Drain the node; reset or replace them.",
            Curve("gpu.ecc_errors", _LEGEND, _LINES, fold="last"),
            of_last=NOW,
            calc="count",
            above=0,
            levels=(Level(1, BAD),),
        ),
        maker.total(
            "Hottest",
            "Of all GPUs, as a mean over the last five minutes. Orange from 80 °C, red from 87 °C.",
            Curve("gpu.temperature_celsius", _LEGEND, _LINES, fold="max"),
            of_last=NOW,
            calc="max",
            levels=HOT,
        ),
    )


def _idle(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Who holds what",
        maker.ranking(
            "Held GPUs, the idlest first",
            f"Utilisation over the last quarter of an hour. Below {IDLE} % a GPU does nothing for its run; a run that "
            "has just begun loads its data first.",
            Curve("gpu.utilisation_percent", _LEGEND, _LINES),
            of_last=LATELY,
            levels=(Level(0, WARN), Level(IDLE, PLAIN)),
        ),
        maker.lines(
            "Power",
            "Of each GPU, stacked, so that the upper edge is what all runs draw.",
            Curve("gpu.power_watts", _LEGEND, _LINES),
            width=12,
            style="stacked",
            link=training.NAME,
        ),
        maker.lines(
            "Utilisation",
            "Share of time in which a kernel ran. A line along the bottom is a GPU that is held and idle.",
            Curve("gpu.utilisation_percent", _LEGEND, _LINES),
            width=12,
            link=training.NAME,
        ),
        maker.lines(
            "Memory",
            "In use. A GPU with much memory in use and no utilisation is often a notebook that was left open.",
            Curve("gpu.memory_used_bytes", _LEGEND, _LINES, fold="max"),
            width=12,
            link=training.NAME,
        ),
    )


def _health(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Health",
        maker.lines(
            "Temperature",
            "Orange from 80 °C, red from 87 °C. One GPU hotter than its like: its cooling; a whole node: its air.",
            Curve("gpu.temperature_celsius", _LEGEND, _LINES, fold="max"),
            levels=HOT,
            link=training.NAME,
        ),
        maker.lines(
            "Temperature of the memory",
            "Orange from 85 °C, red from 95 °C. Where the GPU tells it.",
            Curve("gpu.memory_temperature_celsius", _LEGEND, _LINES, fold="max"),
            levels=HOT_MEMORY,
            link=training.NAME,
        ),
        maker.lines(
            "Uncorrected memory errors",
            "Since the driver was loaded. Any step up has cost a run its result: drain the node.",
            Curve("gpu.ecc_errors", _LEGEND, _LINES, fold="last"),
            link=training.NAME,
        ),
        maker.states(
            "Why the clocks are not higher",
            "The gravest reason in each stretch of time. Idle and at the power limit are normal; hot, hardware "
            "slowdown and power brake are faults of cooling or supply.",
            Curve("gpu.throttle_reasons", _LEGEND, _LINES, fold="max"),
            STATES,
        ),
    )


def _hosts(made: Page, maker: Maker, road: Road) -> None:
    add_row(
        made,
        "As the hosts' own agents see all their GPUs, held or not",
        maker.lines(
            "Utilisation, from the hosts",
            f"From {_whose(road)}. At work here, but not among the held ones: a program that records no run.",
            Curve("gpu.utilisation_percent", _OF_NODE, _NODE, from_host=True),
        ),
        maker.lines(
            "Power, from the hosts",
            f"From {_whose(road)}, stacked: what all GPUs draw, with those that nobody holds.",
            Curve("gpu.power_watts", _OF_NODE, _NODE, from_host=True),
            style="stacked",
        ),
        maker.lines(
            "Temperature, from the hosts",
            f"From {_whose(road)}. Hot without a run: its neighbours, or the air.",
            Curve("gpu.temperature_celsius", _OF_NODE, _NODE, fold="max", from_host=True),
            levels=HOT,
        ),
        closed=True,
    )


def _one(made: Page, maker: Maker, road: Road) -> None:
    """Series of the job and of the host, joined by the GPU's UUID."""
    panels = []
    for name, title in (
        ("gpu.utilisation_percent", "Utilisation of $uuid"),
        ("gpu.power_watts", "Power of $uuid"),
        ("gpu.temperature_celsius", "Temperature of $uuid"),
        ("gpu.memory_used_bytes", "Memory of $uuid"),
    ):
        fold: Fold = "max" if METRICS[name].unit in {"Cel", "By"} else "mean"
        curves = [Curve(name, "run {run}", ("run",), fold=fold)]
        if road.name == "monasca" or name in DCGM:
            curves.append(Curve(name, "host {hostname}", ("hostname",), fold=fold, from_host=True, dashed=True))
        panels.append(
            maker.lines(
                title,
                f"As runs recorded it, and as {_whose(road)} did (dashed), joined by the GPU's UUID. They should agree "
                "while a run holds the GPU; the dashed line alone is the time between runs.",
                *curves,
                width=12,
            )
        )
    add_row(made, "One GPU: $uuid", *panels)


def _details(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Details",
        maker.lines(
            "Clock of the processors",
            "Steps down together with heat or the power limit are throttling; one lower than its like is a setting.",
            Curve("gpu.sm_clock_hertz", _LEGEND, _LINES),
        ),
        maker.lines(
            "Clock of the memory",
            "Constant while a kernel runs.",
            Curve("gpu.memory_clock_hertz", _LEGEND, _LINES),
        ),
        maker.lines(
            "Use of the memory's bandwidth",
            "Share of time in which device memory was read or written.",
            Curve("gpu.memory_utilisation_percent", _LEGEND, _LINES),
        ),
        maker.lines(
            "Power limits",
            "One lower than its like: somebody has set it, or the supply is short.",
            Curve("gpu.power_limit_watts", _LEGEND, _LINES, fold="last"),
        ),
        maker.lines(
            "CPU of the nodes",
            "As their runs recorded it; of all cores.",
            Curve("host.cpu_percent", "{hostname}", ("hostname",)),
        ),
        maker.lines(
            "Memory of the nodes",
            "As their runs recorded it.",
            Curve("host.memory_used_bytes", "{hostname}", ("hostname",), fold="max"),
        ),
        closed=True,
    )


def _whose(road: Road) -> str:
    return "the agent's nvidia plugin" if road.name == "monasca" else "NVIDIA's DCGM exporter"
