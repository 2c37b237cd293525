"""Destinations that are absent, come, go, move, hang or have no room: nothing blocks, every point is counted."""

from __future__ import annotations

import errno
import itertools
import logging
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.sinks import _delivery
from mlops.sinks._address import Address
from mlops.sinks._wire import PackingConnection
from mlops.sinks.statsd import StatsdSink
from tests.sinks.helpers import Clock, Offer, Table
from tests.testbed.datagrams import Listener, closed_port, parse

Wait = Callable[[Callable[[], object]], None]
LOSS_AND_RATE = (("train.loss", 1.0), ("train.lr", 0.1))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent agent is tried again at once, not every second."""
    monkeypatch.setattr(_delivery, "_RETRY_SECONDS", 0.02)


@pytest.fixture
def port() -> int:
    """A port at which nobody listens yet."""
    return closed_port()


@pytest.fixture(params=["loopback", "another machine"])
def distance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals that come at once, and refusals that may take their time."""
    if request.param == "another machine":
        monkeypatch.setattr(Address, "is_local", property(lambda _: False))
        monkeypatch.setattr(_delivery, "_SETTLE_SECONDS", 0.05)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of."""
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was noted at INFO."""
    return [record.message for record in caplog.records if record.levelno == logging.INFO]


@pytest.mark.usefixtures("distance")
def test_an_absent_agent_is_warned_of_once_and_every_point_is_counted(
    port: int, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """The one warning says where, why and what to do; nothing counts as sent."""
    sink = StatsdSink("127.0.0.1", port, interval=0.1)
    offer = Offer(sink)
    wait_until(offer.until(lambda: sink.dropped > 5, *LOSS_AND_RATE))
    assert sink.sent == 0
    assert sink.dropped <= offer.count
    sink.close(10)
    assert (sink.sent, sink.dropped) == (0, offer.count)
    (warning,) = warnings(caplog)
    assert f"statsd://127.0.0.1:{port} takes nothing: 127.0.0.1:{port} says 'Connection refused'" in warning
    assert "Start the monasca-agent on that host" in warning


@pytest.mark.usefixtures("distance")
def test_an_agent_that_comes_late_gets_what_was_not_given_up_yet(
    port: int, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """A summary is kept for an interval, so an agent that starts meanwhile loses nothing."""
    caplog.set_level(logging.INFO, "mlops")
    sink = StatsdSink("127.0.0.1", port, interval=60)
    offer = Offer(sink)
    offer.write(("train.loss", 1.0))
    wait_until(offer.until(lambda: warnings(caplog)))
    with Listener(port=port) as listener:
        wait_until(offer.until(lambda: sink.sent))
        offer.write(("train.loss", 2.0))
        sink.close(10)
        assert listener.wait_for_lines(10)[5].value == 2.0
    assert (sink.sent, sink.dropped) == (2, 0)
    assert len(warnings(caplog)) == 1
    assert [note for note in notes(caplog) if "takes points again" in note] == [
        f"statsd://127.0.0.1:{port} takes points again; 0 were dropped meanwhile."
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("distance")
def test_an_agent_that_goes_and_comes_again_is_noticed(
    port: int, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """One warning however often it goes; each return is noted; sent and dropped add up to what was offered."""
    caplog.set_level(logging.INFO, "mlops")
    sink = StatsdSink("127.0.0.1", port, interval=0.1)
    offer = Offer(sink)
    for _ in range(2):
        with Listener(port=port):
            more = sink.sent + 1
            wait_until(offer.until(lambda more=more: sink.sent >= more, *LOSS_AND_RATE))  # type: ignore[misc]
        more = sink.dropped + 1
        wait_until(offer.until(lambda more=more: sink.dropped >= more, *LOSS_AND_RATE))  # type: ignore[misc]
    with Listener(port=port) as listener:
        more = sink.sent + 1
        wait_until(offer.until(lambda: sink.sent >= more, *LOSS_AND_RATE))
        offer.write(("train.loss", 7.0))
        sink.close(10)
        wait_until(lambda: listener.values().get("train.loss") == 7.0)
    assert sink.sent + sink.dropped == offer.count
    assert len(warnings(caplog)) == 1
    assert len([note for note in notes(caplog) if "takes points again" in note]) == 2
    assert len([note for note in notes(caplog) if "takes nothing again" in note]) == 1
    assert notes(caplog)[-1].endswith(f"{sink.sent} points were sent, as summaries; {sink.dropped} were dropped.")


def test_a_refusal_counts_against_the_datagram_that_it_is_about(port: int) -> None:
    """Of two batches, one before the agent went and one after, exactly the points of the second are dropped."""
    clock = Clock()
    sink = StatsdSink("127.0.0.1", port, interval=21, clock=clock)
    offer = Offer(sink)
    with Listener(port=port) as listener:
        offer.write(*((f"layer.{number}", 1.0) for number in range(100)))
        listener.wait_for_lines(500)
    clock.now += 22
    offer.write(*((f"layer.{number}", 1.0) for number in range(60)))
    assert (sink.sent, sink.dropped) == (100, 0)
    clock.now += 22
    offer.write()
    assert (sink.sent, sink.dropped) == (100, 60)
    sink.close(10)
    assert (sink.sent, sink.dropped) == (100, 60)


@pytest.mark.slow
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.sampled_from([0.0, 0.5, 30.0])), max_size=8))
@settings(max_examples=20, deadline=None)
def test_sent_and_dropped_add_up_whatever_happens(steps: list[tuple[bool, int, float]]) -> None:
    """With an agent that is there or not, few points or many, soon or late: no point is lost, none counted twice."""
    port = closed_port()
    clock = Clock()
    sink = StatsdSink("127.0.0.1", port, interval=21, clock=clock)
    offer = Offer(sink)
    for there, count, later in steps:
        listener = Listener(port=port) if there else None
        offer.write(*((f"layer.{number}", 1.0) for number in range(count)))
        assert sink.sent + sink.dropped <= offer.count
        if listener is not None:
            listener.close()
        clock.now += later
    sink.close(0.2)
    assert sink.sent + sink.dropped == offer.count


def test_what_was_refused_is_sent_again_in_order(monkeypatch: pytest.MonkeyPatch, wait_until: Wait) -> None:
    """All that were on their way when another machine's refusal came go back to the head of the queue as they were."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    answers = itertools.chain([False] * 4, [True], itertools.cycle([False]))  # asked at the start and after each
    monkeypatch.setattr(PackingConnection, "was_refused", lambda *_: next(answers))
    with Listener() as listener:
        sink = StatsdSink("127.0.0.1", listener.port, interval=60)
        offer = Offer(sink)
        offer.write(*((f"layer.{number:03}.norm", 1.0) for number in range(60)))
        wait_until(offer.until(lambda: sink.sent == 60))
        datagrams = listener.datagrams()
        sink.close(10)
    first, again = datagrams[:4], datagrams[4:]
    assert again[:4] == first
    names = [line.name for datagram in again for line in parse(datagram) if line.name.endswith("norm")]
    assert names == [f"layer.{number:03}.norm" for number in range(60)]


def test_an_absent_agent_is_not_tried_at_every_call(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Trying again takes its time, however often there is news."""
    monkeypatch.setattr(_delivery, "_RETRY_SECONDS", 1.0)
    tries = itertools.count()
    _with_sends(monkeypatch, (None for _ in tries))
    clock = Clock()
    sink = StatsdSink("127.0.0.1", port, interval=60, clock=clock)
    offer = Offer(sink)
    for _ in range(5):
        offer.write(("train.loss", 1.0))
    clock.now += 1
    for _ in range(5):
        offer.write(("train.loss", 1.0))
    sink.close(0)
    assert next(tries) == 2


def test_a_refusal_that_comes_late_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run waits for it for a moment, where the agent is on another machine."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(PackingConnection, "was_refused", lambda _, patience=0.0: patience > 0)
    with Listener() as listener:
        sink = StatsdSink("127.0.0.1", listener.port)
        sink.write(Table().points(("train.loss", 1.0)))
        sink.close(10)
    assert (sink.sent, sink.dropped) == (0, 1)


def _with_sends(monkeypatch: pytest.MonkeyPatch, outcomes: Iterator[OSError | None]) -> None:
    class Full(socket.socket):
        def send(self, *arguments: object) -> int:
            if (error := next(outcomes, None)) is not None:
                raise error
            return super().send(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Full)


def test_a_full_socket_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What the kernel has no room for just now is sent as soon as it has."""
    with Listener() as listener:
        full = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        _with_sends(monkeypatch, iter([full, full, OSError(errno.ENOBUFS, "No buffer space available"), None]))
        sink = StatsdSink("127.0.0.1", listener.port)
        sink.write(Table().points(("train.loss", 1.0)))
        sink.close(10)
        listener.wait_for_lines(5)
    assert (sink.sent, sink.dropped) == (1, 0)
    assert warnings(caplog) == []


@pytest.mark.slow
def test_a_socket_that_stays_full_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """After an interval its points are counted as dropped, and the reason is said once."""
    full = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    _with_sends(monkeypatch, iter(lambda: full, None))
    sink = StatsdSink("127.0.0.1", 9, interval=0.1)
    offer = Offer(sink)
    offer.write(("train.loss", 1.0))
    wait_until(offer.until(lambda: sink.dropped == 1))
    offer.write(("train.loss", 2.0))
    sink.close(0.1)
    assert (sink.sent, sink.dropped) == (0, 2)
    (warning,) = warnings(caplog)
    assert "Resource temporarily unavailable" in warning


def test_a_network_that_forbids_it_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A firewall's no is told like any other trouble."""
    _with_sends(monkeypatch, iter(lambda: PermissionError(errno.EPERM, "Operation not permitted"), None))
    sink = StatsdSink("127.0.0.1", 9)
    sink.write(Table().points(("train.loss", 1.0)))
    sink.close(10)
    assert (sink.sent, sink.dropped) == (0, 1)
    assert "Operation not permitted" in warnings(caplog)[0]


def test_datagrams_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between them the sink pauses as long as the agent needs for that many bytes."""
    pauses: list[float] = []
    monkeypatch.setattr(_delivery, "time", SimpleNamespace(sleep=pauses.append))
    with Listener() as listener:
        sink = StatsdSink("127.0.0.1", listener.port, bytes_per_second=100_000)
        sink.write(Table().points(*((f"layer.{number}.norm", float(number)) for number in range(100))))
        listener.wait_for_lines(500)
        lengths = [len(datagram) for datagram in listener.datagrams()]
        assert pauses == [length / 100_000 for length in lengths]
        assert max(lengths) <= 1432
        sink.close(10)


def test_one_call_does_not_send_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large batch goes out over several calls, so that the end of a run never waits for one of them.

    As long as it goes on, it is not given up, even if it takes longer than an interval.
    """
    clock, table = Clock(), Table()

    def pause(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(_delivery, "time", SimpleNamespace(sleep=pause))
    with Listener() as listener:
        sink = StatsdSink("127.0.0.1", listener.port, bytes_per_second=50_000, interval=0.3, clock=clock)
        began = clock.now
        sink.write(table.points(*((f"layer.{number}.norm", float(number)) for number in range(200))))
        assert 0.25 <= clock.now - began < 0.3
        assert 0 < sink.sent < 200
        for _ in range(10):
            sink.write(table.points())
        assert (sink.sent, sink.dropped) == (200, 0)
        assert len(listener.wait_for_lines(1000)) == 1000
        sink.close(10)


def test_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing closes the socket, also when nobody was there."""
    made: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(socket, "socket", Noted)
    sink = StatsdSink("127.0.0.1", 9)
    sink.write(Table().points(("train.loss", 1.0)))
    sink.close(10)
    assert [one.fileno() for one in made] == [-1]
