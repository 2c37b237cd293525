"""Getting packed datagrams to the agent: paced, patient for a while, and exact about what was lost.

What "sent" means here, since UDP says so little: the kernel took the datagram, and nobody refused
it.  Where nobody listens, the other side's kernel answers with an ICMP message, which Linux
reports on a *later* call on the socket: on loopback the very next one, from another machine within
moments, or never if a firewall swallows it.  So a datagram counts as sent only when that answer
has had its time, and one that was refused goes back to the head of the queue.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from mlops.sinks._address import Address, Lookup
from mlops.sinks._wire import Datagram, Fate, PackingConnection, Summary

__all__ = ["BYTES_PER_SECOND", "Delivery"]

BYTES_PER_SECOND: Final = 300_000
"""The pace.  The real daemon, on one core, took 2.9 MB/s in datagrams of 1432 bytes without losing
one, while a burst of 334 cost it 242: its socket holds 92 of them.  A tenth of that leaves room for
a slower node and for whoever else talks to the agent."""

_SETTLE_SECONDS: Final = 0.25
"""How long another machine's refusal may take."""
_RETRY_SECONDS: Final = 1.0
_NAME_SECONDS: Final = 1.0
"""How long the end of a run waits for a name that is being resolved."""
_ROOM_SECONDS: Final = 0.05
_BREATH_SECONDS: Final = 0.001
"""The least pause after a datagram: this machine's own refusal may take a moment, too."""


class Delivery:
    """The way from a connection's packed datagrams to the agent.

    Args:
        connection: packs the lines and owns the socket.
        lookup: knows the address.
        patience: seconds that datagrams which cannot be sent are kept before they are given up.
        bytes_per_second: the pace.
        on_done: called with each summary once the fate of all its lines is known.
        on_trouble: called with the reason when nothing gets through any more.
        on_recovery: called when something gets through again.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        connection: PackingConnection,
        lookup: Lookup,
        *,
        patience: float,
        bytes_per_second: float,
        on_done: Callable[[Summary], None],
        on_trouble: Callable[[str], None],
        on_recovery: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._lookup = lookup
        self._patience = patience
        self._rate = bytes_per_second
        self._breath = _BREATH_SECONDS
        self._on_done = on_done
        self._on_trouble = on_trouble
        self._on_recovery = on_recovery
        self._clock = clock
        self._in_flight: deque[Datagram] = deque()
        self._moved_at = clock()
        self._retry_at = 0.0
        self._away = False
        self._tried: Address | None = None

    @property
    def is_idle(self) -> bool:
        """Whether everything packed so far has met its fate."""
        return not self._connection.packed and not self._in_flight

    def begin(self) -> None:
        """Say that new datagrams were packed: their patience begins."""
        self._moved_at = self._clock()

    def work(self, seconds: float) -> None:
        """Send what there is, for at most so many seconds; give up what has waited too long."""
        until = self._clock() + seconds
        self._settle()
        while self._connection.packed and (now := self._clock()) < until:
            if (self._away and now < self._retry_at) or not self._attempt(until):
                break
        if self._connection.packed and self._clock() - self._moved_at >= self._patience:
            self._trouble(self._lookup.problem or self._connection.problem or "its name is still being resolved")
            self._give_up()

    def finish(self, seconds: float) -> None:
        """Send what can be sent within so many seconds, give up the rest, let go of the socket."""
        until = self._clock() + seconds
        self._settle()
        left = sum(len(datagram.payload) for datagram in self._connection.packed)
        if seconds > 0 and 2 * left / seconds > self._rate:  # perhaps too fast for the agent, but not surely too late
            self._rate, self._breath = 2 * left / seconds, 0.0
        while self._connection.packed and self._clock() < until:
            if not self._attempt(until):
                break
        if self._in_flight and self._connection.was_refused(min(_SETTLE_SECONDS, max(0.0, until - self._clock()))):
            self._refused()
        self._settle(everything=True)
        self._give_up()
        self._connection.close()

    # -- one step -----------------------------------------------------------------------------

    def _attempt(self, until: float) -> bool:
        """Try to send the oldest datagram; False if trying on makes no sense just now."""
        address = self._lookup.address(max(0.0, min(until - self._clock(), _NAME_SECONDS)))
        if address is None:
            if self._lookup.problem:
                self._trouble(self._lookup.problem)
            return False
        self._tried = address
        if address != self._connection.address:
            self._settle(everything=True)
            if not self._connection.lead_to(address):
                return self._nobody_there()
        fate = self._connection.send(self._connection.packed[0].payload)
        if fate is Fate.SENT:
            self._sent()
            return self._settle()
        if fate is Fate.BUSY:
            self._connection.wait_for_room(max(0.0, min(until - self._clock(), _ROOM_SECONDS)))
            return True
        if fate is Fate.REFUSED:
            return self._refused()
        self._connection.close()  # the way there may have changed
        return self._nobody_there()

    def _sent(self) -> None:
        datagram = self._connection.packed.popleft()
        self._in_flight.append(datagram)
        datagram.sent_at = self._clock()
        time.sleep(max(len(datagram.payload) / self._rate, self._breath))

    def _settle(self, *, everything: bool = False) -> bool:
        """Count as sent what nobody refused in time; False if something was refused just now."""
        if not everything and self._connection.was_refused():
            return self._refused()
        address = self._connection.address
        grace = 0.0 if everything or address is None or address.is_local else _SETTLE_SECONDS
        settled_by = self._clock() - grace
        while self._in_flight and self._in_flight[0].sent_at <= settled_by:
            self._done(self._in_flight.popleft(), lost=False)
            self._moved_at = self._clock()
            if self._away:
                self._away = False
                self._on_recovery()
        return True

    def _refused(self) -> bool:
        self._connection.packed.extendleft(reversed(self._in_flight))
        self._in_flight.clear()
        return self._nobody_there()

    def _nobody_there(self) -> bool:
        self._lookup.led_nowhere()
        self._trouble(f"{self._tried} says {self._connection.problem!r}")
        return False

    def _trouble(self, why: str) -> None:
        self._retry_at = self._clock() + _RETRY_SECONDS
        if not self._away:
            self._away = True
            self._on_trouble(why)

    def _give_up(self) -> None:
        while self._connection.packed:
            self._done(self._connection.packed.popleft(), lost=True)

    def _done(self, datagram: Datagram, *, lost: bool) -> None:
        for summary in datagram.summaries:
            summary.lines -= 1
            summary.lost |= lost
            if not summary.lines:
                self._on_done(summary)
