"""The wire to a monasca-agent: monasca-statsd, and a fence around what is wrong with it.

The package builds the lines (its ``Client``, ``Gauge`` and ``Connection`` are what clouds know);
what this module puts right is, in version 2.7.0:

* importing it calls ``logging.basicConfig()``, so that the application's own call does nothing;
* its ``Connection`` resolves the name once, in the constructor, and raises if it cannot;
* it sends a datagram a line, or counts lines instead of bytes in its buffer, so that datagrams
  grow beyond what the agent reads (8192 bytes) and the rest is lost or, cut before its
  dimensions, taken for another series;
* its socket blocks, knows IPv4 only, and every refusal is logged with a traceback.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlops.sinks._address import Address

__all__ = ["AGENT_READS", "Datagram", "Fate", "PackingConnection", "Summary", "open_gauge"]

AGENT_READS: Final = 8192
"""Bytes that the agent's daemon reads of a datagram (``monasca_agent.statsd.udp.Server.buffer_size``)."""


@contextlib.contextmanager
def _logging_left_alone() -> Iterator[None]:
    """Have ``logging.basicConfig`` do nothing on this thread; other threads keep the real one."""
    real = logging.basicConfig
    thread = threading.get_ident()
    importing = True

    def fenced(**options: Any) -> None:
        if not (importing and threading.get_ident() == thread):
            real(**options)

    logging.basicConfig = fenced
    try:
        yield
    finally:
        importing = False
        logging.basicConfig = real


with _logging_left_alone():
    from monascastatsd import Client, Connection


class Summary:
    """What one series' lines of one interval stand for, until the fate of each is known.

    Attributes:
        points: how many points it sums up.
        lines: how many of its lines are still on their way.
        lost: whether a line of it was given up.
    """

    __slots__ = ("lines", "lost", "points")

    def __init__(self, points: int) -> None:
        self.points = points
        self.lines = 0
        self.lost = False


class Datagram:
    """Whole lines, and the summary that each belongs to."""

    __slots__ = ("payload", "sent_at", "summaries")

    def __init__(self, line: bytes, summary: Summary) -> None:
        self.payload = line
        self.summaries = [summary]
        self.sent_at = 0.0

    def add(self, line: bytes, summary: Summary, most: int) -> bool:
        """Add a line if it fits into so many bytes."""
        if len(self.payload) + 1 + len(line) > most:
            return False
        self.payload += b"\n" + line
        self.summaries.append(summary)
        return True


class Fate(enum.Enum):
    """What became of an attempt to send."""

    SENT = "the kernel took it"
    BUSY = "the kernel has no room just now"
    REFUSED = "nobody listens there"
    FAILED = "it cannot be sent there"


_FATES: Final = {
    errno.EAGAIN: Fate.BUSY,
    errno.EWOULDBLOCK: Fate.BUSY,
    errno.ENOBUFS: Fate.BUSY,
    errno.ECONNREFUSED: Fate.REFUSED,
}


class PackingConnection(Connection):  # type: ignore[misc] # the package says nothing about its types
    """monasca-statsd's connection, with lines packed by bytes and a socket that never blocks.

    Its constructor does not call the base class's, which would resolve a name and raise.

    Args:
        max_bytes: of a datagram.

    Attributes:
        packed: datagrams ready to be sent, oldest first.
        summary: what the lines reported next belong to.
        problem: why the last attempt failed.
        address: where the socket leads; ``None`` before :meth:`lead_to`.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.encoding = "utf-8"
        self.packed: deque[Datagram] = deque()
        self.summary = Summary(0)
        self.problem = ""
        self.address: Address | None = None
        self.socket: socket.socket | None = None
        self._send = self._pack  # where the base class hands its finished lines

    def longest(self, name: str, dimensions: Mapping[str, str]) -> int:
        """Bytes of the longest line that a gauge of this name and these dimensions can have."""
        line: str = self._create_payload(dimensions, name, "g", 1, -2.2250738585072014e-308)
        return len(line.encode(self.encoding))

    def _pack(self, line: str) -> None:
        encoded = line.encode(self.encoding)
        self.summary.lines += 1
        if not self.packed or not self.packed[-1].add(encoded, self.summary, self.max_bytes):
            self.packed.append(Datagram(encoded, self.summary))

    def lead_to(self, address: Address) -> bool:
        """Have the socket lead to an address; False, and :attr:`problem`, if it cannot."""
        if address == self.address:
            return True
        self.close()
        try:
            self.socket = socket.socket(address.family, socket.SOCK_DGRAM)
            self.socket.settimeout(0)
            self.socket.connect(address.place)
        except OSError as error:
            self.problem = error.strerror or str(error)
            self.close()
            return False
        self.address = address
        return True

    def send(self, payload: bytes) -> Fate:
        """Try to send a datagram; never blocks, never raises.

        A refusal is reported for what was sent before: this datagram was not even tried then.
        """
        if self.socket is None:
            return Fate.FAILED
        try:
            self.socket.send(payload)
        except OSError as error:
            self.problem = error.strerror or str(error)
            return _FATES.get(error.errno or 0, Fate.FAILED)
        return Fate.SENT

    def was_refused(self, patience: float = 0.0) -> bool:
        """Whether the other side has said since the last call that nobody listens there.

        Args:
            patience: seconds to wait for it to say so.
        """
        if self.socket is None:
            return False
        if patience:
            waiting = select.poll()
            waiting.register(self.socket, 0)  # no event but an error
            waiting.poll(patience * 1000)
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.problem = os.strerror(code)
        return bool(code)

    def wait_for_room(self, patience: float) -> None:
        """Wait until the kernel has room for another datagram, or so many seconds."""
        if self.socket is not None:
            waiting = select.poll()
            waiting.register(self.socket, select.POLLOUT)
            waiting.poll(patience * 1000)

    def close(self) -> None:
        """Let go of the socket."""
        if self.socket is not None:
            self.socket.close()
        self.socket = self.address = None


def open_gauge(connection: PackingConnection) -> Any:
    """monasca-statsd's gauge on this connection: ``send(name, value, dimensions)``."""
    return Client(connection=connection).get_gauge()
