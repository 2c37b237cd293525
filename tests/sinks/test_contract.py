"""What every sink keeps to, whatever it sends where. A new sink joins by one entry in ``CASES``."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest

from mlops.errors import SinkUnavailableError
from mlops.sinks import SCHEMES, DurableSink, Sink, open_sink
from tests.sinks.helpers import Table
from tests.testbed.datagrams import Listener, closed_port


@dataclass(frozen=True)
class Case:
    """How to come by one kind of sink.

    Attributes:
        alive: a context that gives the URL of a sink whose destination is there.
        dead: the same of one whose destination is not.
        needs: the fixture that a destination needs which is a service.
    """

    alive: Callable[[], Iterator[str]]
    dead: Callable[[], Iterator[str]]
    needs: str = ""


def _memory() -> Iterator[str]:
    yield "memory:"


def _statsd() -> Iterator[str]:
    with Listener() as listener:
        yield f"statsd://127.0.0.1:{listener.port}"


def _prometheus() -> Iterator[str]:
    yield "prometheus://127.0.0.1:0"


def _tensorboard() -> Iterator[str]:
    yield "tensorboard:logs"


def _monasca() -> Iterator[str]:
    yield "monasca://testbed"


def _memory_that_is_full() -> Iterator[str]:
    yield "memory:?limit=0"


def _statsd_without_agent() -> Iterator[str]:
    yield f"statsd://127.0.0.1:{closed_port()}"


def _prometheus_at_a_taken_port() -> Iterator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # it does not listen, so that whoever asks it who it is need not wait
        yield f"prometheus://127.0.0.1:{other.getsockname()[1]}"


def _tensorboard_in_no_folder() -> Iterator[str]:
    yield "tensorboard:/dev/null/logs"


def _monasca_that_is_away() -> Iterator[str]:
    auth = {"auth_url": f"http://127.0.0.1:{closed_port()}/v3", "username": "u", "password": "p", "project_name": "p"}
    with pytest.MonkeyPatch.context() as patched, tempfile.NamedTemporaryFile("w", suffix=".json") as clouds:
        json.dump({"clouds": {"away": {"auth": auth}}}, clouds)
        clouds.flush()
        patched.setenv("OS_CLIENT_CONFIG_FILE", clouds.name)
        yield "monasca://away"


CASES = {
    "memory": Case(_memory, _memory_that_is_full),
    "monasca": Case(_monasca, _monasca_that_is_away, needs="monasca"),
    "prometheus": Case(_prometheus, _prometheus_at_a_taken_port),
    "statsd": Case(_statsd, _statsd_without_agent),
    "tensorboard": Case(_tensorboard, _tensorboard_in_no_folder),
}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if CASES[name].needs else []) for name in sorted(CASES)]
)
def case(request: pytest.FixtureRequest) -> Case:
    """Each kind of sink."""
    return CASES[request.param]


@pytest.fixture
def alive(case: Case, request: pytest.FixtureRequest) -> Iterator[Sink]:
    """A sink whose destination is there."""
    if case.needs:
        request.getfixturevalue(case.needs)
    with contextmanager(case.alive)() as url:
        sink = open_sink(url)
        yield sink
        sink.close(1.0)


@pytest.fixture
def dead(case: Case) -> Iterator[Sink]:
    """A sink whose destination is not there."""
    with contextmanager(case.dead)() as url:
        sink = open_sink(url)
        yield sink
        sink.close(1.0)


def test_every_scheme_is_held_to_the_contract() -> None:
    """No sink of ours is left out of this file."""
    assert set(CASES) == set(SCHEMES)


def test_points_are_taken_and_counted(alive: Sink) -> None:
    """After the end, every point was sent."""
    table = Table()
    alive.write(table.points(("train.loss", 0.5), ("train.loss", 0.25), ("train.lr", 0.1)))
    alive.write(table.points(("train.loss", 0.125)))
    alive.close(10.0)
    assert (alive.sent, alive.dropped) == (4, 0)


def test_no_points_are_taken_too(alive: Sink) -> None:
    """A sink is called about twice a second without news."""
    for _ in range(3):
        alive.write(Table().points())
    alive.close(10.0)
    assert (alive.sent, alive.dropped) == (0, 0)


def test_values_that_are_no_numbers_do_no_harm(alive: Sink) -> None:
    """Values that are nan or infinite are taken, and every point is counted once."""
    values = (float("nan"), 1.0, float("inf"), 2.0, float("-inf"))
    alive.write(Table().points(*(("train.loss", value) for value in values)))
    alive.close(10.0)
    assert alive.sent + alive.dropped == len(values)
    assert alive.sent >= 2


def test_values_of_any_size_do_no_harm(alive: Sink) -> None:
    """The largest and the smallest floats are taken, and neither is a warning."""
    values = (1.7976931348623157e308, 1.7976931348623157e308, -1.7976931348623157e308, 5e-324, -0.0)
    alive.write(Table().points(*(("train.loss", value) for value in values)))
    alive.close(10.0)
    assert alive.sent == len(values)


def test_many_series_are_taken(alive: Sink) -> None:
    """Five hundred series at once are sent like one."""
    alive.write(Table().points(*((f"layer.{number}.norm", float(number)) for number in range(500))))
    alive.close(30.0)
    assert (alive.sent, alive.dropped) == (500, 0)


def test_closing_twice_is_closing_once(alive: Sink) -> None:
    """A second call does nothing and counts nothing."""
    alive.write(Table().points(("train.loss", 0.5)))
    alive.close(10.0)
    alive.close(10.0)
    assert (alive.sent, alive.dropped) == (1, 0)


@pytest.mark.filterwarnings("error")
def test_a_dead_destination_neither_raises_nor_hangs(dead: Sink) -> None:
    """Writing and closing return, and every point is counted as dropped; a durable sink gives them back instead."""
    table = Table()
    durable = isinstance(dead, DurableSink)
    for number in range(5):
        with pytest.raises(SinkUnavailableError) if durable else nullcontext():
            dead.write(table.points(("train.loss", float(number))))
    closing = threading.Thread(target=dead.close, args=(0.5,), daemon=True)
    closing.start()
    closing.join(30.0)
    assert not closing.is_alive()
    assert (dead.sent, dead.dropped) == (0, 0 if durable else 5)


def test_a_timeout_of_nothing_still_counts_every_point(alive: Sink) -> None:
    """What there was no time for is dropped, not forgotten."""
    alive.write(Table().points(*((f"layer.{number}.norm", float(number)) for number in range(1000))))
    alive.close(0.0)
    assert alive.sent + alive.dropped == 1000
