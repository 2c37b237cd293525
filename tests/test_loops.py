"""Epochs and loaders of a loop of one's own."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import mlops
from mlops.loops import Watched
from mlops.record import read_run
from mlops.report.tables import epochs
from mlops.store import RunFolder


@pytest.fixture
def told() -> list[tuple[float, float]]:
    """What a watched loader told."""
    return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test moves on."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_waiting_is_told_from_working(told: list[tuple[float, float]], clock: list[float]) -> None:
    """Two seconds for each batch to come, half a second for each to be used: told once a second, as means."""

    def slow() -> Iterator[int]:
        for batch in range(3):
            clock[0] += 2.0
            yield batch

    seen = []
    for batch in Watched(slow(), lambda wait, work: told.append((wait, work))):
        clock[0] += 0.5
        seen.append(batch)
    assert seen == [0, 1, 2]
    assert told == [(2.0, 0.5)] * 3


def test_a_short_loop_is_told_of_at_its_end(told: list[tuple[float, float]], clock: list[float]) -> None:
    """Means over its batches; one that was left early counts those that were finished."""
    for batch in Watched(range(10), lambda wait, work: told.append((wait, work))):
        clock[0] += 0.125
        if batch == 3:
            break
    assert told == [(0.0, 0.125)]
    list(Watched([], lambda wait, work: told.append((wait, work))))
    assert len(told) == 1


def test_a_watched_loader_is_as_its_loader() -> None:
    """Length, attributes, several iterations, copies and pickles; what has no length says so."""
    watched = Watched([3, 1, 2], print)
    assert len(watched) == 3
    assert watched.index(1) == 1
    assert [*watched] == [*watched] == [3, 1, 2]
    assert [*copy.deepcopy(watched)] == [3, 1, 2]
    assert [*pickle.loads(pickle.dumps(watched))] == [3, 1, 2]  # noqa: S301 - our own
    with pytest.raises(TypeError, match="has no len"):
        len(Watched(iter([1]), print))
    with pytest.raises(AttributeError, match="sampler"):
        _ = watched.sampler


def test_errors_of_the_loader_and_of_the_loop_come_through() -> None:
    """Nothing is held back, whichever side raises."""

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(Watched(broken(), lambda _wait, _work: None))
    told: list[float] = []
    with pytest.raises(ZeroDivisionError):
        _divide(Watched([1, 0], lambda _wait, work: told.append(work)))
    assert len(told) == 1


def _divide(numbers: Iterable[int]) -> list[float]:
    return [1 / number for number in numbers]


def _fail(run: mlops.Run) -> None:
    with run.epoch():
        run.log({"train.loss": 9.0})
        raise RuntimeError("out of memory")


def test_a_loop_of_ones_own_has_a_table_of_epochs(runs_dir: Path) -> None:
    """Two epochs and one that failed: two rows, with what was found out about each and the time that data took."""
    with mlops.Run("own", sinks=[], devices=[], runs_dir=runs_dir) as run:
        for number in (1, 2):
            with run.epoch() as epoch:
                for batch in run.watch([0.5, 0.25]):
                    run.log({"train.loss": batch / number})
                epoch.log({"valid.loss": 1.0})
                epoch.log({"valid.loss": 0.5 / number, "valid.accuracy": 0.9})
            assert epoch.number == number
        with pytest.raises(RuntimeError):
            _fail(run)
    record = read_run(RunFolder(run.dir))
    rows = epochs(record).rows
    assert [(row.epoch, row.batches, row.train_loss, row.valid_loss) for row in rows] == [
        (1, 2, 0.375, 0.5),
        (2, 2, 0.1875, 0.25),
    ]
    assert all(row.metrics == {"accuracy": 0.9} and row.seconds is not None for row in rows)
    for name in ("train.data_wait_seconds", "train.batch_seconds"):
        ((_, columns),) = record.find(name)
        assert len(columns) == 2
        assert (columns.value >= 0).all()
