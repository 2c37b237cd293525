"""SIGTERM, and whose it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
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


IN_C = """
import ctypes
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
print("ready", flush=True)
libc.pthread_mutex_lock(mutex)
"""


def test_a_training_that_waits_in_c_ends_all_the_same(runs_dir: Path) -> None:
    """As one that waits for another rank or for a GPU, where no Python handler is ever run."""
    status, info, points = terminated(runs_dir, IN_C)
    assert status == -signal.SIGTERM
    assert (info["outcome"], info["reason"], points) == ("interrupted", "SIGTERM", 100)


SLOW = """
import signal, sys, time
import mlops

class Slow(mlops.sinks.Sink):
    def write(self, points): pass
    def close(self, timeout): time.sleep(0.3)

with mlops.Run("training", sinks=[Slow()], devices=["host"], runs_dir=sys.argv[1]) as run:
    for number in range(100):
        run.log({"a": float(number)})
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.05, 0.2])
@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (signal.SIGTERM, signal.SIGTERM, "SIGTERM"),
        (signal.SIGTERM, signal.SIGINT, "SIGTERM"),
        (signal.SIGINT, signal.SIGINT, "KeyboardInterrupt"),
        (signal.SIGINT, signal.SIGTERM, "KeyboardInterrupt"),
    ],
)
def test_a_second_signal_waits_until_the_run_is_closed(
    runs_dir: Path, first: signal.Signals, second: signal.Signals, reason: str, pause: float
) -> None:
    """Schedulers signal a process and its group, people press Ctrl-C twice: how it ended is said all the same."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(runs_dir)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        time.sleep(pause)  # what is tried
        process.send_signal(second)
        assert process.wait(30) != 0
    (folder,) = runs_dir.iterdir()
    record = read_run(RunFolder(folder))
    assert record.info.outcome == "interrupted"
    if pause > 0.1 or first == second:  # sooner, either may be met first: a busy process sees both at once
        assert record.info.reason == reason
    ((_, columns),) = record.find("a")
    assert columns.value.tolist() == [float(number) for number in range(100)]
    assert not list(folder.glob("*.ring"))


def test_a_child_does_not_wake_its_parent(runs_dir: Path) -> None:
    """SIGTERM to a forked child that handles it is none of the parent's, whose run goes on."""
    with mlops.Run("parent", sinks=[], devices=[], runs_dir=runs_dir) as run:
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
            os.write(told, b"x")
            while True:
                time.sleep(0.01)
        os.read(ready, 1)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        os.close(ready)
        os.close(told)
        time.sleep(2.5)  # longer than the main thread would be given
        assert run.is_open


def test_an_event_loop_that_is_woken_by_signals_stays_so(runs_dir: Path) -> None:
    """And one that comes while a run is open keeps its place; without one, nothing of ours is left."""
    _, theirs = ends = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs)
    with mlops.Run("one", sinks=[], devices=[], runs_dir=runs_dir):
        pass
    assert signal.set_wakeup_fd(-1) == theirs
    with mlops.Run("two", sinks=[], devices=[], runs_dir=runs_dir):
        signal.set_wakeup_fd(theirs)
    assert signal.set_wakeup_fd(-1) == theirs
    for end in ends:
        os.close(end)
    with mlops.Run("three", sinks=[], devices=[], runs_dir=runs_dir):
        pass
    assert signal.set_wakeup_fd(-1) == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "mlops-sigterm"]


LAPS = """
import signal, sys, time
import mlops
run = mlops.Run("laps", sinks=[], devices=["host"], runs_dir=sys.argv[1])
signal.signal(signal.SIGUSR1, lambda *_: (run.close("cancelled", "handler"), sys.exit(0)))
print("ready", flush=True)
number = 0
while True:
    number += 1
    with run.epoch() as epoch:
        run.log({f"new.{number}": 1.0, "a": float(number)})
    run.note(number=number)
"""


@pytest.mark.parametrize("pause", [0.003, 0.01, 0.03, 0.07, 0.15, 0.3])
def test_a_handler_that_closes_the_run_hangs_nowhere(runs_dir: Path, pause: float) -> None:
    """Whatever of ours it interrupts: a new series, a note, the end of an epoch; and its word is the last."""
    process = subprocess.Popen([sys.executable, "-c", LAPS, str(runs_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with process.stdout:
            assert process.stdout.readline() == "ready\n"
            time.sleep(pause)  # what is tried
            process.send_signal(signal.SIGUSR1)
            assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    (folder,) = runs_dir.iterdir()
    info = json.loads((folder / "run.json").read_text())
    assert (info["outcome"], info["reason"]) == ("cancelled", "handler")


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
