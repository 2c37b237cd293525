"""The thread between a points file and a sink."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.errors import SinkError
from mlops.recorder import Recorder
from mlops.sinks import MemorySink, Points
from mlops.sinks import feed as feed_module
from mlops.sinks.feed import Feed
from tests.sinks.helpers import RUN

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """A recorder that folds a hundred times a second."""
    recording = Recorder(tmp_path / "p.points", slots=4096, interval=0.01)
    yield recording
    recording.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink without news is called a hundred times a second."""
    monkeypatch.setattr(feed_module, "_IDLE_SECONDS", 0.01)


class Odd(MemorySink):
    """Does what it is told to before it takes points.

    Attributes:
        calls: how often it was called.
        empty: how often without points.
    """

    def __init__(self, before: Callable[[Points], object] = lambda _: None) -> None:
        super().__init__()
        self.before = before
        self.calls = self.empty = 0
        self.timeout = -1.0

    def write(self, points: Points) -> None:
        """Do it, then take them."""
        self.calls += 1
        self.empty += not len(points)
        self.before(points)
        super().write(points)

    def close(self, timeout: float) -> None:
        """Note how long it may take."""
        super().close(timeout)
        self.timeout = timeout


def test_a_sink_is_given_everything_in_order(recorder: Recorder) -> None:
    """What was recorded before the feed began, meanwhile and at the end arrives once each, in order."""
    recorder.log({"a": 0.0})
    sink = MemorySink()
    feed = Feed(sink, recorder.path, RUN, "memory")
    for number in range(1, 2000):
        recorder.log({"a": float(number)})
        feed.wake()
    recorder.close()
    assert feed.close(10)
    assert [point.value for point in sink.points] == [float(number) for number in range(2000)]
    assert {point.name for point in sink.points} == {"a"}
    assert sink.closed


def test_a_sink_is_called_without_news_too(recorder: Recorder, wait_until: Wait) -> None:
    """So that one which sends at intervals needs no thread."""
    sink = Odd()
    feed = Feed(sink, recorder.path, RUN, "odd")
    wait_until(lambda: sink.empty >= 5)
    assert feed.close(10)
    assert sink.points == []


def test_a_slow_sink_lags_and_loses_nothing(recorder: Recorder, wait_until: Wait) -> None:
    """While it is busy, points wait in the file; waking it blocks nobody."""
    go_on = threading.Event()
    sink = Odd(lambda _: go_on.wait())
    feed = Feed(sink, recorder.path, RUN, "slow")
    wait_until(lambda: sink.calls == 1)
    for number in range(1000):
        recorder.log({"a": float(number)})
        feed.wake()
    assert sink.calls == 1
    go_on.set()
    recorder.close()
    assert feed.close(10)
    assert len(sink.points) == 1000


def test_what_came_while_the_sink_was_busy_at_the_end_is_not_forgotten(recorder: Recorder, wait_until: Wait) -> None:
    """The file is read once more after the end was announced."""
    ending = threading.Event()
    sink = Odd(lambda _: ending.wait())
    feed = Feed(sink, recorder.path, RUN, "busy")
    wait_until(lambda: sink.calls == 1)
    recorder.log({"a": 1.0})
    recorder.close()
    closing = threading.Thread(target=feed.close, args=(10,))
    closing.start()
    wait_until(feed._ending.is_set)
    ending.set()
    closing.join()
    assert len(sink.points) == 1


def test_a_sink_that_raises_is_warned_of_once_and_its_points_are_counted(
    recorder: Recorder, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    """Later points are offered all the same, and the recording never notices."""
    broken = True

    def fail(points: Points) -> None:
        if broken and len(points):
            raise ZeroDivisionError("no way")

    sink = Odd(fail)
    feed = Feed(sink, recorder.path, RUN, "odd")
    for _ in range(3):
        dropped = sink.dropped
        recorder.log({"a": 1.0})
        wait_until(lambda dropped=dropped: sink.dropped > dropped)  # type: ignore[misc]
    broken = False
    recorder.log({"a": 2.0})
    wait_until(lambda: sink.sent == 1)
    assert feed.close(10)
    assert sink.dropped == 3
    assert [record.message for record in caplog.records] == [
        "odd failed: ZeroDivisionError: no way. 1 points were dropped for it; they are in the store."
    ]


def test_an_error_of_ours_is_told_in_its_own_words(
    recorder: Recorder, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that raises SinkError has said all there is to say."""

    def refuse(points: Points) -> None:
        if len(points):
            raise SinkError("It is full", remedy="Empty it.")

    sink = Odd(refuse)
    feed = Feed(sink, recorder.path, RUN, "odd")
    recorder.log({"a": 1.0})
    wait_until(lambda: sink.dropped == 1)
    feed.close(10)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "odd: It is full. Empty it.")
    ]


def test_a_sink_that_cannot_be_closed_is_warned_of(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """The end of a run outlives it."""

    class Stuck(MemorySink):
        def close(self, timeout: float) -> None:
            raise OSError("stuck")

    feed = Feed(Stuck(), recorder.path, RUN, "stuck")
    assert feed.close(10)
    assert "stuck failed: OSError: stuck" in caplog.text


def test_closing_waits_no_longer_than_it_may(recorder: Recorder, wait_until: Wait) -> None:
    """A sink that never comes back is left behind, and that is said."""
    go_on = threading.Event()
    sink = Odd(lambda _: go_on.wait())
    feed = Feed(sink, recorder.path, RUN, "hung")
    wait_until(lambda: sink.calls == 1)
    assert not feed.close(0.05)
    go_on.set()
    wait_until(lambda: sink.closed)
    assert sink.timeout == 0.0


def test_the_sink_is_told_what_time_is_left(recorder: Recorder) -> None:
    """Closing takes its share of the time, the sink gets the rest."""
    sink = Odd()
    assert Feed(sink, recorder.path, RUN, "odd").close(20.0)
    assert 0 < sink.timeout <= 20.0


def test_a_file_that_cannot_be_read_is_warned_of_and_read_later(
    recorder: Recorder, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    """A network file system that is away for a while costs nothing but time."""
    away = recorder.path.with_name("away")
    recorder.path.rename(away)
    sink = Odd()
    feed = Feed(sink, recorder.path, RUN, "odd")
    wait_until(lambda: caplog.records)
    recorder.log({"a": 1.0})
    wait_until(lambda: sink.empty >= 3)
    away.rename(recorder.path)
    wait_until(lambda: len(sink.points) == 1)
    assert feed.close(10)
    assert len(caplog.records) == 1
    assert "odd: Cannot read" in caplog.records[0].message
