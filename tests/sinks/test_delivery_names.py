"""Names that appear late, move, or are never resolved: nothing waits for them, every point is counted."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

import pytest

from mlops.sinks import _delivery
from mlops.sinks._address import Lookup
from mlops.sinks.statsd import StatsdSink
from tests.sinks.helpers import Clock, Nowhere, Offer, Table
from tests.testbed.datagrams import Listener

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent agent is tried again at once, not every second."""
    monkeypatch.setattr(_delivery, "_RETRY_SECONDS", 0.02)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of."""
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


class Names:
    """Stands in for the resolver: one name, whose address is set by hand."""

    def __init__(self, host: str | None, port: int) -> None:
        self.host = host
        self.others: list[str] = []
        self.port = port
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        """Answer."""
        self.go_on.wait()
        if self.host is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (one, self.port)) for one in (self.host, *self.others)]


def test_a_name_that_appears_late_gets_everything(caplog: pytest.LogCaptureFixture, wait_until: Wait) -> None:
    """Nothing raises while there is no such name, and the first summary is sent once there is."""
    clock = Clock()
    with Listener() as listener:
        names = Names(None, listener.port)
        sink = StatsdSink("agent", lookup=Lookup("agent", 8125, ask=names, clock=clock), interval=60)
        offer = Offer(sink)
        offer.write(("train.loss", 1.0))
        wait_until(offer.until(lambda: warnings(caplog)))
        assert "agent cannot be resolved: Name or service not known" in warnings(caplog)[0]
        names.host = "127.0.0.1"
        clock.now += 10
        wait_until(offer.until(lambda: sink.sent == 1))
        assert listener.wait_for_lines(5)[0].value == 1.0
        sink.close(10)
    assert (sink.sent, sink.dropped) == (1, 0)
    assert len(warnings(caplog)) == 1


def test_a_name_that_moves_is_followed(wait_until: Wait) -> None:
    """Without any error, the next look at the name leads to the new address."""
    clock = Clock()
    with Listener() as old, Listener("127.0.0.2", old.port) as new:
        names = Names("127.0.0.1", old.port)
        sink = StatsdSink("agent", lookup=Lookup("agent", 8125, ask=names, clock=clock), interval=0.1)
        offer = Offer(sink)
        offer.write(("train.loss", 1.0))
        old.wait_for_lines(5)
        names.host = "127.0.0.2"
        clock.now += 61
        wait_until(offer.until(new.lines, ("train.loss", 2.0)))
        sink.close(10)
    assert sink.dropped == 0


def test_of_several_addresses_one_that_answers_is_found(wait_until: Wait) -> None:
    """A name that stands for several hosts leads to one where somebody listens."""
    with Listener("127.0.0.2") as listener:
        names = Names("127.0.0.1", listener.port)
        names.others = ["127.0.0.2"]
        sink = StatsdSink("agent", lookup=Lookup("agent", 8125, ask=names), interval=60)
        offer = Offer(sink)
        offer.write(("train.loss", 1.0))
        wait_until(offer.until(lambda: sink.sent == 1))
        assert len(listener.wait_for_lines(5)) == 5
        sink.close(10)


def test_the_end_waits_a_second_at_most_for_a_name() -> None:
    """However long closing may take, a dead resolver is not worth more."""
    waited: list[float] = []

    class Slow(Nowhere):
        def address(self, patience: float) -> None:
            waited.append(patience)

    sink = StatsdSink("agent", lookup=Slow())
    sink.write(Table().points(("train.loss", 1.0)))
    sink.close(600)
    assert len(waited) == 2
    assert max(waited) <= 1.0
    assert sink.dropped == 1


def test_a_resolver_that_hangs_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    """Closing returns, the points are counted as dropped, and it is said why."""
    names = Names("127.0.0.1", 9)
    names.go_on.clear()
    sink = StatsdSink("agent", lookup=Lookup("agent", 8125, ask=names), interval=60)
    sink.write(Table().points(("train.loss", 1.0)))
    sink.close(0.05)
    assert (sink.sent, sink.dropped) == (0, 1)
    assert "could not be sent within" in warnings(caplog)[0]
    names.go_on.set()


def test_a_resolver_that_hangs_for_an_interval_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Points do not pile up behind it: they are given up after an interval, with the reason."""
    names = Names("127.0.0.1", 9)
    names.go_on.clear()
    clock, table = Clock(), Table()
    sink = StatsdSink("agent", lookup=Lookup("agent", 8125, ask=names), interval=21, clock=clock)
    sink.write(table.points(("train.loss", 1.0)))
    clock.now += 21
    sink.write(table.points())
    assert sink.dropped == 1
    assert "its name is still being resolved" in warnings(caplog)[0]
    sink.close(0)
    names.go_on.set()


def test_localhost_and_ipv6_literals_work() -> None:
    """The name leads to IPv4, where the agent listens; a literal of IPv6 is taken as it is."""
    for host, listening in (("localhost", "127.0.0.1"), ("::1", "::1")):
        with Listener(listening) as listener:
            sink = StatsdSink(host, listener.port)
            sink.write(Table().points(("train.loss", 1.0)))
            sink.close(10)
            assert listener.wait_for_lines(5)[0].value == 1.0
            assert (sink.sent, sink.dropped) == (1, 0)
