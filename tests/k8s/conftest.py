"""What tests of dashboards share: the committed files, and a run that records everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops.sinks.memory import MemorySink
from tests.devices.conftest import node, powercap  # noqa: F401 - fixtures of the devices' tests
from tests.devices.powercap import Powercap
from tests.devices.stub import Node
from tests.k8s import sample


@pytest.fixture
def trace(tmp_path: Path, node: Node, powercap: Powercap) -> Path:  # noqa: F811 - as fixtures are asked for
    """Everything that a node with two GPUs and RAPL shows, to be played back."""
    return sample.write_trace(tmp_path / "trace.csv", node, powercap)


@pytest.fixture
def sent(trace: Path, runs_dir: Path) -> dict[str, set[str]]:
    """The metrics that a run sends, each with the dimensions that its series have of their own."""
    memory = MemorySink()
    with sample.running(trace, runs_dir, [memory]):
        pass
    return sample.own_dimensions(memory.points)
