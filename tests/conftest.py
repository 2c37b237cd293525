"""What every test starts from: no settings of the machine's, a folder of its own for runs."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops import run as run_module

pytest_plugins = ["tests.testbed.fixtures"]

collect_ignore = [] if importlib.util.find_spec("torch") else ["test_tensors.py"]
"""Where torch is not installed, as on the other Pythons, what is about its tensors is not collected."""

DEADLINE = 30.0
"""Seconds after which a condition that a test waits for counts as never coming."""


def pytest_configure() -> None:
    """Hear signals, and let children hear them: nohup and shells in the background have some ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def untouched_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No MLOPS_* variable, no mlops.toml of the user's, no rank of a launcher's reaches a test."""
    for name in list(os.environ):
        if name.startswith("MLOPS_") or name in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Where runs go that cannot go elsewhere:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("elsewhere")))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_run_left_open() -> Iterator[None]:
    """A test that leaves a run open has forgotten something; the next one must not log into it."""
    yield
    left = run_module.current_run()
    while (still := run_module.current_run()) is not None:
        still.close()
    assert left is None, f"{left!r} was left open"


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """A folder for runs; not made yet."""
    return tmp_path / "runs"


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition, and fail when it has not come true by a deadline."""

    def wait(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
        until = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < until, "the condition never came true"
            time.sleep(0.005)

    return wait
