"""Processes start ready or not at all, and stop whatever they do about it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.testbed.environments import ROOT, TestbedError
from tests.testbed.processes import Process, free_port, wait_for

Wait = Callable[[Callable[[], object]], None]

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    open(sys.argv[1], "w").write(f"{os.getpid()} {child}")
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and waits to be noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stubborn(folder: Path) -> tuple[Process, Path]:
    """A process that does not heed SIGTERM and has a child that does not either."""
    pids = folder / "pids"
    command = [sys.executable, "-c", STUBBORN, str(pids)]

    def is_ready() -> bool:
        return pids.exists() and pids.read_text() != ""

    return Process("stubborn", command, folder / "log", is_ready, grace=0.05), pids


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel ends it with a thread, which is not the caller's: an outage made by a thread ends when it says."""
    process, _ = stubborn(tmp_path)
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    try:
        with pytest.raises(TestbedError, match="still not: it has ended"):
            wait_for(lambda: process.pid is None, 0.3, "it has ended")
    finally:
        process.stop()


def test_a_stubborn_process_and_its_child_are_stopped(tmp_path: Path, wait_until: Wait) -> None:
    """First politely, then for sure, and the whole group."""
    process, pids = stubborn(tmp_path)
    with process:
        parent, child = map(int, pids.read_text().split())
        pid_while_it_ran = process.pid
        assert is_running(child)
    assert pid_while_it_ran == parent
    assert process.pid is None
    wait_until(lambda: not is_running(parent) and not is_running(child))
    process.stop()


def test_a_process_can_be_killed_and_started_again(tmp_path: Path) -> None:
    """What happens to an agent in the middle of a training."""
    process, pids = stubborn(tmp_path)
    with process:
        seen = [process.pid]
        process.kill()
        seen.append(process.pid)
        pids.unlink()
        process.start()
        seen.append(process.pid)
    first, killed, second = seen
    assert killed is None
    assert None not in {first, second}
    assert first != second


def test_a_process_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    """The message shows why, so that nobody has to look for a log."""
    command = [sys.executable, "-c", "raise SystemExit('no such colour')"]
    process = Process("painter", command, tmp_path / "log", lambda: False)
    with pytest.raises(TestbedError, match=r"painter ended before it was ready[^$]*no such colour"):
        process.start()
    assert process.pid is None


LEAVING = """
import os, sys
from pathlib import Path
from tests.testbed.test_processes import stubborn
process, pids = stubborn(Path(sys.argv[1]))
process.start()
os.kill(os.getpid(), 9)
"""


def test_a_process_does_not_outlive_a_killed_test_run(tmp_path: Path, wait_until: Wait) -> None:
    """The kernel ends it when the process that started it is gone without a word."""
    subprocess.run([sys.executable, "-c", LEAVING, str(tmp_path)], cwd=ROOT, check=False)
    parent = int((tmp_path / "pids").read_text().split()[0])
    wait_until(lambda: not is_running(parent))
    child = int((tmp_path / "pids").read_text().split()[1])
    os.kill(child, 9)  # the kernel's promise is about the process itself


INTERRUPTED = LEAVING.replace("os.kill(os.getpid(), 9)", "raise KeyboardInterrupt")


def test_a_process_does_not_outlive_an_interrupted_test_run(tmp_path: Path, wait_until: Wait) -> None:
    """Ctrl-C ends it with all it started."""
    subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path)], cwd=ROOT, check=False, capture_output=True)
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        wait_until(lambda pid=pid: not is_running(pid))  # type: ignore[misc]


def test_a_condition_that_never_comes_is_named() -> None:
    """Waiting ends, with what was waited for."""
    with pytest.raises(TestbedError, match=r"After 0\.05 s still not: the moon is full"):
        wait_for(lambda: False, 0.05, "the moon is full")


def test_a_free_port_can_be_had() -> None:
    """Nobody else has it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
