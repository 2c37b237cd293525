"""Processes of real services: started in order, awaited, stopped for sure, their output kept."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.testbed.environments import TestbedError

__all__ = ["Process", "free_port", "wait_for"]

START_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 5.0
_SHOWN_LINES: Final = 40

_running: set[Process] = set()
_maker: Final = ThreadPoolExecutor(1, thread_name_prefix="testbed-maker")


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nothing on this machine's 127.0.0.1 uses."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        TestbedError: it did not within so many seconds; the message says ``what`` never came.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"After {seconds:g} s still not: {what}")
        time.sleep(0.02)


class Process:
    """A program in a process group of its own, its output in a file.

    Args:
        name: what messages call it.
        command: the program and its arguments.
        log: where its output goes; appended to.
        ready: tells whether it does its work by now.
        environ: its environment; this process's if not given.
        grace: seconds that it has to end by itself when it is told to.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        ready: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._ready = ready
        self._grace = grace
        self._environ = dict(os.environ if environ is None else environ)
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return None if self._popen is None or _has_ended(self._popen.pid) else self._popen.pid

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            TestbedError: it ended or was not ready in time; the message shows what it said last.
        """
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until it is ready, once it has been launched.

        Raises:
            TestbedError: see :meth:`start`.
        """
        try:
            wait_for(self._ready_or_ended, START_SECONDS, f"{self.name} is ready")
        except BaseException as error:
            self.stop()
            if isinstance(error, TestbedError):
                raise TestbedError(f"{error}\n{self.last_words()}") from None
            raise

    def launch(self) -> None:
        """Start it without waiting; what is left of one before is ended.

        The kernel ends it when the *thread* that made it is gone, so one that lives as long as we makes them all.
        """
        self.kill()
        with self.log.open("ab") as output:
            self._popen = _maker.submit(
                subprocess.Popen,
                [*_with_us(), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environ,
                start_new_session=True,
            ).result()
        _running.add(self)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL, 0)

    def stop(self) -> None:
        """End it and whatever it started: first politely, then for sure."""
        self._end(signal.SIGTERM, self._grace)

    def _end(self, number: signal.Signals, grace: float) -> None:
        popen, self._popen = self._popen, None
        if popen is None:
            return
        # It is waited for only at the end: until then its process id, which is its group's too, cannot be another's.
        os.killpg(popen.pid, number)
        deadline = time.monotonic() + grace
        while not _has_ended(popen.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        _running.discard(self)

    def last_words(self) -> str:
        """The end of its output, for a message."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
            return "\n".join([f"--- {self.name} ({self.log}) said last:", *lines])
        return f"--- {self.name} said nothing"

    def _ready_or_ended(self) -> bool:
        if self.pid is None:
            raise TestbedError(f"{self.name} ended before it was ready")
        return self._ready()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _with_us() -> list[str]:
    """A prefix that has the kernel end a program when we die without a word; none where it is missing."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


@atexit.register
def _stop_all() -> None:
    for process in list(_running):
        process.stop()
