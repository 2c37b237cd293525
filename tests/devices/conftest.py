"""What tests of devices share: a made-up GPU node behind the real nvidia-ml-py, and a clock that they turn."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests.devices.powercap import Powercap
from tests.devices.stub import Node


class Clock:
    """A monotonic clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def go(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """A clock that the test turns."""
    return Clock()


@pytest.fixture(autouse=True)
def no_gpu_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the machine says of its GPUs reaches a test."""
    for name in ("CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "STUB_NVML"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Node]:
    """A node with one GPU, which nvidia-ml-py finds; at the end nobody may have left NVML open."""
    made = Node(tmp_path / "node.txt")
    monkeypatch.setenv("STUB_NVML", str(made.path))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(made.library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield made
    assert made.users == 0, "a device left NVML open"


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    """A made-up folder of RAPL's counters, empty at first."""
    return Powercap(tmp_path / "powercap")


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without NVIDIA's driver, whatever this one has."""

    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(pynvml, "CDLL", refuse)
