"""For whoever trains: whether it learns, how fast, and what it costs."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard as Page
from grafana_foundation_sdk.models.dashboard import Dashboard

from k8s.dashboards.builder.pages import add_row, page
from k8s.dashboards.builder.panels import BAD, WARN, Level, Maker
from k8s.dashboards.builder.roads import CUSTOM, Curve, Road
from k8s.dashboards.builder.throttle import HOT, HOT_MEMORY, STATES

__all__ = ["NAME", "dashboard"]

NAME: Final = "training"
_GPU: Final = ("run", "uuid")
_OF_GPU: Final = "{run} {uuid}"
_HOST: Final = ("run", "hostname")
_OF_HOST: Final = "{run} {hostname}"
_METERS: Final = (*_HOST, "device", "method")


def dashboard(road: Road) -> Dashboard:
    """The dashboard of one training, or of several to compare."""
    made = page(
        road,
        NAME,
        "Training",
        "One training, or several to compare: loss, validation, speed, and what it costs in power and energy.",
        since="now-3h",
        refresh="30s",
        variables=[*road.scope, CUSTOM],
        scope=road.scope,
    )
    maker = Maker(road, road.scope)
    _now(made, maker)
    _learning(made, maker)
    _cost(made, maker)
    _gpus(made, maker)
    _host(made, maker)
    _trouble(made, maker)
    if road.name == "monasca":
        _summaries(made, maker)
    return made.build()


def _now(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Now",
        maker.now(
            "Smoothed loss",
            "The course behind the number should fall. No value at all: no batch has ended in this time range.",
            Curve("train.smooth_loss", "{run}"),
        ),
        maker.now(
            "Validation loss",
            "After the last epoch. Falling loss with a rising validation loss is overfitting.",
            Curve("valid.loss", "{run}"),
        ),
        maker.now(
            "Validation metric",
            "After the last epoch; which one is chosen at the top.",
            Curve("valid.*", "{run}"),
        ),
        maker.now(
            "Epochs",
            "Completed so far. Stands still for longer than Duration of an epoch: look at Silent for.",
            Curve("train.epoch", "{run}", fold="max"),
            decimals=0,
        ),
        maker.now(
            "Speed",
            "Training samples taken in per second. A drop without throttled GPUs: look at the data and the host.",
            Curve("train.samples_per_second", "{run}"),
        ),
        maker.now(
            "Power of a GPU",
            "Mean over the run's GPUs. Far below the power limit: the GPUs wait for something.",
            Curve("gpu.power_watts", "{run}"),
            empty="not metered",
        ),
        maker.now(
            "Silent for",
            "How long the training, which still runs, has logged nothing; – or 0 while it does log. Minutes are normal "
            "in a long validation, an hour is a hang.",
            Curve("mlops.silent_seconds", "{run}", fold="max"),
            levels=(Level(300, WARN), Level(1800, BAD)),
        ),
        maker.now(
            "Progress lost",
            "How much of what the loss has fallen since its first minute it has risen again. 0 is the best so far, "
            "100 % where it began. Orange from a quarter, red from a half.",
            Curve("train.progress_lost_percent", "{run}", fold="max"),
            levels=(Level(25, WARN), Level(50, BAD)),
        ),
    )


def _learning(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Learning",
        maker.lines(
            "Loss",
            "Of batches, smoothed, of the epoch, of the training, of the validation set. They should fall together; a "
            "validation loss that turns up while the others fall is overfitting, a loss that jumps is a learning "
            "rate too high.",
            Curve("train.loss", "{run} batches"),
            Curve("train.smooth_loss", "{run} smoothed"),
            Curve("train.epoch_loss", "{run} epoch", dashed=True),
            Curve("train.mean_loss", "{run} whole training", dashed=True),
            Curve("valid.loss", "{run} validation", dashed=True),
            width=12,
            from_zero=False,
        ),
        maker.lines(
            "Validation metric",
            "Once an epoch; which one is chosen at the top. Flat for many epochs: training on costs energy only.",
            Curve("valid.*", "{run}"),
            width=12,
            style="points",
            from_zero=False,
        ),
        maker.lines(
            "Learning rate",
            "Of the last parameter group: the schedule as it was really run.",
            Curve("train.lr", "{run}"),
            unit="sci",
        ),
        maker.lines(
            "Norm of the gradients",
            "Where the framework tells it. A jump goes before a loss that explodes; towards zero, nothing is learnt.",
            Curve("train.grad_norm", "{run}"),
            unit="sci",
        ),
        maker.lines(
            "Speed",
            "Training samples taken in per second. Steps down that last: throttled GPUs, or data that come too late.",
            Curve("train.samples_per_second", "{run}"),
        ),
        maker.lines(
            "Duration of an epoch",
            "Validation included. Epochs that take ever longer: look at memory and data.",
            Curve("train.epoch_seconds", "{run}"),
            style="points",
        ),
        maker.lines(
            "A batch and its data",
            "What a batch waits for its data, and what is then spent on it. Waiting that is not far below the work: "
            "more workers for the loader, or faster storage.",
            Curve("train.data_wait_seconds", "{run} waits for data"),
            Curve("train.batch_seconds", "{run} works", dashed=True),
        ),
    )


def _cost(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "What it costs",
        maker.lines(
            "Validation metric against power",
            "What the power buys: the metric on the left, the mean power of the run's GPUs and their limit on the "
            "right. The same metric at less power is a better setting; a flat metric at full power: time to stop.",
            Curve("valid.*", "{run} metric"),
            Curve("gpu.power_watts", "{run} power"),
            Curve("gpu.power_limit_watts", "{run} power limit", fold="last", dashed=True),
            width=24,
        ),
        maker.lines(
            "Energy of the GPUs so far",
            "Since recording began, stacked, so that the upper edge is the run's. The steeper, the more power. "
            "Of MIG instances there is none: the meter is the board's.",
            Curve("gpu.energy_joules", _OF_GPU, _GPU, fold="last"),
            style="stacked",
        ),
        maker.lines(
            "Energy of the CPUs so far",
            "Since recording began, from RAPL, stacked by package. Only where the kernel lets it be read.",
            Curve("host.energy_joules", "{run} {hostname} {package}", (*_HOST, "package"), fold="last"),
            style="stacked",
        ),
        maker.lines(
            "Energy of each epoch",
            "By host, and by what was metered and how, stacked, so that the upper edge is the run's. As much energy "
            "as ever for ever less gain: think of stopping early.",
            Curve("train.epoch_energy_joules", "{run} {hostname} {device}, {method}", _METERS, fold="sum"),
            style="bars",
        ),
    )


def _gpus(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "GPUs",
        maker.lines(
            "Power",
            "Of each board, averaged over a second where the GPU does so, and the limit in force (dashed).",
            Curve("gpu.power_watts", _OF_GPU, _GPU),
            Curve("gpu.power_limit_watts", f"{_OF_GPU} limit", _GPU, fold="last", dashed=True),
        ),
        maker.lines(
            "Utilisation",
            "Share of time in which a kernel ran; not how much of the GPU it used. One GPU lower than the others: "
            "the others wait for it, or it for its data.",
            Curve("gpu.utilisation_percent", _OF_GPU, _GPU),
        ),
        maker.lines(
            "Use of the memory's bandwidth",
            "Share of time in which device memory was read or written. High with low power: bound by memory.",
            Curve("gpu.memory_utilisation_percent", _OF_GPU, _GPU),
        ),
        maker.lines(
            "Memory of the GPUs",
            "In use, and installed (dashed). Up to the line is the room for a larger batch.",
            Curve("gpu.memory_used_bytes", _OF_GPU, _GPU, fold="max"),
            Curve("gpu.memory_total_bytes", f"{_OF_GPU} installed", _GPU, fold="last", dashed=True),
        ),
        maker.lines(
            "Temperature",
            "Orange from 80 °C, red from 87 °C, where data-centre GPUs are about to slow down.",
            Curve("gpu.temperature_celsius", _OF_GPU, _GPU, fold="max"),
            levels=HOT,
        ),
        maker.lines(
            "Temperature of the memory",
            "Orange from 85 °C, red from 95 °C. Where the GPU tells it.",
            Curve("gpu.memory_temperature_celsius", _OF_GPU, _GPU, fold="max"),
            levels=HOT_MEMORY,
        ),
        maker.states(
            "Why the clocks are not higher",
            "The gravest reason in each stretch of time. At the power limit is a busy GPU; hot, hardware slowdown and "
            "power brake cost speed and are for whoever looks after the node.",
            Curve("gpu.throttle_reasons", _OF_GPU, _GPU, fold="max"),
            STATES,
        ),
    )


def _host(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Host",
        maker.lines(
            "CPU",
            "Of all cores of the host, whoever uses them. Full, with GPUs that wait: the data loader is too slow.",
            Curve("host.cpu_percent", _OF_HOST, _HOST),
        ),
        maker.lines(
            "Memory of the host",
            "Of the whole host, and of the training with its children. Ever rising: it leaks, and will be killed.",
            Curve("host.memory_used_bytes", f"{_OF_HOST} all", _HOST, fold="max"),
            Curve("host.process_memory_bytes", f"{_OF_HOST} training", _HOST, fold="max"),
        ),
        maker.lines(
            "Power of the CPUs",
            "From RAPL, by package. Only where the kernel lets it be read.",
            Curve("host.power_watts", "{run} {hostname} {package}", (*_HOST, "package")),
        ),
    )


def _trouble(made: Page, maker: Maker) -> None:
    add_row(
        made,
        "Signs of trouble",
        maker.lines(
            "Values that were nan or infinite",
            "So far, by metric; empty is good. From the first one on the loss is usually lost: go back to a checkpoint "
            "before it, with a lower learning rate or without half precision.",
            Curve("mlops.not_finite_points", "{run} {metric}", ("run", "metric"), fold="last"),
        ),
        maker.lines(
            "Silence",
            "How long the training, which still runs, has logged nothing; empty is good.",
            Curve("mlops.silent_seconds", _OF_HOST, _HOST, fold="max"),
            levels=(Level(300, WARN), Level(1800, BAD)),
        ),
        maker.lines(
            "Progress lost",
            "How much of what the loss has fallen it has risen again, once a minute. Back to 0 is a spike that healed.",
            Curve("train.progress_lost_percent", "{run}", fold="max"),
            levels=(Level(25, WARN), Level(50, BAD)),
        ),
        closed=True,
    )


def _summaries(made: Page, maker: Maker) -> None:
    power = "gpu.power_watts"
    add_row(
        made,
        "Between two values of the agent (only runs with the sink statsd)",
        maker.lines(
            "Loss within each summary",
            "The agent keeps one value in 20 s; the summaries tell what lay between. A wide band is a noisy loss.",
            Curve("train.loss", "{run} mean", summary="mean"),
            Curve("train.loss", "{run} lowest", fold="min", summary="min"),
            Curve("train.loss", "{run} highest", fold="max", summary="max"),
            from_zero=False,
        ),
        maker.lines(
            "Power within each summary",
            "The highest second is what fuses and power limits see, the mean is what it costs.",
            Curve(power, f"{_OF_GPU} mean", _GPU, summary="mean"),
            Curve(power, f"{_OF_GPU} highest", _GPU, fold="max", summary="max"),
        ),
        maker.lines(
            "Batches in each summary",
            "How many losses each summary stands for. 0 never comes: a line that ends is a training that stands still.",
            Curve("train.loss", "{run}", fold="max", summary="count"),
        ),
        closed=True,
    )
