"""Where a host name leads, asked without ever waiting longer than one wants to.

``socket.getaddrinfo`` cannot be given a time limit, so a thread of its own asks it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

__all__ = ["Address", "Lookup"]

FRESH_SECONDS: Final = 60.0
"""How long an answer is good: names of services move, for example when a pod is replaced."""
AGAIN_SECONDS: Final = 5.0
"""How soon a name is asked for again after there was no answer, or one that led nowhere."""


class Address(NamedTuple):
    """A place to send to, as :mod:`socket` wants it."""

    family: int
    place: tuple[str | int, ...]

    @property
    def is_local(self) -> bool:
        """Whether it is this machine's loopback, where the kernel reports a refusal at once."""
        host = str(self.place[0])
        return host.startswith("127.") or host == "::1"

    def __str__(self) -> str:
        host, port = self.place[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


class Lookup:
    """The address of a host and port, asked for again now and then.

    IPv4 comes first and, where there is any, alone: the monasca-agent listens on nothing else.

    Args:
        host: a name or a numeric address.
        port: the port.
        ask: ``socket.getaddrinfo`` or what stands in for it.
        clock: seconds that never go back.

    Attributes:
        problem: why there is no address; empty while there is one.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ask: Callable[..., Sequence[tuple[object, ...]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.port = port
        self.problem = ""
        self._ask = ask or socket.getaddrinfo
        self._clock = clock
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._asking = False
        self._known: list[Address] = []
        self._current: Address | None = None
        self._ask_at = 0.0
        self._numeric = False
        with contextlib.suppress(OSError, ValueError):  # a name, not an address
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            self._known = _usable(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags))
            self._current = self._known[0]
            self._numeric = True

    def address(self, patience: float) -> Address | None:
        """The address to use now.

        Args:
            patience: seconds to wait for an answer, if there has been none yet.
        """
        if self._numeric:
            return self._current
        if self._clock() >= self._ask_at:
            self._begin()
        if self._current is None:
            self._answered.wait(patience)
        with self._lock:
            return self._current

    def led_nowhere(self) -> None:
        """Say that nobody was there: take the next of several addresses, and ask again soon."""
        if self._numeric:
            return
        with self._lock:
            if self._current in self._known:
                after = self._known.index(self._current) + 1
                self._current = self._known[after % len(self._known)]
            self._ask_at = min(self._ask_at, self._clock() + AGAIN_SECONDS)

    def _begin(self) -> None:
        with self._lock:
            if self._asking:
                return
            self._asking = True
            self._answered.clear()
        try:
            threading.Thread(target=self._look_up, name=f"mlops-lookup-{self.host}", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            self._note([], str(error))

    def _look_up(self) -> None:
        found: list[Address] = []
        problem = "it has no address"
        try:
            found = _usable(self._ask(self.host, self.port, type=socket.SOCK_DGRAM))
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError:
            problem = "no host can have such a name"
        self._note(found, problem)

    def _note(self, found: list[Address], problem: str) -> None:
        with self._lock:
            self._asking = False
            self._ask_at = self._clock() + (FRESH_SECONDS if found else AGAIN_SECONDS)
            if found:
                self._known = found
                self._current = self._current if self._current in found else found[0]
                self.problem = ""
            elif self._current is None:  # an address that once was right is better than none
                self.problem = f"{self.host} cannot be resolved: {problem}"
        self._answered.set()


def _usable(answers: Sequence[tuple[object, ...]]) -> list[Address]:
    found = [Address(int(family), place) for family, _, _, _, place in answers]  # type: ignore[call-overload, arg-type]
    only_v4 = [address for address in found if address.family == socket.AF_INET]
    return only_v4 or [address for address in found if address.family == socket.AF_INET6]
