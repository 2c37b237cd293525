"""SIGTERM, and whose it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlops
from mlops.record import read_run
from mlops.store import RunFolder

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def without_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no test of this process had imported it: it has a handler of its own."""
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)


TRAINING = """
import sys, time
import mlops
run = mlops.Run("training", sinks=[], devices=[], runs_dir=sys.argv[1])
for number in range(100):
    run.log({"a": float(number)})
BEFORE
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def terminated(runs_dir: Path, before: str = "") -> tuple[int, dict[str, Any], int]:
    """How a training ended that was sent SIGTERM, what its run.json says, and how many points there are."""
    code = TRAINING.replace("BEFORE", textwrap.dedent(before))
    process = subprocess.Popen([sys.executable, "-c", code, str(runs_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        status = process.wait(30)
    (folder,) = runs_dir.iterdir()
    return status, json.loads((folder / "run.json").read_text()), len(read_run(RunFolder(folder)).columns)


def test_a_run_that_sigterm_ends_says_so(runs_dir: Path) -> None:
    """The process ends by the signal, as without us; the run is closed before, and has all its points."""
    status, info, points = terminated(runs_dir)
    assert status == -signal.SIGTERM
    assert (info["outcome"], info["reason"]) == ("interrupted", "SIGTERM")
    assert points == 100


def test_a_handler_of_the_trainings_own_is_left_alone(runs_dir: Path) -> None:
    """Set before the run or while it is open, it is called, and decides."""
    handler = """
    import os, signal
    signal.signal(signal.SIGTERM, lambda *_: (run.close("cancelled", "preempted"), os._exit(7)))
    """
    status, info, points = terminated(runs_dir, handler)
    assert status == 7
    assert (info["outcome"], info["reason"], points) == ("cancelled", "preempted", 100)


def test_a_closed_run_leaves_sigterm_as_it_was(runs_dir: Path) -> None:
    """Nothing of ours stays behind, and with the last of several runs only."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with mlops.Run("one", sinks=[], devices=[], runs_dir=runs_dir):
        with mlops.Run("two", sinks=[], devices=[], runs_dir=runs_dir):
            assert callable(signal.getsignal(signal.SIGTERM))
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.fixture
def handled() -> Iterator[Callable[..., None]]:
    """A handler that somebody set for SIGTERM."""

    def own(*_: object) -> None:
        """Somebody's."""

    before = signal.signal(signal.SIGTERM, own)
    yield own
    signal.signal(signal.SIGTERM, before)


def test_a_handler_that_was_there_first_stays(runs_dir: Path, handled: Callable[..., None]) -> None:
    """A run neither replaces nor removes it."""
    with mlops.Run("one", sinks=[], devices=[], runs_dir=runs_dir):
        assert signal.getsignal(signal.SIGTERM) is handled
    assert signal.getsignal(signal.SIGTERM) is handled


def test_lightnings_handler_finds_its_place_free(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Lightning is imported it handles SIGTERM itself, if nobody else does."""
    monkeypatch.setitem(sys.modules, "lightning", sys)
    with mlops.Run("one", sinks=[], devices=[], runs_dir=runs_dir):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_forked_child_ends_by_sigterm_and_ends_no_run(runs_dir: Path) -> None:
    """A worker that its parent terminates is gone at once; the parent's run goes on."""
    with mlops.Run("one", sinks=[], devices=[], runs_dir=runs_dir) as run:
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert run.is_open
        run.log({"a": 1.0})
    assert read_run(RunFolder(run.dir)).info.outcome == "finished"
