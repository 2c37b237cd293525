"""What the thread that feeds a durable sink says, how long it waits, and where it sends whoever reads it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.errors import AuthorisationError, MlopsError, SinkUnavailableError
from mlops.sinks import Points, RunIdentity
from mlops.sinks.feed import DurableFeed, Feed, begin
from tests.sinks.durable import Ledger, WrittenRun

Wait = Callable[[Callable[[], object]], None]
Begin = Callable[..., Feed]

URL = "ledger://my cloud"


@pytest.fixture
def run(runs_dir: Path) -> WrittenRun:
    """A run of ten points."""
    written = WrittenRun(runs_dir)
    written.whole([[(0, number * 0.01, float(number)) for number in range(10)]])
    return written


@pytest.fixture
def feed(run: WrittenRun) -> Iterator[Begin]:
    """Feeds a sink from that run."""
    begun: list[Feed] = []

    def start(sink: Ledger, label: str = f"{URL}?interval=0.1") -> Feed:
        sink.interval = 0.01
        (path,) = run.folder.points_files()
        begun.append(begin(sink, path, RunIdentity(run.folder.id, "digits", {}, "node-1", None), label))
        return begun[-1]

    yield start
    for one in begun:
        one.close(5.0)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings."""
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_that_it_is_away_and_that_it_is_back_are_each_said_once(
    feed: Begin, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """Who reads the one must not have to wonder about the other."""
    sink = Ledger(most=5)
    sink.away(1)
    sink.trouble += [None, SinkUnavailableError("It is away again")]
    feed(sink)
    wait_until(lambda: len(sink.points) == 10)
    wait_until(lambda: len(said(caplog)) == 2)
    assert "takes nothing: It is away. Training goes on; every point is in the store" in said(caplog)[0]
    assert said(caplog)[1].endswith("takes points again.")


@pytest.mark.parametrize("error", [AuthorisationError("Not you"), MlopsError("No endpoint")])
def test_the_end_does_not_wait_for_what_waiting_does_not_mend(
    feed: Begin, run: WrittenRun, caplog: pytest.LogCaptureFixture, error: MlopsError, wait_until: Wait
) -> None:
    """It is over with the next answer; the reason is repeated, with the command that sends the rest to that place."""
    sink = Ledger()
    sink.trouble = [error] * 100
    feeding = feed(sink)
    wait_until(lambda: said(caplog))
    began = time.monotonic()
    assert feeding.close(60.0)
    assert time.monotonic() - began < 50.0  # it was not the deadline that ended it
    assert said(caplog)[-1].endswith(
        f"not all points of {run.folder.id} had been sent when the run ended: {error.what}. "
        f"Send the rest with: mlops upload {run.folder.id} --to 'ledger://my cloud'"
    )


def test_the_end_waits_for_one_that_is_away(feed: Begin, wait_until: Wait) -> None:
    """As long as it may: it may be back in time."""
    sink = Ledger()
    sink.away(2)
    feeding = feed(sink)
    wait_until(lambda: sink.calls)
    assert feeding.close(30.0)
    assert len(sink.points) == 10


def test_one_that_is_late_says_so_once(feed: Begin, run: WrittenRun, caplog: pytest.LogCaptureFixture) -> None:
    """With what is to be done; what has no URL is not named as one."""

    class Hanging(Ledger):
        let_go = threading.Event()
        entered = threading.Event()

        def write(self, points: Points) -> None:
            self.entered.set()
            assert self.let_go.wait(30)
            raise SinkUnavailableError("It is away")

    sink = Hanging()
    feeding = feed(sink, "Hanging")
    assert sink.entered.wait(10)
    assert not feeding.close(0.05)
    assert isinstance(feeding, DurableFeed)
    assert feeding.late() == (
        f"Hanging: not all points of {run.folder.id} had been sent when the run ended. "
        f"Send the rest with: mlops upload {run.folder.id}"
    )
    sink.let_go.set()
    assert feeding.close(10.0)
    assert [text for text in said(caplog) if "not all points" in text] == []
