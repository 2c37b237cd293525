"""Where a host name leads: IPv4 first, asked again, never waited for too long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from mlops.sinks._address import AGAIN_SECONDS, FRESH_SECONDS, Address, Lookup
from tests.sinks.helpers import Clock

V4 = Address(socket.AF_INET, ("192.0.2.1", 8125))
OTHER_V4 = Address(socket.AF_INET, ("192.0.2.2", 8125))
V6 = Address(socket.AF_INET6, ("2001:db8::1", 8125, 0, 0))


class Resolver:
    """Stands in for ``socket.getaddrinfo``; answers what it was told to, or hangs."""

    def __init__(self, *answer: Address) -> None:
        self.answer: list[Address] = list(answer)
        self.asked = 0
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        """Answer."""
        self.asked += 1
        self.go_on.wait()
        if self.error is not None:
            raise self.error
        return [(address.family, socket.SOCK_DGRAM, 17, "", address.place) for address in self.answer]


Wait = Callable[[Callable[[], object]], None]


def test_a_numeric_address_is_asked_of_nobody() -> None:
    """What is an address already needs no resolver, nor a thread."""
    resolver = Resolver()
    assert Lookup("127.0.0.1", 8125, ask=resolver).address(0) == (socket.AF_INET, ("127.0.0.1", 8125))
    found = Lookup("::1", 8125, ask=resolver).address(0)
    assert found is not None
    assert found.family == socket.AF_INET6
    assert str(found) == "[::1]:8125"
    assert resolver.asked == 0


def test_ipv4_comes_first_and_alone() -> None:
    """A name with both kinds of address leads to IPv4, where the agent listens, also after a refusal."""
    lookup = Lookup("agent", 8125, ask=Resolver(V6, V4))
    assert lookup.address(30) == V4
    lookup.led_nowhere()
    assert lookup.address(30) == V4


def test_ipv6_is_used_where_there_is_nothing_else() -> None:
    """A name with IPv6 addresses only leads to one."""
    assert Lookup("agent", 8125, ask=Resolver(V6)).address(30) == V6


def test_localhost_leads_to_where_the_agent_listens() -> None:
    """The real resolver's localhost is taken as 127.0.0.1, whatever else it is."""
    found = Lookup("localhost", 8125).address(30)
    assert found == Address(socket.AF_INET, ("127.0.0.1", 8125))
    assert found is not None
    assert found.is_local
    assert not V4.is_local


def test_of_several_addresses_the_next_is_tried_when_one_leads_nowhere() -> None:
    """They take turns."""
    lookup = Lookup("agent", 8125, ask=Resolver(V4, OTHER_V4))
    seen = []
    for _ in range(3):
        seen.append(lookup.address(30))
        lookup.led_nowhere()
    assert seen == [V4, OTHER_V4, V4]


def test_a_name_is_asked_for_again_now_and_then(wait_until: Wait) -> None:
    """An address that changed is found without any error, and one that did not is kept."""
    clock, resolver = Clock(), Resolver(V4, OTHER_V4)
    lookup = Lookup("agent", 8125, ask=resolver, clock=clock)
    assert lookup.address(30) == V4
    clock.now += FRESH_SECONDS - 1
    lookup.address(0)
    assert resolver.asked == 1
    resolver.answer = [OTHER_V4, V4]
    clock.now += 2
    assert lookup.address(0) == V4
    wait_until(lambda: resolver.asked == 2)
    resolver.answer = [OTHER_V4]
    clock.now += FRESH_SECONDS + 1
    wait_until(lambda: lookup.address(0) == OTHER_V4)
    assert resolver.asked == 3


def test_a_name_that_led_nowhere_is_asked_for_soon(wait_until: Wait) -> None:
    """A refusal makes the answer stale."""
    clock, resolver = Clock(), Resolver(V4)
    lookup = Lookup("agent", 8125, ask=resolver, clock=clock)
    assert lookup.address(30) == V4
    lookup.led_nowhere()
    resolver.answer = [OTHER_V4]
    clock.now += AGAIN_SECONDS
    wait_until(lambda: lookup.address(0) == OTHER_V4)


def test_a_name_that_appears_late_is_found(wait_until: Wait) -> None:
    """While there is no address the reason is told; a later answer clears it."""
    clock, resolver = Clock(), Resolver(V4)
    resolver.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    lookup = Lookup("agent", 8125, ask=resolver, clock=clock)
    assert lookup.address(30) is None
    assert lookup.problem == "agent cannot be resolved: Name or service not known"
    resolver.error = None
    assert lookup.address(0) is None
    assert resolver.asked == 1
    clock.now += AGAIN_SECONDS
    wait_until(lambda: lookup.address(0) == V4)
    assert lookup.problem == ""


def test_an_address_is_kept_when_the_resolver_goes_away(wait_until: Wait) -> None:
    """What was right once is better than nothing."""
    clock, resolver = Clock(), Resolver(V4)
    lookup = Lookup("agent", 8125, ask=resolver, clock=clock)
    assert lookup.address(30) == V4
    resolver.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    clock.now += FRESH_SECONDS
    assert lookup.address(0) == V4
    wait_until(lambda: resolver.asked == 2)
    assert lookup.address(0) == V4
    assert lookup.problem == ""


def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    """One thread hangs, however often the address is wanted; its late answer is used."""
    resolver = Resolver(V4)
    resolver.go_on.clear()
    lookup = Lookup("agent", 8125, ask=resolver)
    assert [lookup.address(0.01) for _ in range(3)] == [None, None, None]
    assert resolver.asked == 1
    assert lookup.problem == ""
    resolver.go_on.set()
    assert lookup.address(30) == V4


@pytest.mark.parametrize("error", [UnicodeError("label empty or too long"), ValueError("embedded null"), OSError()])
def test_whatever_the_resolver_raises_becomes_a_reason(error: Exception) -> None:
    """Nothing is raised on the lookup's thread, where nobody would see it."""
    resolver = Resolver()
    resolver.error = error
    lookup = Lookup("agent", 8125, ask=resolver)
    assert lookup.address(30) is None
    assert lookup.problem.startswith("agent cannot be resolved: ")


def test_no_thread_to_be_had_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interpreter's end, or at the limit of threads, there is no lookup, and no exception."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    lookup = Lookup("agent", 8125, ask=Resolver(V4))
    assert lookup.address(30) is None
    assert "can't start new thread" in lookup.problem
