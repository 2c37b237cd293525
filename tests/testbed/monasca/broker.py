"""The stand-in for Kafka: librdkafka's mock cluster in a process of its own.

It speaks Kafka's protocol and keeps everything in memory.  Of each partition it keeps 5 MB and then drops
the oldest, without a word to those who have not read it yet; the topic has so many partitions that some
millions of points find room.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Final

from tests.testbed.environments import Environment, TestbedError
from tests.testbed.monasca import config
from tests.testbed.monasca.programs import BROKER
from tests.testbed.processes import Process, wait_for

__all__ = ["Broker"]

PARTITIONS: Final = 1024
"""A POST of 1000 metrics is some 0.5 MB and lands in one partition, chosen at random."""
_SWITCH_SECONDS: Final = 10.0


class Broker(Process):
    """The broker's process.

    When it is killed, what it held is gone, and it starts again at another port, which the others do not
    know.  An outage as a cluster with disks has it is :meth:`go_down` and :meth:`come_up`.
    """

    def __init__(self, home: Environment, folder: Path) -> None:
        self._file = folder / "broker.address"
        command: list[str | Path] = [home.python, "-c", BROKER, self._file, str(PARTITIONS)]
        super().__init__("broker", command, folder / "broker.log", self._file.exists, config.environ())

    @property
    def address(self) -> str:
        """Host and port, once it is ready."""
        return self._file.read_text("utf-8")

    def launch(self) -> None:
        """Start it without waiting; at a new port."""
        self._file.unlink(missing_ok=True)
        super().launch()

    def go_down(self) -> None:
        """Cut all connections and refuse new ones; what was sent stays."""
        self._switch(signal.SIGUSR1)
        wait_for(lambda: not self._listens(), _SWITCH_SECONDS, "the broker refuses connections")

    def come_up(self) -> None:
        """Take connections again, at the same port."""
        self._switch(signal.SIGUSR2)
        wait_for(self._listens, _SWITCH_SECONDS, "the broker takes connections")

    def _switch(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            raise TestbedError("The broker does not run")
        os.kill(pid, number)

    def _listens(self) -> bool:
        host, _, port = self.address.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
        return False
