"""A UDP socket that keeps what it is sent: the plainest thing that a statsd client can talk to."""

from __future__ import annotations

import ast
import socket
import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

from tests.testbed.processes import wait_for

__all__ = ["Line", "Listener", "closed_port", "parse"]

_SECONDS = 30.0


class Line(NamedTuple):
    """One line of a datagram, taken apart."""

    name: str
    value: float
    kind: str
    dimensions: dict[str, str]


def parse(datagram: bytes) -> list[Line]:
    """The lines of a datagram, each of which must be ``name:value|type|#{dimensions}`` and nothing else."""
    lines = []
    for text in datagram.decode("utf-8").split("\n"):
        name, _, rest = text.partition(":")
        value, kind, dimensions = rest.split("|")
        assert dimensions.startswith("#{")
        lines.append(Line(name, float(value), kind, ast.literal_eval(dimensions[1:])))
    return lines


def closed_port() -> int:
    """A UDP port of 127.0.0.1 at which nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Listener:
    """Listens until it is closed; a context manager.

    Args:
        host: 127.0.0.1, another address of loopback, or ::1.
        port: 0 for any.

    Attributes:
        port: where it listens.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind((host, port))
        self.port: int = self._socket.getsockname()[1]
        self._datagrams: list[tuple[float, bytes]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def datagrams(self) -> list[bytes]:
        """What came so far."""
        return [datagram for _, datagram in list(self._datagrams)]

    def timed_lines(self) -> list[tuple[float, Line]]:
        """The lines of all that came so far, each with the seconds since the epoch at which it came."""
        return [
            (came, line) for came, datagram in list(self._datagrams) if datagram.strip() for line in parse(datagram)
        ]

    def lines(self) -> list[Line]:
        """The lines of all that came so far."""
        return [line for datagram in self.datagrams() for line in parse(datagram)]

    def wait_for_lines(self, count: int) -> list[Line]:
        """Wait for at least so many lines."""
        wait_for(lambda: len(self.lines()) >= count, _SECONDS, f"{count} lines arrived")
        return self.lines()

    def values(self) -> dict[str, float]:
        """The last value of each name."""
        return {line.name: line.value for line in self.lines()}

    def close(self) -> None:
        """Stop listening: what comes from now on is refused; a second call does nothing."""
        if self._closing:
            return
        self._closing = True
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while (datagram := self._socket.recv(1 << 16)) or not self._closing:
            if datagram:
                self._datagrams.append((time.time(), datagram))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._closing:
            self.close()
