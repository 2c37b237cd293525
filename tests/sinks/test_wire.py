"""The fence around monasca-statsd, and datagrams packed by bytes."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.sinks._address import Address
from mlops.sinks._wire import Fate, PackingConnection, Summary, open_gauge
from tests.testbed.datagrams import Listener, closed_port, parse

DIMENSIONS = {"run": "digits", "team": "vision"}


def _local(port: int) -> Address:
    return Address(socket.AF_INET, ("127.0.0.1", port))


IMPORTING = """
import logging, sys
import mlops
assert "monascastatsd" not in sys.modules
import mlops.sinks.statsd
assert "monascastatsd" in sys.modules
assert not logging.getLogger().handlers, logging.getLogger().handlers
assert logging.basicConfig.__module__ == "logging"
logging.basicConfig(level=logging.ERROR)
assert logging.getLogger().level == logging.ERROR
assert len(logging.getLogger().handlers) == 1
"""


def test_importing_the_client_leaves_the_logging_alone() -> None:
    """The application's own ``basicConfig`` works afterwards; ``import mlops`` does not even import it."""
    subprocess.run([sys.executable, "-c", IMPORTING], check=True)


ELSEWHERE = """
import builtins, logging, threading
real = builtins.__import__

def slow(name, *rest):
    if name == "monascastatsd":
        other = threading.Thread(target=logging.basicConfig)
        other.start()
        other.join()
        assert len(logging.getLogger().handlers) == 1
    return real(name, *rest)

builtins.__import__ = slow
import mlops.sinks.statsd
assert len(logging.getLogger().handlers) == 1
"""


def test_another_thread_may_set_up_logging_meanwhile() -> None:
    """Only the importing thread is fenced."""
    subprocess.run([sys.executable, "-c", ELSEWHERE], check=True)


@given(
    st.lists(st.tuples(st.integers(1, 120), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=60),
    st.integers(256, 2048),
)
def test_datagrams_hold_whole_lines_in_order_and_never_exceed_the_limit(
    lines: list[tuple[int, float]], most: int
) -> None:
    """Whatever the lines, all of them are there, in whole, in order, and no datagram is too long."""
    connection = PackingConnection(most)
    gauge = open_gauge(connection)
    summary = connection.summary = Summary(7)
    for length, value in lines:
        gauge.send("é" * min(length, 60), value, DIMENSIONS)
    payloads = [datagram.payload for datagram in connection.packed]
    assert max(map(len, payloads)) <= most
    found = [line for payload in payloads for line in parse(payload)]
    assert [(len(line.name), line.value) for line in found] == [(min(length, 60), value) for length, value in lines]
    assert summary.lines == len(lines)
    assert sum(len(datagram.summaries) for datagram in connection.packed) == len(lines)


def test_datagrams_are_filled() -> None:
    """Two that follow each other would not have fitted into one."""
    connection = PackingConnection(1432)
    gauge = open_gauge(connection)
    for number in range(200):
        gauge.send(f"layer.{number}.norm", number / 7, DIMENSIONS)
    first_lines = [datagram.payload.split(b"\n")[0] for datagram in connection.packed]
    lengths = [len(datagram.payload) for datagram in connection.packed]
    for length, following in zip(lengths, first_lines[1:], strict=False):
        assert length + 1 + len(following) > 1432


def test_the_longest_line_is_foreseen() -> None:
    """No value makes a line longer than what was foreseen for its name and dimensions."""
    connection = PackingConnection(8192)
    foreseen = connection.longest("train.loss", DIMENSIONS)
    gauge = open_gauge(connection)
    gauge.send("train.loss", -2.2250738585072014e-308, DIMENSIONS)
    assert len(connection.packed[0].payload) == foreseen


def test_a_refusal_is_told_after_the_datagram_that_it_is_about() -> None:
    """The kernel takes the first datagram; that nobody was there is known right afterwards, once."""
    connection = PackingConnection(1432)
    assert connection.lead_to(_local(closed_port()))
    assert connection.send(b"a:1|g") is Fate.SENT
    assert connection.was_refused(30.0)
    assert connection.problem == "Connection refused"
    assert not connection.was_refused()
    assert connection.send(b"a:1|g") is Fate.SENT
    assert connection.send(b"a:1|g") is Fate.REFUSED
    connection.close()


def test_what_was_taken_is_not_refused() -> None:
    """Where somebody listens, nothing is reported."""
    with Listener() as listener:
        connection = PackingConnection(1432)
        assert connection.lead_to(_local(listener.port))
        assert connection.socket is not None
        assert connection.socket.gettimeout() == 0  # it never blocks
        assert connection.send(b"a:1|g|#{'run': 'x'}") is Fate.SENT
        assert not connection.was_refused()
        assert listener.wait_for_lines(1)[0].name == "a"
        connection.close()


def test_an_address_that_cannot_be_reached_is_a_reason_and_no_exception() -> None:
    """Connecting to a network that there is no route to fails softly."""
    connection = PackingConnection(1432)
    assert not connection.lead_to(Address(socket.AF_INET, ("255.255.255.255", 8125)))
    assert connection.problem
    assert connection.send(b"a:1|g") is Fate.FAILED
    assert not connection.was_refused()


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (BlockingIOError(11, "Resource temporarily unavailable"), Fate.BUSY),
        (OSError(105, "No buffer space available"), Fate.BUSY),
        (PermissionError(1, "Operation not permitted"), Fate.FAILED),
        (OSError(101, "Network is unreachable"), Fate.FAILED),
    ],
)
def test_every_error_of_the_socket_has_a_meaning(error: OSError, fate: Fate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full socket is worth waiting for; what the network refuses is not."""

    class Broken(socket.socket):
        def send(self, *_: object) -> int:
            raise error

    monkeypatch.setattr(socket, "socket", Broken)
    connection = PackingConnection(1432)
    assert connection.lead_to(_local(9))
    assert connection.send(b"a:1|g") is fate
    assert connection.problem == error.strerror
    connection.close()
