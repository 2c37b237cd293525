"""A whole training, from the digits to what a real monasca-agent posts to its cloud."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.record import Record, read_run
from mlops.series import METRICS
from mlops.store import RunFolder
from tests.testbed.agent import HOSTNAME, Agent
from tests.testbed.cloud import Measurement

pytestmark = [pytest.mark.slow, pytest.mark.torch]

EPOCHS = 12
PER_BATCH = {"train.loss", "train.smooth_loss", "train.lr"}
PER_EPOCH = {"valid.loss", "valid.accuracy", "train.epoch", "train.epoch_seconds", "train.epoch_loss"}
NOW_AND_THEN = {"train.samples_per_second"}
SLACK = 0.5
"""Seconds that the agent's interval may last longer on a busy machine."""
SUFFIXES = ("", ".mean", ".min", ".max", ".count")


@pytest.fixture
def learner() -> Any:
    """scikit-learn's digits, 1797 real images of 8x8, and a small convolutional network."""
    import fastai.callback.schedule  # noqa: F401 - it teaches Learner to fit_one_cycle
    import torch
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.metrics import accuracy
    from sklearn.datasets import load_digits
    from torch import nn

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    items = list(zip(images, torch.tensor(digits.target), strict=True))
    order = np.random.default_rng(0).permutation(len(items))
    train, valid = ([items[place] for place in part] for part in (order[:1437], order[1437:]))
    loaders = [DataLoader(train, bs=64, shuffle=True), DataLoader(valid, bs=64)]
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    made = Learner(
        DataLoaders(*loaders, device=torch.device("cpu")),
        network,
        loss_func=CrossEntropyLossFlat(),
        metrics=accuracy,
    )
    made.logger = lambda _: None
    return made


def test_a_digits_training_arrives_in_the_cloud(
    agent: Agent, learner: Any, runs_dir: Path, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """Every series that was recorded arrives under its name, with the run's dimensions and its last value."""
    from mlops.callbacks.fastai import MonascaCallback

    callback = MonascaCallback(
        "digits",
        dimensions={"team": "vision"},
        sinks=[f"{agent.url}?interval=1.1"],
        devices=["host"],
        runs_dir=runs_dir,
    )
    learner.fit_one_cycle(EPOCHS, 0.01, cbs=callback)
    assert callback.run_dir is not None
    record = read_run(RunFolder(callback.run_dir))
    assert record.info.outcome == "finished"
    lasts = {series.name: columns.value[-1] for series, columns in _series(record)}
    assert set(lasts) >= PER_BATCH | PER_EPOCH | NOW_AND_THEN | {"host.cpu_percent", "host.process_memory_bytes"}
    assert set(lasts) <= set(METRICS) | {"valid.accuracy"}
    assert lasts["valid.accuracy"] >= 0.96
    assert lasts["train.epoch"] == EPOCHS

    def has_arrived() -> bool:
        read = {line.name: line.value for _, line in agent.tap.timed_lines() if line.dimensions["run"] == "digits"}
        posted = {one.name: one.value for one in agent.cloud.measurements(run="digits")}
        return posted == read and all(posted.get(name) == last for name, last in lasts.items())

    wait_until(has_arrived)
    arrived = agent.cloud.measurements(run="digits")
    for one in arrived:
        assert one.dimensions.pop("hostname") == HOSTNAME
        assert one.dimensions == {"run": "digits", "team": "vision"}
        assert record.info.started * 1000 <= one.timestamp <= one.arrived * 1000
    assert {one.name for one in arrived} == {name + suffix for name in lasts for suffix in SUFFIXES}
    _check_values(record, arrived)
    _check_that_nothing_is_missing(agent, arrived)


def _series(record: Record) -> list[tuple[Any, Any]]:
    return [found for name in record.names() for found in record.find(name)]


def _check_values(record: Record, arrived: list[Measurement]) -> None:
    """The end of each series is there, and nothing that was not logged."""
    values = defaultdict(list)
    for one in arrived:
        values[one.name].append(one.value)
    for series, columns in _series(record):
        logged = columns.value
        assert values[series.name][-1] == logged[-1]
        assert set(values[series.name]) <= set(logged.tolist())
        for suffix in (".min", ".max"):
            assert set(values[series.name + suffix]) <= set(logged.tolist())
        assert logged.min() <= min(values[f"{series.name}.mean"]) <= max(values[f"{series.name}.mean"]) <= logged.max()
        counts = values[f"{series.name}.count"]
        told_twice = counts[-2] if len(counts) > 1 else 0  # the last summary may tell of the one before it too
        assert 1 <= sum(counts) - told_twice <= len(logged)


def _check_that_nothing_is_missing(agent: Agent, arrived: list[Measurement]) -> None:
    """Of what the daemon read, each value arrived, or its series had another one in the same second of the agent's."""
    read = defaultdict(list)
    for came, line in agent.tap.timed_lines():
        if line.dimensions["run"] == "digits":
            read[line.name].append((came, line.value))
    kept = {(one.name, one.value, round(one.timestamp / 1000)) for one in arrived}
    assert {one.name for one in arrived} == set(read)
    for name, values in read.items():
        for (came, value), following in itertools.zip_longest(values, values[1:]):
            if any((name, value, round(came) + off) in kept for off in (-1, 0, 1)):
                continue
            assert following is not None, f"the end of {name} is missing"
            assert following[0] - came < agent.interval + SLACK, f"{name} of {came} is missing"
